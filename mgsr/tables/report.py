"""Cells files in; one self-contained HTML page out: tables, claims, open checks, curves, warnings. It loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mgsr.errors import MgsrError
from mgsr.storage import read_json, write_text
from mgsr.tables import claims
from mgsr.tables.checks.check import Check
from mgsr.tables.figures import BAND, CURVES, bar_chart, courses, data_uri, hit_positions
from mgsr.tables.open_checks import CHECKS, build_check
from mgsr.tables.registry import DOCUMENTS
from mgsr.tables.render import MISSING, Bold, Document, number
from mgsr.tables.results import Cell, Cells, Group, parse_cells
from mgsr.tables.scores import headings

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
{% for check in checks %}<a href="#{{ check.name }}">{{ check.title.split(" (")[0] }}</a>{% endfor %}
<a href="#bars">Bar chart</a><a href="#curves">Learning curves</a>{% if bands %}<a href="#bands">DAC-KL's band</a>{% endif %}
{% if hits %}<a href="#hits">SCRG's corrections</a>{% endif %}<a href="#heldout">Held-out KL</a>
<a href="#warnings">Warnings</a><a href="#runs">Runs</a></nav>
{% macro grid(header, rows, text_last=false) %}
<div class="wide"><table><thead><tr>{% for cell in header %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}
<tr>{% for cell in row -%}
<td{% if text_last and loop.last %} class="text"{% endif %}>{{ cell | emphasised }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endmacro %}
{% macro page(d) %}
{% for block in d.blocks if block.rows %}<h3>{{ block.heading }}</h3>{{ grid(block.header, block.rows) }}{% endfor %}
<ul>{% for line in d.notes %}<li>{{ line }}</li>{% endfor %}</ul>
{% if d.checks %}<h3>Checks</h3><ul>{% for line in d.checks %}<li>{{ line }}</li>{% endfor %}</ul>{% endif %}
{% endmacro %}
{% macro figures(images, label) %}
{% for family, image in images %}<h3>{{ family }}</h3><img alt="{{ label }}, {{ family }}" src="{{ image }}">{% endfor %}
{% endmacro %}
{% for d in documents %}
<section id="table-{{ loop.index }}"><h2>{{ d.title }}</h2>{{ page(d) }}</section>
{% endfor %}
{% for check in checks %}
<section id="{{ check.name }}"><h2>{{ check.title }}</h2><p>{{ check.sentences | join(" ") }}</p>
<img alt="{{ check.title }}" src="{{ check.figure | image }}">{{ page(check.document) }}</section>
{% endfor %}
<section id="bars"><h2>ROUGE-L by set (protocol {{ protocol }}; bars: deviation over decoding seeds)</h2>
{{ figures(bars, "Bar chart of ROUGE-L") }}</section>
<section id="curves"><h2>Learning curves</h2>
<p>One line a training seed. Objectives differ, so training losses of different methods are not comparable.</p>
{{ figures(curves, "Learning curves") }}</section>
{% if bands %}<section id="bands"><h2>The course of DAC-KL's band</h2>
<p>Means over the positions of each logged step that distilled: kept classes, kept teacher mass, and log u - log l.</p>
{{ figures(bands, "Course of the band") }}</section>{% endif %}
{% if hits %}<section id="hits"><h2>Where SCRG corrected</h2>
<p>Corrections of the logged steps, one line a run; positions count from 0.</p>
{{ figures(hits, "Positions of corrections") }}</section>{% endif %}
<section id="heldout"><h2>Divergence from the teacher on held-out Dolly rows (nats a token)</h2>
{{ grid(["family", "method", "forward KL", "reverse KL", "forward KL − SFT"], heldout) }}</section>
<section id="warnings"><h2>Warnings</h2>
{% if warnings %}{{ grid(["family", "method", "training seed", "warning", "message"], warnings, true) }}
{% else %}<p>No run has a warning.</p>{% endif %}</section>
<section id="runs"><h2>Runs</h2>
{{ grid(["family", "method", "training seed", "run", "parameters", "device", "threads", "commit", "learning rate", "kept step",
"training s",
"evaluation s"], runs) }}</section>
</body>
</html>
"""


BAND_KEY = "band/kept_classes"


def _heldout_rows(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    base = {group.family: group.heldout("forward_kl") for group in groups if group.method == "sft"}
    rows: list[tuple[str, ...]] = []
    for group in groups:
        forward, sft = group.heldout("forward_kl"), base.get(group.family)
        change = None if forward is None or sft is None else forward - sft
        rows.append((group.family, group.title, number(forward, 4), number(group.heldout("reverse_kl"), 4), number(change, 4)))
    return rows


def _has_band(group: Group) -> bool:
    return any(BAND_KEY in line for cell in group.cells for line in cell.metrics())


def scrg_hits(groups: Sequence[Group]) -> dict[str, list[tuple[int, int]]]:
    """By run, (position, response length) of each correction in the logged steps; runs without one are left out."""
    found = {}
    for group in groups:
        for cell in group.cells:
            hits = [(int(at), int(length)) for line in cell.metrics() for at, length in line.get("scrg_hits") or ()]
            if hits:
                found[f"{group.title}, seed {cell.seed}"] = hits
    return found


def _warning_rows(runs: Sequence[tuple[Group, Cell]]) -> list[tuple[str, ...]]:
    return [
        (group.family, group.title, str(cell.seed), warning["name"], warning["message"])
        for group, cell in runs
        for warning in cell.card["warnings"]
    ]


@dataclass(frozen=True)
class Parts:
    """What a report shows: tables with runs, the documents of all tables and of the claims, open checks."""

    tables: tuple[Cells, ...]
    claims: tuple[Document, ...]
    checks: tuple[Check, ...]
    check_cells: tuple[Cells, ...]


def read_parts(paths: Sequence[Path]) -> Parts:
    """Sort cells files by what they are for."""
    tables, judged, checks = [], [], []
    for path in paths:
        value = read_json(path)
        name = value.get("table") if isinstance(value, dict) else None
        if name == "claims":
            judged.append(claims.document(value, path))
        elif name in CHECKS:
            checks.append(parse_cells(value, path))
        elif name in DOCUMENTS:
            tables.append(parse_cells(value, path))
        else:
            known = ", ".join((*DOCUMENTS, "claims", *CHECKS))
            raise MgsrError(f"{path} is for {name}; a report shows {known}")
    if not tables:
        raise MgsrError(f"a report needs the cells of a table, got none; tables are {', '.join(DOCUMENTS)}")
    return Parts(tuple(tables), tuple(judged), tuple(build_check(cells) for cells in checks), tuple(checks))


def build_report(parts: Parts) -> str:
    """The page. Charts and lists cover every run of any table once; warnings and the list of runs those of the checks too."""
    first = parts.tables[0]
    groups = _groups(parts.tables)
    by_family = {family: [g for g in groups if g.family == family] for family in dict.fromkeys(g.family for g in groups)}
    main = {family: [g for g in first.groups if g.family == family] for family in first.families}
    charted = _charted(parts.tables)
    bands = {label: [g for g in part if _has_band(g)] for label, part in charted.items()}
    hits = {family: scrg_hits(part) for family, part in by_family.items()}
    runs = [(group, cell) for group in _groups((*parts.tables, *parts.check_cells)) for cell in group.cells]
    values: dict[str, Any] = {
        "heading": headings(first, "results"),
        "note": first.note.strip(),
        "documents": [*(DOCUMENTS[cells.table](cells) for cells in parts.tables), *parts.claims],
        "checks": parts.checks,
        "protocol": first.protocols[0],
        "bars": [(family, data_uri(bar_chart(part, first.sets, first.protocols[0]))) for family, part in main.items()],
        "curves": [(label, data_uri(courses(part, CURVES))) for label, part in charted.items()],
        "bands": [(label, data_uri(courses(part, BAND))) for label, part in bands.items() if part],
        "hits": [(family, data_uri(hit_positions(found))) for family, found in hits.items() if found],
        "heldout": _heldout_rows(groups),
        "warnings": _warning_rows(runs),
        "runs": [
            (group.family, group.title, cell.seed, cell.run, f"{cell.card['parameters']:,}", cell.card["device"],
             cell.card["threads"], (cell.card["commit"] or MISSING)[:12],
             f"{cell.card['learning_rate'] or MISSING}", cell.card["best_step"],
             number(cell.card["timings"]["total"], 1), number(cell.summary["timings"]["total"], 1))
            for group, cell in runs
        ],
    }  # fmt: skip
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["emphasised"] = lambda cell: Markup("<b>{}</b>").format(cell) if isinstance(cell, Bold) else cell
    environment.filters["image"] = data_uri
    return environment.from_string(TEMPLATE).render(values)


def _charted(tables: Sequence[Cells]) -> dict[str, list[Group]]:
    """The methods whose courses one figure shows: a table's, for each family. All in one could not be told apart. Tables of
    methods that earlier ones have all shown get none."""
    found: dict[str, list[Group]] = {}
    shown: set[tuple[str, str]] = set()
    for cells in tables:
        for family in cells.families:
            groups = [group for group in cells.groups if group.family == family]
            names = {(family, group.method) for group in groups}
            if not names <= shown:
                found[f"{cells.table.replace('table', 'Table ')}, {family}"] = groups
                shown |= names
    return found


def _groups(tables: Sequence[Cells]) -> list[Group]:
    """Every method of any of these once, in their order; the first table's titles win."""
    found: dict[tuple[str, str], Group] = {}
    for cells in tables:
        for group in cells.groups:
            found.setdefault((group.family, group.method), group)
    return list(found.values())


def write(cells_paths: Sequence[Path], out: Path) -> None:
    """The page of some tables, claims and open checks; the first table is the main one, whose sets and methods the bar chart
    shows."""
    write_text(out, build_report(read_parts(cells_paths)))
