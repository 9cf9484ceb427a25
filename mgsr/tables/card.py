"""A run's card: the record that training wrote, and what only a second run can tell, whether SCRG made the first one worse."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

from mgsr.config.table_specs import CardSpec, read_plan
from mgsr.errors import MgsrError
from mgsr.storage import check_folder, digest, read_json, write_json
from mgsr.tables.decisions import compare
from mgsr.tables.statistics import paired_differences


def make_card(record: dict[str, Any], twin: dict[str, Any] | None) -> dict[str, Any]:
    """The record and, under `twin`, how it compares with the run that differs in SCRG alone (null: there is no such run).

    The difference is validation ROUGE-L minus the twin's, with a 95 % interval over validation prompts (null: unbounded).
    Where the interval lies below 0, the card has the warning `scrg_hurts` (docs/measurement.md).

    Raises MgsrError where the two were validated on different prompts.
    """
    if twin is None:
        return {**record, "twin": None}
    name, scores, of_twin = twin["run"], record["validation_scores"], twin["validation_scores"]
    if not scores or scores.keys() != of_twin.keys():
        raise MgsrError(f"run {record['run']} and its twin {name} were validated on different prompts; train both anew")
    comparison = compare([paired_differences([scores], [of_twin])])
    effect, (low, high), prompts = comparison.effect, comparison.interval(), comparison.prompts
    message = (
        f"validation ROUGE-L minus that of the same run without SCRG ({name}): {effect:.2f} "
        f"({low:.2f} to {high:.2f}) over {prompts} prompts"
    )
    warnings = [*record["warnings"], *([{"name": "scrg_hurts", "message": message}] if high < 0 else [])]
    bounds = {key: round(bound, 4) if isfinite(bound) else None for key, bound in (("low", low), ("high", high))}
    compared = {"run": name, "rouge_l_difference": round(effect, 4), **bounds, "prompts": prompts}
    return {**record, "twin": compared, "warnings": warnings}


def write_card(root: Path, name: str) -> None:
    """Write `runs/<name>/card.json` from the run's record and, where there is one, its twin's."""
    runs, twin = root / "runs", read_plan(root, name, CardSpec).twin
    card = make_card(_record(runs / name), _record(runs / twin) if twin else None)
    write_json(runs / name / "card.json", {**card, "digest": digest(card)})


def _record(run: Path) -> Any:
    check_folder(run, "training.json")
    return read_json(run / "training.json")
