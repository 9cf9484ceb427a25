"""A run that stands for a grid of learning rates: of runs that differ in nothing else, the best by validation."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mgsr.config.run_specs import SelectSpec
from mgsr.config.specs import read_spec
from mgsr.storage import link_folder, new_folder, read_json, write_json
from mgsr.training.run_record import RECORD


def best(records: list[dict[str, Any]], select_by: str) -> dict[str, Any]:
    """The candidate of highest validation ROUGE-L or lowest validation loss; of equal ones the first in the grid."""
    validations = [record["validation"] for record in records]
    worths = [validation["rouge_l"] if select_by == "rouge_l" else -validation["loss"] for validation in validations]
    return records[worths.index(max(worths))]


def select(root: Path, run: str) -> None:
    """Write `runs/<run>` below `root`: the model, metrics and record of the best of `spec.candidates`, and what each of them
    reached. Timings, versions and commit are the chosen run's, as if its learning rate had been known."""
    spec = read_spec(root, run, SelectSpec)
    records = [read_json(root / "runs" / name / RECORD) for name in spec.candidates]
    chosen = best(records, spec.method.training.select_by)
    candidates = [
        {
            "run": record["run"],
            "learning_rate": record["learning_rate"],
            "validation": record["validation"],
            "training_seconds": record["timings"]["total"],
            "warnings": [warning["name"] for warning in record["warnings"]],
        }
        for record in records
    ]
    source = root / "runs" / chosen["run"]
    with new_folder(root / "runs" / run) as out:
        link_folder(source / "model", out / "model")  # adapters name their start from either folder alike
        shutil.copy(source / "metrics.jsonl", out)
        write_json(out / "spec.json", spec.model_dump(mode="json"))
        write_json(out / RECORD, {**chosen, "run": run, "spec": spec.model_dump(mode="json"), "candidates": candidates})
