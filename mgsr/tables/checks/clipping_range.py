"""Fixed ranges, ranks and masses against the learned band: final score by test set, and how soon training converges."""

from __future__ import annotations

from typing import Any

import numpy as np

from mgsr.tables import figures
from mgsr.tables.checks.check import (
    REFERENCE,
    TIES,
    UNDECIDED,
    Check,
    Difference,
    Line,
    against_mgsr,
    by_method,
    capital,
    count_text,
    difference_block,
    forest_series,
)
from mgsr.tables.render import Block, number
from mgsr.tables.results import AVERAGE, Cells, Group
from mgsr.tables.scores import SET_TITLES, headings, preset_notes

TARGET = 0.95  # of the best validation ROUGE-L: reached is converged
NAMED = 3  # variants that a sentence names
LEARNED = "the learned band"  # MGSR's


def convergence(group: Group) -> tuple[float | None, float | None]:
    """Optimiser step of the first validation within 5 % of the run's best ROUGE-L, and of its lowest loss; means over seeds."""
    reached, lowest = [], []
    for cell in group.cells:
        lines = [line for line in cell.metrics() if line["kind"] == "validation"]
        scored = [line for line in lines if line.get("rouge_l") is not None]
        if scored:
            best = max(line["rouge_l"] for line in scored)
            reached.append(next(line["step"] for line in scored if line["rouge_l"] >= TARGET * best))
        if lines:
            lowest.append(min(lines, key=lambda line: line["loss"])["step"])
    return (float(np.mean(reached)) if reached else None), (float(np.mean(lowest)) if lowest else None)


def clipping_range(cells: Cells) -> Check:
    """Fixed ranges, ranks and masses against the learned band: final score by test set, and speed of convergence."""
    several, first = len(cells.families) > 1, cells.protocols[0]
    lines: list[Line] = []
    shown: list[Difference] = []
    sentences, speeds = [], []
    for family in cells.families:
        groups = by_method(cells, family)
        told, own = against_mgsr(cells, groups, each_set=True)
        lines, shown = lines + told, shown + own
        steps = {name: convergence(group) for name, group in groups.items()}
        for name, (reached, lowest) in steps.items():
            title = groups[name].title
            lines.append(Line(family, "step_of_95_percent_of_best_rouge_l", title, reached, "validation"))
            lines.append(Line(family, "step_of_lowest_loss", title, lowest, "validation"))
            shown_title = LEARNED if name == REFERENCE else title
            speeds.append((*((family,) if several else ()), shown_title, number(reached, 0), number(lowest, 0)))
        sentences += _range_sentences(own, steps, groups, f"{family}: " if several else "")
    blocks = (
        difference_block(shown, f"minus {LEARNED}, ROUGE-L, protocol {first}", several),
        Block("convergence (optimiser steps)", (*(("family",) if several else ()), "range",
              "95 % of best validation ROUGE-L", "lowest validation loss"), tuple(speeds)),
    )  # fmt: skip
    figure = figures.forest(forest_series(shown), f"ROUGE-L minus {LEARNED}, average of sets (95 %)")
    notes = (*preset_notes(cells), TIES)
    return Check("clipping_range", headings(cells, "Clipping range"), tuple(sentences), tuple(lines), blocks, figure, notes)


def _range_sentences(found: list[Difference], steps: dict[str, Any], groups: dict[str, Group], family: str) -> list[str]:
    average = [one for one in found if one.scope == AVERAGE]
    if not average:
        return [capital(f"{family}no range was compared with the learned band.")]
    best = max(average, key=lambda one: one.interval.difference)
    each = [one for one in found if one.scope != AVERAGE]
    differ = [one for one in each if one.outcome != UNDECIDED]
    where = ", ".join(f"{one.group.title} on {SET_TITLES.get(one.scope, one.scope)}" for one in differ[:NAMED])
    reached = {name: step for name, (step, _) in steps.items() if step is not None}
    others = [step for name, step in reached.items() if name != REFERENCE]
    ranges = f"steps {number(min(others), 0)} to {number(max(others), 0)}" if others else "no step"
    return [
        capital(f"{family}{count_text(average, LEARNED)}."),
        f"Highest on average is {best.group.title} with {best.text}; on single test sets {len(differ)} of {len(each)} "
        "differences are decided" + (f" ({where})." if where else "."),
        f"The learned band comes within 5 % of its best validation ROUGE-L at step {number(reached.get(REFERENCE), 0)}, the "
        f"other ranges at {ranges}.",
    ]
