"""Table 1: methods by test sets, one block a protocol, and the checks that say whether its numbers mean anything."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mgsr.errors import MgsrError
from mgsr.tables import paper
from mgsr.tables.cells import AVERAGE, Cells, Group, load_cells, row_scores
from mgsr.tables.render import MARK, Block, Document, number, spread_text, write_table
from mgsr.tables.statistics import Interval, Spread, paired_bootstrap

FLOOR = "floor"
FLOOR_TITLE = "answers borrowed from other rows of the same kind"
SET_TITLES = {"dolly": "Dolly", "self_instruct": "Self-Instruct", "vicuna": "Vicuna", "sni": "S-NI", "unni": "UnNI"}
LEGEND = (
    "ROUGE-L as `mean ± decoding deviation (training deviation)`: sample deviations over decoding seeds (averaged over "
    "training seeds) and over training seeds (of each one's mean over decoding seeds); n/a where there is one seed."
)
FLOOR_NOTE = f"{FLOOR_TITLE}: an answer from another row of the same category; not decoded, so the same under every protocol."
SHARE_NOTE = "student steps: share of optimiser steps on the student's own sequences; n/a where the method has none by design."
MARK_NOTE = f"{MARK} its policy generates student sequences, but none was ever used: the row is training on the data set."


def student_share(group: Group) -> float | None:
    """Mean share of student steps; None where the method has none by design."""
    shares = [cell.card["student_step_share"] for cell in group.cells if cell.card["student_step_share"] is not None]
    return float(np.mean(shares)) if shares else None


def unused_policy(group: Group) -> bool:
    """True where sequences of the student were asked for and none was trained on."""
    policies = {cell.card["spec"]["method"]["sequences"]["policy"] for cell in group.cells}
    return policies != {"dataset"} and student_share(group) == 0


def seconds(parts: Iterable[dict[str, Any]]) -> float:
    return float(np.mean([part["timings"]["total"] for part in parts]))


def build_long(cells: Cells) -> pd.DataFrame:
    """One line for each protocol, family, method and set (with `average`); the floor is a method of role `floor`."""
    printed = paper.table1() if cells.preset == "paper" else {}
    lines = []
    for protocol in cells.protocols:
        for family in cells.families:
            entries: list[tuple[str, str, str, dict[str, Spread], int]] = [
                (g.method, g.title, g.role, g.spreads(cells.sets, protocol), len(g.cells))
                for g in cells.groups
                if g.family == family
            ]
            if family in cells.floor:
                entries.append((FLOOR, FLOOR_TITLE, FLOOR, cells.floor_spreads(family), 0))
            for method, title, role, spreads, training_seeds in entries:
                for name, spread in spreads.items():
                    line: dict[str, Any] = {
                        "protocol": protocol, "family": family, "method": method, "title": title, "role": role, "set": name,
                        "mean": spread.mean, "training_deviation": spread.training, "decoding_deviation": spread.decoding,
                        "training_seeds": training_seeds,
                    }  # fmt: skip
                    if cells.preset == "paper":
                        line["paper"] = printed.get((family, title), {}).get(name)
                    lines.append(line)
    numeric = ["mean", "training_deviation", "decoding_deviation", *(["paper"] if cells.preset == "paper" else [])]
    return pd.DataFrame(lines).astype(dict.fromkeys(numeric, "float64"))


def build_table1(cells: Cells) -> pd.DataFrame:
    """Wide form, one line for each protocol, family and method: per set `<set>_mean`, both deviations, and `<set>_paper` in the
    paper's preset. The timings are its last columns, means over training seeds."""
    long = build_long(cells)
    keys = ["protocol", "family", "method", "title", "role", "training_seeds"]
    values = [name for name in ("mean", "training_deviation", "decoding_deviation", "paper") if name in long]
    groups = {(group.family, group.method): group for group in cells.groups}
    lines = []
    for key, part in long.groupby(keys, sort=False):
        line: dict[str, Any] = dict(zip(keys, key, strict=True))
        group = groups.get((line["family"], line["method"]))
        line["student_step_share"] = student_share(group) if group else None
        line["student_steps_unused"] = bool(group and unused_policy(group))
        line |= {f"{row['set']}_{value}": row[value] for row in part.to_dict("records") for value in values}
        for divergence in ("forward_kl", "reverse_kl"):
            line[f"heldout_{divergence}"] = group.heldout(divergence) if group else None
        line["training_seconds"] = seconds(cell.card for cell in group.cells) if group else None
        line["evaluation_seconds"] = seconds(cell.summary for cell in group.cells) if group else None
        lines.append(line)
    frame = pd.DataFrame(lines)
    texts = {*keys, "student_steps_unused"}
    return frame.astype({name: "float64" for name in frame.columns if name not in texts})


def row_label(line: Any) -> str:
    return str(line["title"]) + (f" {MARK}" if line["student_steps_unused"] else "")


def score_text(line: Any, name: str) -> str:
    """A cell of a wide line, with the paper's number behind it where there is one."""
    text = spread_text(Spread(line[f"{name}_mean"], line[f"{name}_training_deviation"], line[f"{name}_decoding_deviation"]))
    printed = line.get(f"{name}_paper")
    return text if printed is None or pd.isna(printed) else f"{text} [{number(printed)}]"


def headings(cells: Cells, table: str) -> str:
    return f"{table} (preset {cells.preset}, recipe {cells.recipe})"


def preset_notes(cells: Cells) -> list[str]:
    return [cells.note.strip()] if cells.note.strip() else []


def paper_notes(cells: Cells, notes: tuple[str, ...]) -> list[str]:
    return ["In square brackets: the paper's number.", *notes] if cells.preset == "paper" else []


def document(cells: Cells) -> Document:
    frame, several = build_table1(cells), len(cells.families) > 1
    columns = [*cells.sets, AVERAGE]
    header = (*(["family"] if several else []), "method", *(SET_TITLES.get(name, name) for name in columns), "student steps")
    blocks = [
        Block(
            f"protocol {protocol}",
            header,
            tuple(
                (*([line["family"]] if several else []), row_label(line), *(score_text(line, name) for name in columns),
                 number(line["student_step_share"]))
                for line in part.to_dict("records")
            ),
        )
        for protocol, part in frame.groupby("protocol", sort=False)
    ]  # fmt: skip
    notes = [*preset_notes(cells), LEGEND, FLOOR_NOTE, SHARE_NOTE]
    notes += [MARK_NOTE] if frame["student_steps_unused"].any() else []
    notes += paper_notes(cells, paper.TABLE1_NOTES)
    return Document(headings(cells, "Table 1"), tuple(blocks), tuple(notes), tuple(checks(cells)))


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


def write(cells_path: Path, folder: Path) -> None:
    """folder/table1.csv, .md and .tex from a cells file."""
    cells = load_cells(cells_path)
    if cells.table != "table1":
        raise MgsrError(f"{cells_path} is for {cells.table}, not table1")
    write_table(build_table1(cells), folder, "table1", document(cells))
