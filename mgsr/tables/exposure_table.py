"""Table 4a: ExAccErr by method and length, in per cent (Arora et al. 2022; 0 is no exposure bias)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mgsr.errors import MgsrError
from mgsr.tables import paper
from mgsr.tables.render import Block, Document, number
from mgsr.tables.results import Cells, Group
from mgsr.tables.scores import MARK_NOTE, headings, paper_notes, preset_notes, row_label, typed, unused_policy

LEGEND = (
    "ExAccErr in per cent, mean over training seeds (deviation over them), by response length in tokens: how far errors on the "
    "student's own prefixes add up beyond errors on the teacher's. 0 is no exposure bias; below 0 the student does better on "
    "its own prefixes. With one training seed: its 95 % interval, percentile bootstrap over prompts."
)
RUNNING_NOTE = "running: share of the student's samples (of the teacher's) that are so long; where few are, read nothing."
PAIR_NOTE = "Paper: its Table 4a does not state the pair; its numbers stand beside each of the paper's families."
NO_PAIR = "a pair it does not name"


def exposures(group: Group) -> list[dict[str, Any]]:
    """The measured exposure bias of each training seed."""
    found = [cell.exposure for cell in group.cells if cell.exposure is not None]
    if len(found) < len(group.cells) or any(one["lengths"] != found[0]["lengths"] for one in found):
        raise MgsrError(f"{group.family}, {group.title}: an exposure bias is missing or of other lengths; measure it anew")
    return found


def build(cells: Cells) -> pd.DataFrame:
    """One line for each family, method and length; no error where no sample is so long."""
    return typed([line for group in cells.groups for line in _lines(group)])


def _lines(group: Group) -> Iterator[dict[str, Any]]:
    found, printed = exposures(group), paper.exposure()
    whose = group.family if group.family in paper.FAMILIES else NO_PAIR
    for place, length in enumerate(found[0]["lengths"]):
        errors = [one["excess_error"][place] for one in found]
        mean, beside = _mean(errors), printed.get((group.method, length))
        several = mean is not None and len(found) > 1
        low, high = (len(found) == 1 and found[0]["intervals"][place]) or (None, None)
        shares = {
            f"running_{who}": _mean([one[f"running_{who}"][place] / (one["rows"] * one["samples"]) for one in found])
            for who in ("student", "teacher")
        }
        yield {
            "family": group.family, "method": group.method, "title": group.title, "training_seeds": len(found),
            "student_steps_unused": unused_policy(group), "length": length, "excess_error": mean,
            "excess_error_training_deviation": float(np.std(errors, ddof=1)) if several else None,
            "excess_error_low": low, "excess_error_high": high, "excess_error_paper": beside, "paper_family": whose,
            "excess_error_difference": None if mean is None or beside is None else mean - beside,
            "accumulated": _mean([one["accumulated"][place] for one in found]),
            "expected": _mean([one["expected"][place] for one in found]), **shares,
        }  # fmt: skip


def _mean(values: Sequence[float | None]) -> float | None:
    """None where a training seed has no value."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _text(line: Any) -> str:
    text = number(line["excess_error"], 1)
    if not pd.isna(line["excess_error_low"]):
        text += f" ({number(line['excess_error_low'], 1)} to {number(line['excess_error_high'], 1)})"
    elif not pd.isna(line["excess_error"]):
        text += f" ({number(line['excess_error_training_deviation'], 1)})"
    if line["paper_family"] == line["family"] and not pd.isna(line["excess_error_paper"]):
        text += f" [{number(line['excess_error_paper'], 0)}; {number(line['excess_error_difference'], 1)}]"
    return f"{text}, running {number(line['running_student'])} ({number(line['running_teacher'])})"


def describe(cells: Cells, frame: pd.DataFrame) -> Document:
    """The table that `build` made, as people read it."""
    several = len(cells.families) > 1
    lengths = list(dict.fromkeys(frame["length"].astype(int)))
    rows = []
    for _, part in frame.groupby(["family", "method"], sort=False):
        lines = {int(line["length"]): line for line in part.to_dict("records")}
        first = next(iter(lines.values()))
        texts = [_text(lines[length]) if length in lines else "" for length in lengths]
        rows.append((*([first["family"]] if several else []), row_label(first), *texts))
    header = (*(["family"] if several else []), "method", *(f"{length} tokens" for length in lengths))
    sizes = sorted({(one["rows"], one["samples"]) for group in cells.groups for one in exposures(group)})
    made = "; ".join(f"{rows} prompts of Dolly's test rows, {samples} samples each" for rows, samples in sizes)
    notes = [
        *preset_notes(cells), LEGEND, RUNNING_NOTE,
        f"Measured on {made}, at T = 1 without any repetition rule.",
        *([MARK_NOTE] if frame["student_steps_unused"].any() else []), *paper_notes(frame, [PAIR_NOTE]),
    ]  # fmt: skip
    blocks = (Block("exposure bias", header, tuple(rows)), *_other_pair_blocks(frame, several))
    return Document(headings(cells, "Table 4a"), blocks, tuple(notes))


def _other_pair_blocks(frame: pd.DataFrame, several: bool) -> list[Block]:
    """For families that are not the paper's: its numbers at its lengths, and `; ours minus it` where ours has that length."""
    printed, rows = paper.exposure(), list[tuple[str, ...]]()
    lengths = sorted({length for _, length in printed})
    for _, part in frame[frame["paper_family"] == NO_PAIR].groupby(["family", "method"], sort=False):
        family, method = (str(part[name].iloc[0]) for name in ("family", "method"))
        differences = dict(zip(part["length"], part["excess_error_difference"], strict=True))
        texts = [
            number(printed[method, length], 0) + (f"; {number(differences[length], 1)}" if length in differences else "")
            for length in lengths
            if (method, length) in printed
        ]
        if texts:
            rows.append((*([family] if several else []), row_label(part.iloc[0]), *texts))
    header = (*(["family"] if several else []), "method", *(f"{length} tokens" for length in lengths))
    heading = f"the paper's numbers of {NO_PAIR}; ours minus them at lengths that ours has"
    return [Block(heading, header, tuple(rows))] if rows else []
