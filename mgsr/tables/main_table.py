"""Table 1: methods by test sets, one block a protocol, and the checks that say whether its numbers mean anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mgsr.tables import paper
from mgsr.tables.other_groups import NOTE, other_groups_blocks
from mgsr.tables.render import Block, Document, number
from mgsr.tables.results import AVERAGE, Cells, Group, row_scores
from mgsr.tables.scores import (
    SET_TITLES,
    best_and_tied,
    comparison_columns,
    comparison_text,
    comparisons,
    headings,
    other_pair_blocks,
    row_columns,
    row_label,
    score_columns,
    score_notes,
    score_text,
    student_share,
    typed,
)
from mgsr.tables.statistics import Comparison, Interval, paired_bootstrap

FLOOR = "floor"
FLOOR_TITLE = "answers borrowed from other rows of the same kind"
BEST = "best_baseline"
FLOOR_NOTE = f"{FLOOR_TITLE}: an answer from another row of the same category; not decoded, so the same under every protocol."
SHARE_NOTE = "student steps: share of optimiser steps on the student's own sequences; n/a where the method has none by design."
BASELINE_NOTE = (
    f"Baselines: {', '.join(paper.BASELINES.values())}, of either SFT weight where both are shown. The best of them is chosen "
    "by the very scores shown, one a column, which favours it against the rows compared with it."
)


def seconds(parts: Iterable[dict[str, Any]]) -> float:
    return float(np.mean([part["timings"]["total"] for part in parts]))


def build(cells: Cells) -> pd.DataFrame:
    """Wide form, one line for each protocol, family and method (the floor is one); the timings are its last columns, means over
    training seeds."""
    lines = [
        line
        for protocol in cells.protocols
        for family in cells.families
        for line in _family_lines(cells, [group for group in cells.groups if group.family == family], protocol)
    ]
    return typed(lines)


def _family_lines(cells: Cells, groups: Sequence[Group], protocol: str) -> list[dict[str, Any]]:
    columns = [*cells.sets, AVERAGE]
    family = groups[0].family
    whose, printed = paper.printed("table1", family)
    marks = best_and_tied([group for group in groups if group.role == "student"], columns, cells.sets, protocol)
    spreads = {group.method: group.spreads(cells.sets, protocol) for group in groups}
    baselines = [group for group in groups if paper.is_baseline(group.method)]
    best = {name: max(baselines, key=lambda g: spreads[g.method][name].mean) for name in columns} if baselines else {}
    lines = []
    for group in groups:
        line: dict[str, Any] = row_columns(group, protocol) | {"paper_family": whose}
        line["student_step_share"] = student_share(group)
        beside, compared = printed.get(group.method, {}), dict[str, Comparison]()
        if group.role != "teacher":
            others = {name: other for name, other in best.items() if other is not group}
            compared = comparisons(group, others, cells.sets, protocol)
        for name in columns:
            line |= score_columns(name, spreads[group.method][name], beside.get(name))
            line[f"{name}_mark"] = marks.get((group.method, name), "")
        for name in columns:
            line[f"{name}_{BEST}"] = best[name].method if best else ""
            line |= comparison_columns(f"{name}_minus_{BEST}", compared.get(name))
        line |= {f"heldout_{name}": group.heldout(name) for name in ("forward_kl", "reverse_kl")}
        line["training_seconds"] = seconds(cell.card for cell in group.cells)
        line["evaluation_seconds"] = seconds(cell.summary for cell in group.cells)
        lines.append(line)
    if family in cells.floor:
        lines.append(_floor_line(cells, lines[0]))
    return lines


def _floor_line(cells: Cells, like: dict[str, Any]) -> dict[str, Any]:
    texts = {"method": FLOOR, "title": FLOOR_TITLE, "role": FLOOR, "training_seeds": 0, "student_steps_unused": False}
    kept = (
        "protocol",
        "family",
        "paper_family",
        *(name for name in like if name.endswith(f"_{BEST}") and "_minus_" not in name),
    )
    line = dict.fromkeys(like) | {name: like[name] for name in kept} | texts
    for name, spread in cells.floor_spreads(like["family"]).items():
        line |= score_columns(name, spread, None) | {f"{name}_mark": ""}
    return line


def describe(cells: Cells, frame: pd.DataFrame) -> Document:
    """The table that `build` made, as people read it."""
    several = len(cells.families) > 1
    columns, lead = [*cells.sets, AVERAGE], ("family",) if several else ()
    titles = tuple(SET_TITLES.get(name, name) for name in columns)
    blocks = []
    for protocol, part in frame.groupby("protocol", sort=False):
        rows = tuple(
            (*([line["family"]] if several else []), row_label(line),
             *(score_text(line, name, line[f"{name}_mark"]) for name in columns), number(line["student_step_share"]))
            for line in part.to_dict("records")
        )  # fmt: skip
        blocks.append(Block(f"protocol {protocol}", (*lead, "method", *titles, "student steps"), rows))
        if differences := _difference_rows(part, columns, several):
            heading = f"protocol {protocol}: difference to the best baseline (95 % interval)"
            blocks.append(Block(heading, (*lead, "method", *titles), differences))
        blocks += other_pair_blocks(part, dict(zip(columns, titles, strict=True)), f"protocol {protocol}: ", several)
    others = other_groups_blocks(cells.families, losses=False) if cells.other_groups else []
    notes = [*score_notes(cells, frame, paper.TABLE1_NOTES), BASELINE_NOTE, SHARE_NOTE, FLOOR_NOTE]
    notes += [NOTE] if others else []
    return Document(headings(cells, "Table 1"), (*blocks, *others), tuple(notes), tuple(checks(cells)))


def _difference_rows(part: pd.DataFrame, columns: Sequence[str], several: bool) -> tuple[tuple[str, ...], ...]:
    """For each family, which baseline is the best by column, then every row that is compared with it."""
    rows: list[tuple[str, ...]] = []
    for family, frame in part.groupby("family", sort=False):
        lead = (str(family),) if several else ()
        lines = frame.to_dict("records")
        titles = {line["method"]: str(line["title"]) for line in lines}
        best = tuple(titles.get(lines[0][f"{name}_{BEST}"], "") for name in columns)
        if any(best):
            rows.append((*lead, "best baseline", *best))
        for line in lines:
            texts = tuple(comparison_text(line, f"{name}_minus_{BEST}") for name in columns)
            if any(texts):
                rows.append((*lead, row_label(line), *texts))
    return tuple(rows)


# --- checks -----------------------------------------------------------------------------------------------------------


def interval_text(interval: Interval) -> str:
    verdict = "excludes 0" if interval.excludes_zero else "includes 0"
    return (
        f"{number(interval.difference)}, 95 % interval {number(interval.low)} to {number(interval.high)} ({verdict}; paired "
        f"bootstrap over {interval.rows} prompts)"
    )


def floor_interval(cells: Cells, teacher: Group, protocol: str) -> Interval:
    """Teacher minus floor on Dolly. The floor knows no tokenizer, so it has rows that the family dropped as too long; each of
    the teacher's rows must have its partner."""
    answers = teacher.row_scores("dolly", protocol)
    borrowed = row_scores(cells.floor[teacher.family], "dolly", "plain")
    return paired_bootstrap(answers, {name: borrowed[name] for name in answers if name in borrowed})


def checks(cells: Cells) -> list[str]:
    """What must hold before rows are compared: the teacher is above SFT and the floor, and distillation nears the teacher."""
    found = []
    for family in cells.families:
        groups = [group for group in cells.groups if group.family == family]
        teacher = next((group for group in groups if group.role == "teacher"), None)
        sft = next((group for group in groups if group.method == "sft"), None)
        for protocol in cells.protocols:
            if teacher and sft:
                interval = paired_bootstrap(teacher.row_scores("dolly", protocol), sft.row_scores("dolly", protocol))
                found.append(f"{family}, {protocol}: teacher − SFT on Dolly {interval_text(interval)}.")
            if teacher and family in cells.floor:
                interval = floor_interval(cells, teacher, protocol)
                found.append(f"{family}, {protocol}: teacher − floor on Dolly {interval_text(interval)}.")
        base = sft.heldout("forward_kl") if sft else None
        for group in groups:
            value = group.heldout("forward_kl")
            if sft and base is not None and value is not None and group.method != sft.method:
                word = "lower" if value < base else "not lower"
                found.append(
                    f"{family}: held-out forward KL to the teacher, {group.title} − SFT: {number(value - base, 4)} nats a "
                    f"token ({number(value, 4)} against {number(base, 4)}; {word})."
                )
    return found
