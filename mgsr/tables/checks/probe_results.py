"""Reads the probe of a family's SFT student and teacher (probe.json: `mgsr.evaluation.probe` says what it holds)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mgsr.errors import MgsrError
from mgsr.storage import read_json
from mgsr.tables.checks.check import Line, interval_text
from mgsr.tables.render import MISSING
from mgsr.tables.results import Cells

SCHEMA = 1
ALL = "all"


def probes(cells: Cells) -> Iterator[tuple[str, dict[str, Any]]]:
    for family, path in cells.probe.items():
        value = read_json(Path(path))
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            raise MgsrError(f"{path} is not of schema {SCHEMA}; remove it and run the same command again")
        yield family, value


def probe_line(family: str, measure: str, subject: str, entry: Mapping[str, Any], value: str, **more: Any) -> Line:
    """A line from an entry of the probe, which has low, high and prompts beside its value."""
    return Line(family, measure, subject, entry[value], low=entry.get("low"), high=entry.get("high"),
                prompts=entry.get("prompts"), **more)  # fmt: skip


def side(entry: Mapping[str, Any]) -> int:
    """Side of 0 on which the interval lies; 0 where it holds 0 or there is none."""
    low, high = entry["low"], entry["high"]
    return 0 if low is None or high is None else (low > 0) - (high < 0)


def value_text(entry: Mapping[str, Any], value: str, scale: float = 1.0, digits: int = 2, *, signed: bool = True) -> str:
    if entry[value] is None:
        return MISSING
    low, high = (None if entry[name] is None else scale * entry[name] for name in ("low", "high"))
    return interval_text(scale * entry[value], low, high, digits, signed=signed)
