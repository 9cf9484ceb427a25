"""A run's card is the record that training wrote, and what only a second run can tell: whether SCRG made it worse."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

from mgsr.config.table_specs import CardSpec, read_plan
from mgsr.errors import MgsrError
from mgsr.storage import read_json, write_json
from mgsr.tables.decisions import Comparison, compare
from mgsr.tables.statistics import paired_differences


def against_twin(record: dict[str, Any], twin: dict[str, Any]) -> Comparison:
    """Validation ROUGE-L of a run minus that of its twin, the run that differs in SCRG alone. Raises MgsrError where the two
    were validated on different prompts."""
    scores, of_twin = record["validation_scores"], twin["validation_scores"]
    if not scores or scores.keys() != of_twin.keys():
        raise MgsrError(f"run {record['run']} and its twin {twin['run']} were validated on different prompts; train both anew")
    return compare([paired_differences([scores], [of_twin])])


def make_card(record: dict[str, Any], twin: dict[str, Any] | None) -> dict[str, Any]:
    """The record with the comparison under `twin` (null: the configuration has no such run), and the warning `scrg_hurts`
    (docs/methods.md) where the interval lies below 0."""
    if twin is None:
        return {**record, "twin": None}
    comparison = against_twin(record, twin)
    low, high = comparison.interval()
    compared = {
        "run": twin["run"],
        "rouge_l_difference": round(comparison.effect, 4),
        "low": round(low, 4) if isfinite(low) else None,
        "high": round(high, 4) if isfinite(high) else None,
        "prompts": comparison.prompts,
    }
    warnings = []
    if high < 0:
        message = (
            f"validation ROUGE-L minus that of the same run without SCRG ({twin['run']}): {comparison.effect:.2f} "
            f"({low:.2f} to {high:.2f}) over {comparison.prompts} prompts"
        )
        warnings.append({"name": "scrg_hurts", "message": message})
    return {**record, "twin": compared, "warnings": [*record["warnings"], *warnings]}


def write_card(root: Path, name: str) -> None:
    """Write `runs/<name>/card.json` from the run's record and, where there is one, its twin's."""
    runs, twin = root / "runs", read_plan(root, name, CardSpec).twin
    record = read_json(runs / name / "training.json")
    write_json(runs / name / "card.json", make_card(record, read_json(runs / twin / "training.json") if twin else None))
