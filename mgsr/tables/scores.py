"""What the tables of scores share: a score's columns and text, differences between rows, the best row and ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mgsr.tables.render import MARK, Block, Bold, number, spread_text
from mgsr.tables.results import AVERAGE, Cell, Cells, Group
from mgsr.tables.statistics import Comparison, Spread, holm

ALPHA = 0.05
TIE = "="
VALIDATION = "dolly_validation"
SET_TITLES = {
    "dolly": "Dolly", "self_instruct": "Self-Instruct", "vicuna": "Vicuna", "sni": "S-NI", "unni": "UnNI",
    VALIDATION: "Dolly validation",
}  # fmt: skip
STUDENT_POLICIES = {"student", "mixed", "off_policy", "collection"}

LEGEND = (
    "ROUGE-L as `mean ± decoding deviation (training deviation)`: sample deviations over decoding seeds (averaged over "
    "training seeds) and over training seeds (of each one's mean over decoding seeds); n/a where there is one seed."
)
PAPER_NOTE = "In square brackets: the paper's number; ours minus it."
OTHER_PAIR_NOTE = (
    "The paper has no such pair of models in this table, so its numbers of another pair stand apart. Ours minus them is a "
    "distance between models (and records, where they differ): it says nothing of whether the paper was reproduced."
)
MARK_NOTE = f"{MARK} its policy generates student sequences, but none was ever used: the row is training on the data set."
BEST_NOTE = (
    f"Bold: above every other student row of its column and family. {TIE}: the highest row and those that it is not told apart "
    "from; then none is bold. Sign-flip test over prompts, two-sided, 5 %, Holm over sets (the average is a test of its own). "
    "Teachers, checkpoints and the floor take no part."
)
DIFFERENCE_NOTE = f"Differences: `difference (95 % interval; p)`; {TIE}: p is not below 0.05. Only p is corrected over sets."
ONE_SEED_NOTE = (
    "One training seed: differences are between these trained models. Another seed of the same method may differ by more, and "
    "nothing here says by how much."
)
SEEDS_NOTE = (
    "Intervals and p-values are over prompts and training seeds, so they speak of the methods: prompts are resampled, the mean "
    "over seeds varies as Student's t with seeds - 1 degrees of freedom."
)


def student_share(group: Group) -> float | None:
    """Mean share of student steps; None where the method has none by design."""
    shares = [cell.card["student_step_share"] for cell in group.cells if cell.card["student_step_share"] is not None]
    return float(np.mean(shares)) if shares else None


def unused_policy(group: Group) -> bool:
    """True where sequences of the student were asked for and none was trained on."""
    policies = {cell.card["spec"]["method"]["sequences"]["policy"] for cell in group.cells}
    return policies <= STUDENT_POLICIES and student_share(group) == 0


def learning_rates(group: Group) -> str:
    """What its runs were trained at, or chosen from a grid; empty for a checkpoint."""
    rates = {cell.card["learning_rate"] for cell in group.cells} - {None}
    return ", ".join(f"{rate:g}" for rate in sorted(rates))


def chosen_rates(cells: Cells) -> list[str]:
    """A line for each family with a grid of learning rates: which rate each method was given, and, for grids with a middle, at
    how many the grid may be too narrow."""
    found = []
    for family in cells.families:
        searched = [g for g in cells.groups if g.family == family and any(cell.card["candidates"] for cell in g.cells)]
        if searched:
            grid = {each["learning_rate"] for g in searched for cell in g.cells for each in cell.card["candidates"]}
            rates = ", ".join(f"{rate:g}" for rate in sorted(grid))
            chosen = "; ".join(f"{group.title} {learning_rates(group)}" for group in searched)
            ends = [_at_end(cell) for group in searched for cell in group.cells if len(cell.card["candidates"]) > 2]
            where = f" At an end of the grid, beyond which a better may lie: {sum(ends)} of {len(ends)} runs." if ends else ""
            found.append(f"{family}: learning rates, chosen by validation from {rates}: {chosen}.{where}")
    return found


def _at_end(cell: Cell) -> bool:
    rates = [candidate["learning_rate"] for candidate in cell.card["candidates"]]
    return cell.card["learning_rate"] in (min(rates), max(rates))


# --- columns ----------------------------------------------------------------------------------------------------------


def row_columns(group: Group, protocol: str) -> dict[str, Any]:
    """The columns that a line of every wide table begins with."""
    return {
        "protocol": protocol, "family": group.family, "method": group.method, "title": group.title, "role": group.role,
        "training_seeds": len(group.cells), "learning_rate": learning_rates(group),
        "student_steps_unused": unused_policy(group),
    }  # fmt: skip


def score_columns(name: str, spread: Spread, printed: float | None) -> dict[str, float | None]:
    """A score, its two deviations, the paper's number, and ours minus the paper's."""
    return {
        f"{name}_mean": spread.mean,
        f"{name}_training_deviation": spread.training,
        f"{name}_decoding_deviation": spread.decoding,
        f"{name}_paper": printed,
        f"{name}_difference": None if printed is None else spread.mean - printed,
    }


def comparison_columns(name: str, comparison: Comparison | None) -> dict[str, float | None]:
    """`name`: what minus what; None where a row is not compared with itself."""
    interval = comparison.interval if comparison else None
    return {
        name: interval.difference if interval else None,
        f"{name}_low": interval.low if interval else None,
        f"{name}_high": interval.high if interval else None,
        f"{name}_p": comparison.p if comparison else None,
        f"{name}_rows_to_decide": comparison.rows_to_decide if comparison else None,
    }


def typed(lines: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Lines as a frame whose columns have one type whatever is missing: texts, flags, counts, else float64."""
    frame = pd.DataFrame(lines)
    counts = {name: "Int64" for name in frame.columns if name.endswith(("_rows_to_decide", "training_seeds"))}
    numbers = [name for name in frame.columns if name not in counts and _numeric(frame[name])]
    return frame.astype(counts | dict.fromkeys(numbers, "float64"))


def _numeric(column: Any) -> bool:
    return all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in column)


# --- differences ------------------------------------------------------------------------------------------------------


def comparisons(group: Group, others: Mapping[str, Group], sets: Sequence[str], protocol: str) -> dict[str, Comparison]:
    """`group` minus `others` by column: a test set, or `average` over `sets`. The sets' p-values are Holm's, together."""
    found = {name: group.compare(other, sets if name == AVERAGE else (name,), protocol) for name, other in others.items()}
    tests = [name for name in found if name != AVERAGE]
    adjusted = holm([found[name].p for name in tests])
    return found | {name: replace(found[name], p=p) for name, p in zip(tests, adjusted, strict=True)}


def best_and_tied(
    groups: Sequence[Group], columns: Sequence[str], sets: Sequence[str], protocol: str
) -> dict[tuple[str, str], str]:
    """(method, column) -> `best`, where its difference to every other row survives, or `tie`, for the highest row and those
    it is not told apart from. `groups` are one family's; a single row is neither."""
    spreads = {group.method: group.spreads(sets, protocol) for group in groups}
    highest = {name: max(groups, key=lambda group: spreads[group.method][name].mean) for name in columns}
    marks: dict[tuple[str, str], str] = {}
    for group in groups:
        above = {name: best for name, best in highest.items() if best is not group}
        for name, comparison in comparisons(group, above, sets, protocol).items():
            if comparison.p >= ALPHA:
                marks[group.method, name] = marks[highest[name].method, name] = "tie"
    if len(groups) > 1:
        for name, best in highest.items():
            marks.setdefault((best.method, name), "best")
    return marks


# --- text -------------------------------------------------------------------------------------------------------------


def row_label(line: Any) -> str:
    return str(line["title"]) + (f" {MARK}" if line["student_steps_unused"] else "")


def score_text(line: Any, name: str, mark: str | None = None) -> str:
    """A cell of a wide line, with the paper's number behind it where there is one."""
    text = spread_text(Spread(line[f"{name}_mean"], line[f"{name}_training_deviation"], line[f"{name}_decoding_deviation"]))
    if line["paper_family"] == line["family"] and not pd.isna(line[f"{name}_paper"]):
        text += f" [{number(line[f'{name}_paper'])}; {number(line[f'{name}_difference'])}]"
    return Bold(text) if mark == "best" else f"{text} {TIE}" if mark == "tie" else text


def comparison_text(line: Any, name: str) -> str:
    """difference (low to high; p), marked where it does not survive."""
    if pd.isna(line[name]):
        return ""
    p = line[f"{name}_p"]
    bounds = f"{number(line[f'{name}_low'])} to {number(line[f'{name}_high'])}"
    chance = "p < 0.001" if p < 0.001 else f"p {number(p, 3)}"
    return f"{number(line[name])} ({bounds}; {chance})" + (f" {TIE}" if p >= ALPHA else "")


def other_pair_blocks(frame: pd.DataFrame, columns: Mapping[str, str], where: str, several: bool) -> list[Block]:
    """The paper's numbers of another pair, for families that it has none of: by row, `paper; ours minus it`. `columns`: names
    in `frame` and titles. One block or none; `OTHER_PAIR_NOTE` goes with it."""
    lines = frame[frame["paper_family"] != frame["family"]].to_dict("records")
    rows = []
    for line in lines:
        texts = [
            "" if pd.isna(line[f"{name}_paper"]) else f"{number(line[f'{name}_paper'])}; {number(line[f'{name}_difference'])}"
            for name in columns
        ]
        if any(texts):
            rows.append((*([line["family"]] if several else []), row_label(line), *texts))
    heading = f"{where}the paper's numbers of {lines[0]['paper_family']}; ours minus them" if rows else ""
    return [Block(heading, (*(["family"] if several else []), "method", *columns.values()), tuple(rows))] if rows else []


def paper_notes(frame: pd.DataFrame, caveats: Sequence[str]) -> list[str]:
    """The paper's caveats where its numbers are shown, and how to read them."""
    shown = frame[frame.filter(regex="_paper$").notna().any(axis=1)]
    own = shown["paper_family"] == shown["family"]
    notes = [*([PAPER_NOTE] if own.any() else []), *([] if own.all() else [OTHER_PAIR_NOTE])]
    return [*notes, *caveats] if len(shown) else []


def headings(cells: Cells, table: str) -> str:
    return f"{table} (preset {cells.preset}, recipe {cells.recipe})"


def preset_notes(cells: Cells) -> list[str]:
    return [cells.note.strip()] if cells.note.strip() else []


def score_notes(cells: Cells, frame: pd.DataFrame, caveats: Sequence[str]) -> list[str]:
    """The notes below a table of scores; the paper's caveats only where its numbers are shown."""
    several = any(len(group.cells) > 1 for group in cells.groups)
    return [
        *preset_notes(cells), LEGEND, BEST_NOTE, DIFFERENCE_NOTE, SEEDS_NOTE if several else ONE_SEED_NOTE,
        *chosen_rates(cells),
        *([MARK_NOTE] if frame["student_steps_unused"].any() else []), *paper_notes(frame, caveats),
    ]  # fmt: skip
