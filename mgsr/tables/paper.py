"""The paper's printed numbers (paper_tables/*.csv), kept as printed, and the caveats that go wherever they are shown.

In each file the column `row` names the method of this suite whose row it is; the columns before it are labels as printed, those
after it are numbers.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from mgsr.config.base import SECOND_ROW

FOLDER = Path(__file__).parent / "paper_tables"
FAMILIES = ("LLaMA2", "OpenLLaMA2", "OPT", "GPT2")
NO_PAIR = "a pair it does not name"
FILES = {  # by the name of the table that shows the numbers
    "table1": "table1_main",
    "table2": "table2_components",
    "table3a": "table3a_generation",
    "table3b": "table3b_dac_parts",
    "table3c": "table3c_losses",
    "table4a": "table4a_exposure_bias",
    "table4b": "table4b_efficiency",
    "table4c": "table4c_scrg_frequency",
}
OTHER_GROUPS = {"table1": False, "table3c": True}  # the tables that show other groups' rows; true: rows of losses alone
BASELINES = {  # what MGSR is compared with, and the paper's names
    "sft": "SFT", "kd": "KD", "seqkd": "SeqKD", "imitkd": "ImitKD", "gkd": "GKD", "minillm": "MiniLLM", "distillm": "DistiLLM",
}  # fmt: skip

Numbers = dict[str, float]  # by column


def is_baseline(method: str) -> bool:
    """True also for a baseline's second row, of SFT weight 0."""
    return method.removesuffix(SECOND_ROW) in BASELINES


@cache
def _read(name: str) -> list[dict[str, str]]:
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def notes(table: str) -> list[str]:
    """The caveats that go with the paper's numbers of a table."""
    return [line["note"] for line in _read("notes") if line["table"] == table]


def printed(table: str) -> dict[str, dict[str, Numbers]]:
    """What the paper prints in one of `FILES`, by family, method and column. The family is empty where the paper does not
    say it."""
    numbers: dict[str, dict[str, Numbers]] = {}
    for line in _read(FILES[table]):
        names = list(line)
        family = line.get("family") or line.get("student", "").partition("-")[0]
        columns = names[names.index("row") + 1 :]
        numbers.setdefault(family, {})[line["row"]] = {name: float(line[name]) for name in columns}
    return numbers


def numbers(table: str, family: str) -> tuple[str, dict[str, Numbers]]:
    """The numbers that the paper has for a family in a table, by method and column, and before them the family that they are
    of. That is the family itself or, where the paper's table has nothing of it, the table's only pair (in Table 1 the
    smallest, GPT2). A table that is not the paper's has no numbers."""
    if table not in FILES:
        return "", {}
    families = printed(table)
    if "" in families:
        return family if family in FAMILIES else NO_PAIR, families[""]
    pair = family if family in families else list(families)[-1]
    return pair, families[pair]


def other_groups(table: str, family: str) -> list[dict[str, str]]:
    """What other groups printed of a family, as lines of other_groups.csv: methods for Table 1, losses alone for Table 3c."""
    lines = [line for line in _read("other_groups") if table in OTHER_GROUPS and line["family"] == family]
    return [line for line in lines if line["note"].startswith("loss only") == OTHER_GROUPS[table]]
