"""Table 2: what each component adds, ticked from the resolved method on each run's card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mgsr.errors import MgsrError
from mgsr.tables import paper
from mgsr.tables.cells import Cells, Group, load_cells
from mgsr.tables.main_table import (
    LEGEND,
    MARK_NOTE,
    SET_TITLES,
    headings,
    paper_notes,
    preset_notes,
    row_label,
    score_text,
    unused_policy,
)
from mgsr.tables.render import CROSS, TICK, Block, Document, write_table
from mgsr.tables.statistics import mean_and_deviations

SETS = ("dolly", "self_instruct")
COMPONENTS = {"scrg": "SCRG", "dac_kl": "DAC-KL", "span": "span"}
VALIDATION = "dolly_validation"
VALIDATION_NOTE = (
    "Dolly validation: ROUGE-L of the kept checkpoint, decoded during training with one seed, by the first protocol."
)


def components(group: Group) -> dict[str, bool]:
    """SCRG, DAC-KL and span consistency: on or off."""
    method = group.cells[0].card["spec"]["method"]
    objective = method["objective"]
    return {
        "scrg": method["sequences"]["scrg"] is not None,
        "dac_kl": (objective["distillation"] or {}).get("name") == "dac_kl" and objective["distillation_weight"] > 0,
        "span": objective["span_weight"] > 0,
    }


def build_table2(cells: Cells) -> pd.DataFrame:
    """Wide form, one line for each protocol, family and method; validation scores have a training deviation only."""
    printed = paper.table2() if cells.preset == "paper" else {}
    lines = []
    for protocol in cells.protocols:
        for family in cells.families:
            for group in (group for group in cells.groups if group.family == family):
                parts = components(group)
                beside = printed.get((family, parts["scrg"], parts["dac_kl"], parts["span"]), {})
                validation = mean_and_deviations([[cell.card["validation"]["rouge_l"]] for cell in group.cells])
                line: dict[str, Any] = {
                    "protocol": protocol, "family": family, "method": group.method, "title": group.title,
                    "training_seeds": len(group.cells), "student_steps_unused": unused_policy(group), **parts,
                }  # fmt: skip
                for name, spread in {VALIDATION: validation, **{k: group.spreads(SETS, protocol)[k] for k in SETS}}.items():
                    line |= {
                        f"{name}_mean": spread.mean,
                        f"{name}_training_deviation": spread.training,
                        f"{name}_decoding_deviation": spread.decoding,
                    }
                    if cells.preset == "paper":
                        line[f"{name}_paper"] = beside.get(name)
                lines.append(line)
    frame = pd.DataFrame(lines)
    scores = [name for name in frame.columns if name.endswith(("_mean", "_deviation", "_paper"))]
    return frame.astype(dict.fromkeys(scores, "float64"))


def document(cells: Cells) -> Document:
    frame, several = build_table2(cells), len(cells.families) > 1
    columns = (VALIDATION, *SETS)
    header = (*(["family"] if several else []), *COMPONENTS.values(), "method", "Dolly validation")
    header += tuple(SET_TITLES[name] for name in SETS)
    blocks = tuple(
        Block(
            f"protocol {protocol}",
            header,
            tuple(
                (*([line["family"]] if several else []), *(TICK if line[name] else CROSS for name in COMPONENTS),
                 row_label(line), *(score_text(line, name) for name in columns))
                for line in part.to_dict("records")
            ),
        )
        for protocol, part in frame.groupby("protocol", sort=False)
    )  # fmt: skip
    notes = [*preset_notes(cells), LEGEND, VALIDATION_NOTE, *([MARK_NOTE] if frame["student_steps_unused"].any() else [])]
    return Document(headings(cells, "Table 2"), blocks, (*notes, *paper_notes(cells, paper.TABLE2_NOTES)))


def write(cells_path: Path, folder: Path) -> None:
    """folder/table2.csv, .md and .tex from a cells file."""
    cells = load_cells(cells_path)
    if cells.table != "table2":
        raise MgsrError(f"{cells_path} is for {cells.table}, not table2")
    write_table(build_table2(cells), folder, "table2", document(cells))
