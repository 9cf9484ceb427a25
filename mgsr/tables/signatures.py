"""Failure signatures that one run's card cannot know, since they compare two runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mgsr.storage import canonical_json
from mgsr.tables.cells import Cell
from mgsr.tables.render import number
from mgsr.tables.statistics import paired_bootstrap


def _without_scrg(cell: Cell) -> str:
    """What a run and its twin have in common: the whole spec but for SCRG, and for the title that tells of it."""
    spec: dict[str, Any] = cell.card["spec"]
    method = {key: value for key, value in spec["method"].items() if key != "title"}
    method["sequences"] = {key: value for key, value in method["sequences"].items() if key != "scrg"}
    return canonical_json({**spec, "method": method})


def scrg_hurts(cells: Iterable[Cell]) -> dict[str, dict[str, str]]:
    """By run, the warning `scrg_hurts`: validation ROUGE-L below that of the twin without SCRG, which is equal in everything
    else, seed included, with a 95 % interval (paired bootstrap over validation prompts) that lies below 0."""
    runs = {cell.run: cell for cell in cells}.values()
    revised = {cell.run: cell.card["spec"]["method"]["sequences"]["scrg"] is not None for cell in runs}
    twins = {_without_scrg(cell): cell for cell in runs if not revised[cell.run]}
    found = {}
    for cell in runs:
        twin = twins.get(_without_scrg(cell)) if revised[cell.run] else None
        if twin is None or not cell.card["validation_scores"]:
            continue
        interval = paired_bootstrap(cell.card["validation_scores"], twin.card["validation_scores"])
        if interval.high < 0:
            bounds = f"{number(interval.difference)} ({number(interval.low)} to {number(interval.high)})"
            message = (
                f"validation ROUGE-L minus that of the same run without SCRG ({twin.title}, {twin.run}): {bounds} over "
                f"{interval.rows} prompts"
            )
            found[cell.run] = {"name": "scrg_hurts", "message": message}
    return found
