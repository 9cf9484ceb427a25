"""Numbers in; SVG text out, the same bytes for the same numbers."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mgsr.config.table_entries import AVERAGE
from mgsr.tables.render import metric_title
from mgsr.tables.results import MethodResult, TableResults

CURVES = (
    ("validation", "rouge_l", "validation ROUGE-L"),
    ("validation", "loss", "validation loss"),
    ("train", "loss", "training loss"),
)
BAND = (
    ("train", "band/kept_classes", "kept classes"),
    ("train", "band/kept_mass", "kept teacher mass"),
    ("train", "band/log_width", "log width of the band"),
)
GREY = "#808080"  # read on light and on dark ground
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d31")  # told apart by colour-blind readers
LINES = ("-", "--", ":")
HITS_BINS = 10

STYLE: Any = {
    "svg.fonttype": "path", "svg.hashsalt": "mgsr", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), GREY),
}  # fmt: skip


def _figure(height: float, width: float = 11) -> Figure:
    """An empty figure of that size (inches)."""
    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure, legend: Axes | None) -> str:
    """The figure as text, with a legend of what the panel `legend` shows."""
    if legend:
        figure.legend(*legend.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode("utf-8")).decode()


def looks(count: int) -> Iterator[tuple[str, str]]:
    """Colours and line styles; the first 21 pairs are all different."""
    return islice(cycle((colour, line) for line in LINES for colour in COLOURS), count)


@matplotlib.rc_context(STYLE)
def courses(methods: Sequence[MethodResult], panels: Sequence[tuple[str, str, str]]) -> str:
    """Values of metrics.jsonl over optimiser steps: one panel for each (kind, key, title), one line for each run, one colour
    for each method."""
    figure = _figure(3.4)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for method, (colour, line) in zip(methods, looks(len(methods)), strict=True):
        for run in method.runs:
            metrics = run.metrics()
            for panel, (kind, name, _) in zip(axes, panels, strict=True):
                points = [(m["step"], m[name]) for m in metrics if m["kind"] == kind and m.get(name) is not None]
                label = method.title if run is method.runs[0] else None
                panel.plot(*np.array(points).reshape(-1, 2).T, color=colour, linestyle=line, marker=".", markersize=3,
                           linewidth=1.2, label=label)  # fmt: skip
    for panel, (_, _, title) in zip(axes, panels, strict=True):
        panel.set(title=title, xlabel="optimiser step")
        panel.grid(alpha=0.25)
    return _svg(figure, axes[0])


@matplotlib.rc_context(STYLE)
def bar_chart(methods: Sequence[MethodResult], results: TableResults, metric: str) -> str:
    """Scores by set under the first protocol; error bars are deviations over decoding seeds."""
    figure = _figure(3.8)
    panel = figure.subplots()
    titles, width = results.titles((*results.sets, AVERAGE)), 0.84 / len(methods)
    for place, (method, (colour, line)) in enumerate(zip(methods, looks(len(methods)), strict=True)):
        spreads = method.spreads(metric, results.sets, results.protocols[0])
        positions = np.arange(len(titles)) + (place - (len(methods) - 1) / 2) * width
        panel.bar(positions, [spreads[name].mean for name in titles], width, color=colour, label=method.title,
                  hatch={"-": None, "--": "///", ":": "..."}[line], edgecolor="white", linewidth=0.3, ecolor=GREY,
                  yerr=[spreads[name].decoding or 0.0 for name in titles], error_kw={"elinewidth": 0.8})  # fmt: skip
    panel.set_xticks(np.arange(len(titles)), list(titles.values()))
    panel.set_ylabel(metric_title(metric))
    panel.grid(axis="y", alpha=0.25)
    return _svg(figure, panel)


@matplotlib.rc_context(STYLE)
def hit_positions(hits: Mapping[str, Sequence[tuple[int, int]]]) -> str:
    """Histograms of where SCRG corrected, by run: of position / response length, and of the position itself."""
    longest = max((length for places in hits.values() for _, length in places), default=1)
    edges = (np.linspace(0, 1, HITS_BINS + 1), np.linspace(0, longest, HITS_BINS + 1))
    figure = _figure(3.4)
    panels = figure.subplots(1, 2)
    for (label, places), (colour, line) in zip(hits.items(), looks(len(hits)), strict=True):
        table = np.array(places, dtype=np.float64)
        for panel, values, bins in zip(panels, (table[:, 0] / table[:, 1], table[:, 0]), edges, strict=True):
            counts, _ = np.histogram(values, bins)
            panel.stairs(counts / len(table), bins, color=colour, linestyle=line, label=label)
    panels[0].set(title="position / response length", ylabel="share of corrections")
    panels[1].set(title="position (token)")
    for panel in panels:
        panel.grid(alpha=0.25)
    return _svg(figure, panels[0])


@matplotlib.rc_context(STYLE)
def forest(
    series: Mapping[str, Mapping[str, tuple[float, float | None, float | None]]], label: str, *, reference: float | None = 0.0
) -> str:
    """Values (value, low, high) with their bounds: one line for each name, one colour for each series. A dotted line across
    is an interval with an open end."""
    names = list(dict.fromkeys(name for values in series.values() for name in values))
    figure = _figure(1.2 + (0.18 + 0.12 * len(series)) * max(len(names), 1), width=9)
    panel = figure.subplots()
    for place, ((title, values), (colour, _)) in enumerate(zip(series.items(), looks(len(series)), strict=True)):
        shift = 0.6 * ((place + 0.5) / len(series) - 0.5)
        for number, (name, (value, low, high)) in enumerate(values.items()):
            height = names.index(name) + shift
            panel.plot(value, height, marker="o", markersize=4, color=colour, linestyle="", label=None if number else title)
            if low is None or high is None:
                continue
            if math.isfinite(high - low):
                panel.plot([low, high], [height, height], color=colour, linewidth=1.2)
            else:  # too few prompts for an interval
                panel.axhline(height, color=colour, linewidth=0.8, linestyle=":")
    if reference is not None:
        panel.axvline(reference, color=GREY, linewidth=0.8)
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.set_xlabel(label)
    panel.grid(axis="x", alpha=0.25)
    return _svg(figure, panel if len(series) > 1 else None)
