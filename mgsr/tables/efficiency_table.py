"""Table 4b: training speed, where the time goes, peak memory. Nearly all of it is timing: no two runs give the same bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mgsr.tables import paper
from mgsr.tables.render import Block, Document, number
from mgsr.tables.results import AVERAGE, Cells, Group
from mgsr.tables.scores import (
    MARK_NOTE,
    headings,
    other_pair_blocks,
    paper_notes,
    preset_notes,
    row_columns,
    row_label,
    score_columns,
    score_text,
    typed,
)

STAGES = ("rollout", "scrg", "chunker", "teacher", "student", "update")  # as the trainer names them
PAPER_BATCH = 4  # samples in a batch of the paper's unit
GIBIBYTE = 2**30
NOTES = (
    "Speed: sequences trained on a second, start and validation not counted; batches of 4 a second is the paper's unit.",
    "Stages: share of the time of all stages. scrg: the teacher's scores, the corrections and the suffixes written anew.",
    "Peak memory: of the accelerator where there is one, else of the process.",
    "These are measurements of one machine under its load of the day. They differ from run to run, so this table, unlike the "
    "others, is not reproduced byte for byte; methods compare only where they ran on the same machine alike.",
)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def stage_shares(group: Group) -> dict[str, float | None]:
    """Share of the time of all stages, 0..1; None where a run trained nothing."""
    totals = {stage: sum(cell.card["timings"].get(stage, 0.0) for cell in group.cells) for stage in STAGES}
    whole = sum(totals.values())
    return {stage: seconds / whole if whole else None for stage, seconds in totals.items()}


def build(cells: Cells) -> pd.DataFrame:
    """One line for each family and method: average ROUGE-L of each protocol first, timings last."""
    lines = []
    for group in cells.groups:
        whose, printed = paper.printed("table4b", group.family)
        beside = printed.get(group.method, {})
        line: dict[str, Any] = row_columns(group, cells.protocols[0]) | {"paper_family": whose}
        del line["protocol"]
        for protocol in cells.protocols:
            spread = group.spreads(cells.sets, protocol)[AVERAGE]
            line |= score_columns(f"average_{protocol}", spread, beside.get(AVERAGE))
        speed = _mean([cell.card["examples_per_second"] for cell in group.cells])
        memory = _mean([cell.card["peak_memory_bytes"] for cell in group.cells])
        batches, paper_batches = None if speed is None else speed / PAPER_BATCH, beside.get("batches_of_4_per_second")
        line |= {
            "examples_per_second": speed,
            "batches_of_4_per_second": batches,
            "batches_of_4_per_second_paper": paper_batches,
            "batches_of_4_per_second_difference": None if batches is None or paper_batches is None else batches - paper_batches,
            **{f"{stage}_share": share for stage, share in stage_shares(group).items()},
            "peak_memory_gib": None if memory is None else memory / GIBIBYTE,
            "training_seconds": _mean([cell.card["timings"]["total"] for cell in group.cells]),
        }
        lines.append(line)
    return typed(lines)


def _batches(line: Any) -> str:
    text, printed = number(line["batches_of_4_per_second"]), line["batches_of_4_per_second_paper"]
    difference = line["batches_of_4_per_second_difference"]
    own = line["paper_family"] == line["family"] and not pd.isna(printed)
    return f"{text} [{number(printed)}; {number(difference)}]" if own else text


def _percent(share: float) -> str:
    return number(share * 100, 0) if not pd.isna(share) else number(None)


def describe(cells: Cells, frame: pd.DataFrame) -> Document:
    """The table that `build` made, as people read it."""
    several = len(cells.families) > 1
    header = (*(["family"] if several else []), "method", "examples a second", "batches of 4 a second")
    header += (*(f"{stage} %" for stage in STAGES), "peak memory GiB", *(f"average, {name}" for name in cells.protocols))
    rows = tuple(
        (*([line["family"]] if several else []), row_label(line), number(line["examples_per_second"]), _batches(line),
         *(_percent(line[f"{stage}_share"]) for stage in STAGES), number(line["peak_memory_gib"]),
         *(score_text(line, f"average_{name}") for name in cells.protocols))
        for line in frame.to_dict("records")
    )  # fmt: skip
    columns = {"batches_of_4_per_second": "batches of 4 a second", **{f"average_{p}": f"average, {p}" for p in cells.protocols}}
    blocks = (Block("efficiency", header, rows), *other_pair_blocks(frame, columns, "", several))
    notes = [*preset_notes(cells), *NOTES, *([MARK_NOTE] if frame["student_steps_unused"].any() else [])]
    notes += paper_notes(frame, paper.ABLATIONS["table4b"].notes)
    return Document(headings(cells, "Table 4b"), blocks, tuple(notes))
