"""Tables 2, 3a, 3b, 3c and 4c: variants of MGSR, each compared with the whole method in the same table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mgsr.tables import paper
from mgsr.tables.other_groups import NOTE, other_groups_blocks
from mgsr.tables.render import CROSS, TICK, Block, Document
from mgsr.tables.results import AVERAGE, Cells, Group
from mgsr.tables.scores import (
    SET_TITLES,
    VALIDATION,
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
    typed,
)
from mgsr.tables.statistics import Spread, mean_and_deviations

FULL = "mgsr"
COMPONENTS = {"scrg": "SCRG", "dac_kl": "DAC-KL", "span": "span"}
VALIDATION_NOTE = (
    "Dolly validation: ROUGE-L of the kept checkpoint, decoded during training with one seed, by the first protocol. It chose "
    "the checkpoint, so it is no test and is not compared."
)


@dataclass(frozen=True)
class Ablation:
    """A table's name and columns, which are the paper's. `ticks`: say which components a row has."""

    title: str
    columns: tuple[str, ...]
    ticks: bool = False

    @property
    def tests(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if name != VALIDATION)


ABLATIONS = {
    "table2": Ablation("Table 2", (VALIDATION, "dolly", "self_instruct"), ticks=True),
    "table3a": Ablation("Table 3a", (VALIDATION, "dolly", "self_instruct")),
    "table3b": Ablation("Table 3b", (VALIDATION, "dolly")),
    "table3c": Ablation("Table 3c", (VALIDATION, "dolly", "self_instruct")),
    "table4c": Ablation("Table 4c", (AVERAGE,)),
}


def components(group: Group) -> dict[str, bool]:
    """SCRG, DAC-KL and span consistency: on or off in the resolved method on the run's card."""
    method = group.cells[0].card["spec"]["method"]
    objective = method["objective"]
    return {
        "scrg": method["sequences"]["scrg"] is not None,
        "dac_kl": (objective["distillation"] or {}).get("name") == "dac_kl" and objective["distillation_weight"] > 0,
        "span": objective["span_weight"] > 0,
    }


def validation(group: Group) -> Spread:
    return mean_and_deviations([[cell.card["validation"]["rouge_l"]] for cell in group.cells])


def build(cells: Cells) -> pd.DataFrame:
    """Wide form, one line for each protocol, family and method: scores, the paper's numbers, and differences to MGSR."""
    ablation, lines = ABLATIONS[cells.table], []
    for protocol in cells.protocols:
        for family in cells.families:
            groups = [group for group in cells.groups if group.family == family]
            whose, printed = paper.printed(cells.table, family)
            full = next((group for group in groups if group.method == FULL), None)
            marks = best_and_tied([g for g in groups if g.role == "student"], ablation.tests, cells.sets, protocol)
            for group in groups:
                line: dict[str, Any] = row_columns(group, protocol) | {"paper_family": whose}
                line |= components(group) if ablation.ticks else {}
                spreads = group.spreads(cells.sets, protocol)
                beside = printed.get(group.method, {})
                compared = {}
                if full and group is not full:
                    compared = comparisons(group, dict.fromkeys(ablation.tests, full), cells.sets, protocol)
                for name in ablation.columns:
                    spread = validation(group) if name == VALIDATION else spreads[name]
                    line |= score_columns(name, spread, beside.get(name))
                for name in ablation.tests:
                    line |= comparison_columns(f"{name}_minus_{FULL}", compared.get(name))
                    line[f"{name}_mark"] = marks.get((group.method, name), "")
                lines.append(line)
    return typed(lines)


def describe(cells: Cells, frame: pd.DataFrame) -> Document:
    """The table that `build` made, as people read it."""
    ablation, several = ABLATIONS[cells.table], len(cells.families) > 1
    lead = ("family",) if several else ()
    ticks = tuple(COMPONENTS.values()) if ablation.ticks else ()
    header = (*lead, *ticks, "method", *(SET_TITLES.get(name, name) for name in ablation.columns))
    against = (*lead, "method", *(SET_TITLES.get(name, name) for name in ablation.tests))
    blocks = []
    for protocol, part in frame.groupby("protocol", sort=False):
        lines = part.to_dict("records")
        rows = tuple(
            (*([line["family"]] if several else []), *(TICK if line[name] else CROSS for name in COMPONENTS if ticks),
             row_label(line), *(score_text(line, name, line.get(f"{name}_mark")) for name in ablation.columns))
            for line in lines
        )  # fmt: skip
        differences = tuple(
            (*([line["family"]] if several else []), row_label(line),
             *(comparison_text(line, f"{name}_minus_{FULL}") for name in ablation.tests))
            for line in lines
            if not all(pd.isna(line[f"{name}_minus_{FULL}"]) for name in ablation.tests)
        )  # fmt: skip
        blocks.append(Block(f"protocol {protocol}", header, rows))
        if differences:
            blocks.append(Block(f"protocol {protocol}: difference to MGSR (95 % interval)", against, differences))
        titles = {name: SET_TITLES.get(name, name) for name in ablation.columns}
        blocks += other_pair_blocks(part, titles, f"protocol {protocol}: ", several)
    wanted = cells.table == "table3c" and cells.other_groups
    others = other_groups_blocks(cells.families, losses=True) if wanted else []
    notes = score_notes(cells, frame, paper.ABLATIONS[cells.table].notes)
    notes += [VALIDATION_NOTE] if VALIDATION in ablation.columns else []
    notes += [NOTE] if others else []
    return Document(headings(cells, ablation.title), (*blocks, *others), tuple(notes))
