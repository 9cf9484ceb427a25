"""The paper's printed numbers (paper_tables/*.csv), kept as printed, and the caveats that go wherever they are shown.

In each file the column `row` names the method of this suite whose row it is; the columns before it are labels as printed, those
after it are numbers.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "paper_tables"
FAMILIES = ("LLaMA2", "OpenLLaMA2", "OPT", "GPT2")
NO_PAIR = "a pair it does not name"
FILES = {file.stem.partition("_")[0]: file.stem for file in FOLDER.glob("table*.csv")}  # by the table that shows the numbers

Numbers = dict[str, float]  # by column


@cache
def read_lines(name: str) -> list[dict[str, str]]:
    """The lines of paper_tables/<name>.csv."""
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def notes(table: str) -> list[str]:
    """The caveats that go with the paper's numbers of a table."""
    return [line["note"] for line in read_lines("notes") if line["table"] == table]


def printed(table: str) -> dict[str, dict[str, Numbers]]:
    """What the paper prints in one of `FILES`, by family, method and column. The family is empty where the paper does not
    say it."""
    numbers: dict[str, dict[str, Numbers]] = {}
    for line in read_lines(FILES[table]):
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
