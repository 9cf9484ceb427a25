"""Cells files in; one self-contained HTML page out: tables, learning curves, bar charts, warnings. It loads nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from mgsr.errors import MgsrError
from mgsr.storage import write_text
from mgsr.tables.cells import AVERAGE, Cells, Group, load_cells
from mgsr.tables.registry import DOCUMENTS
from mgsr.tables.render import MISSING, number
from mgsr.tables.scores import SET_TITLES, headings

CURVES = (
    ("validation", "rouge_l", "validation ROUGE-L"),
    ("validation", "loss", "validation loss"),
    ("train", "loss", "training loss"),
)
GREY = "#808080"  # read on light and on dark ground
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d31")  # told apart by colour-blind readers
LINES = ("-", "--", ":")

STYLE: Any = {
    "svg.fonttype": "path", "svg.hashsalt": "mgsr", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), GREY),
}  # fmt: skip

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>MGSR report: {{ heading }}</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } h3 { font-size: 1rem; }
.note { border-left: 4px solid #d08700; background: var(--soft); padding: .6rem 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td { white-space: nowrap; } td.text { white-space: normal; }
tbody tr:hover { background: var(--soft); }
li { font-size: .87rem; } img { max-width: 100%; } nav a { margin-right: 1rem; }
</style>
</head>
<body>
<h1>MGSR report: {{ heading }}</h1>
{% if note %}<p class="note">{{ note }}</p>{% endif %}
<nav>{% for d in documents %}<a href="#table-{{ loop.index }}">{{ d.title.split(" (")[0] }}</a>{% endfor %}
<a href="#bars">Bar chart</a><a href="#curves">Learning curves</a><a href="#heldout">Held-out KL</a>
<a href="#warnings">Warnings</a><a href="#runs">Runs</a></nav>
{% macro grid(header, rows, text_last=false) %}
<div class="wide"><table><thead><tr>{% for cell in header %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}
<tr>{% for cell in row -%}
<td{% if text_last and loop.last %} class="text"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endmacro %}
{% for d in documents %}
<section id="table-{{ loop.index }}"><h2>{{ d.title }}</h2>
{% for block in d.blocks %}<h3>{{ block.heading }}</h3>{{ grid(block.header, block.rows) }}{% endfor %}
<ul>{% for line in d.notes %}<li>{{ line }}</li>{% endfor %}</ul>
{% if d.checks %}<h3>Checks</h3><ul>{% for line in d.checks %}<li>{{ line }}</li>{% endfor %}</ul>{% endif %}
</section>
{% endfor %}
<section id="bars"><h2>ROUGE-L by set (protocol {{ protocol }}; bars: deviation over decoding seeds)</h2>
{% for family, image in bars %}<h3>{{ family }}</h3><img alt="Bar chart of ROUGE-L, {{ family }}" src="{{ image }}">{% endfor %}
</section>
<section id="curves"><h2>Learning curves</h2>
<p>One line a training seed. Objectives differ, so training losses of different methods are not comparable.</p>
{% for family, image in curves %}<h3>{{ family }}</h3><img alt="Learning curves, {{ family }}" src="{{ image }}">{% endfor %}
</section>
<section id="heldout"><h2>Divergence from the teacher on held-out Dolly rows (nats a token)</h2>
{{ grid(["family", "method", "forward KL", "reverse KL", "forward KL − SFT"], heldout) }}</section>
<section id="warnings"><h2>Warnings</h2>
{% if warnings %}{{ grid(["family", "method", "training seed", "warning", "message"], warnings, true) }}
{% else %}<p>No run has a warning.</p>{% endif %}</section>
<section id="runs"><h2>Runs</h2>
{{ grid(["family", "method", "training seed", "run", "parameters", "device", "threads", "commit", "kept step", "training s",
"evaluation s"], runs) }}</section>
</body>
</html>
"""


def _image(figure: Figure) -> str:
    """An SVG as a data URI, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _looks(groups: Sequence[Group]) -> list[tuple[Group, str, str]]:
    """Each group with a colour and a line style that no other has."""
    pairs = [(colour, line) for line in LINES for colour in COLOURS]
    return [(group, *look) for group, look in zip(groups, islice(cycle(pairs), len(groups)), strict=True)]


def learning_curves(groups: Sequence[Group]) -> str:
    """Validation ROUGE-L, validation loss and training loss over optimiser steps."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        panels = figure.subplots(1, len(CURVES))
        for group, colour, line in _looks(groups):
            for cell in group.cells:
                metrics = cell.metrics()
                for panel, (kind, name, _) in zip(panels, CURVES, strict=True):
                    points = [(m["step"], m[name]) for m in metrics if m["kind"] == kind and m.get(name) is not None]
                    label = group.title if cell is group.cells[0] else None
                    panel.plot(*np.array(points).reshape(-1, 2).T, color=colour, linestyle=line, marker=".", markersize=3,
                               linewidth=1.2, label=label)  # fmt: skip
        for panel, (_, _, title) in zip(panels, CURVES, strict=True):
            panel.set(title=title, xlabel="optimiser step")
            panel.grid(alpha=0.25)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        return _image(figure)


def bar_chart(groups: Sequence[Group], sets: Sequence[str], protocol: str) -> str:
    """ROUGE-L by set; error bars are deviations over decoding seeds."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.8), layout="constrained")
        panel = figure.subplots()
        names, width = [*sets, AVERAGE], 0.84 / len(groups)
        for place, (group, colour, line) in enumerate(_looks(groups)):
            spreads = group.spreads(sets, protocol)
            positions = np.arange(len(names)) + (place - (len(groups) - 1) / 2) * width
            panel.bar(positions, [spreads[name].mean for name in names], width, color=colour, label=group.title,
                      hatch={"-": None, "--": "///", ":": "..."}[line], edgecolor="white", linewidth=0.3, ecolor=GREY,
                      yerr=[spreads[name].decoding or 0.0 for name in names], error_kw={"elinewidth": 0.8})  # fmt: skip
        panel.set_xticks(np.arange(len(names)), [SET_TITLES.get(name, name) for name in names])
        panel.set_ylabel("ROUGE-L")
        panel.grid(axis="y", alpha=0.25)
        figure.legend(loc="outside lower center", ncols=5, frameon=False)
        return _image(figure)


def _heldout_rows(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    base = {group.family: group.heldout("forward_kl") for group in groups if group.method == "sft"}
    rows: list[tuple[str, ...]] = []
    for group in groups:
        forward, sft = group.heldout("forward_kl"), base.get(group.family)
        change = None if forward is None or sft is None else forward - sft
        rows.append((group.family, group.title, number(forward, 4), number(group.heldout("reverse_kl"), 4), number(change, 4)))
    return rows


def build_report(tables: Sequence[Cells]) -> str:
    """The page. Charts and lists cover every run of any table once."""
    first = tables[0]
    groups = list({(g.family, g.method): g for cells in reversed(tables) for g in reversed(cells.groups)}.values())[::-1]
    by_family = {family: [g for g in groups if g.family == family] for family in dict.fromkeys(g.family for g in groups)}
    main = {family: [g for g in first.groups if g.family == family] for family in first.families}
    runs = [(group, cell) for group in groups for cell in group.cells]
    values: dict[str, Any] = {
        "heading": headings(first, "results"),
        "note": first.note.strip(),
        "documents": [DOCUMENTS[cells.table](cells) for cells in tables],
        "protocol": first.protocols[0],
        "bars": [(family, bar_chart(part, first.sets, first.protocols[0])) for family, part in main.items()],
        "curves": [(family, learning_curves(part)) for family, part in by_family.items()],
        "heldout": _heldout_rows(groups),
        "warnings": [
            (group.family, group.title, cell.seed, warning["name"], warning["message"])
            for group, cell in runs
            for warning in cell.card["warnings"]
        ],
        "runs": [
            (group.family, group.title, cell.seed, cell.run, f"{cell.card['parameters']:,}", cell.card["device"],
             cell.card["threads"], (cell.card["commit"] or MISSING)[:12], cell.card["best_step"],
             number(cell.card["timings"]["total"], 1), number(cell.summary["timings"]["total"], 1))
            for group, cell in runs
        ],
    }  # fmt: skip
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(TEMPLATE).render(values)


def write(cells_paths: Sequence[Path], out: Path) -> None:
    """The page of some tables; the first is the main one, whose sets and methods the bar chart shows."""
    tables = [load_cells(path) for path in cells_paths]
    unknown = [cells.table for cells in tables if cells.table not in DOCUMENTS]
    if unknown or not tables:
        raise MgsrError(f"a report needs cells of {', '.join(DOCUMENTS)}, got {', '.join(unknown) or 'none'}")
    write_text(out, build_report(tables))
