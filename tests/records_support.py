"""The paper's test sets, and records prepared as the workflow does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mgsr.config.base import Strict
from mgsr.config.load import read_yaml
from mgsr.config.plan_records import plan_records
from mgsr.config.record_sets import DataConfig
from mgsr.config.specs import spec_digest
from mgsr.data.prepare import prepare_data, prepare_test_set
from mgsr.data.records import Record, load_records
from mgsr.evaluation.scoring import AnswerRow
from mgsr.storage import read_json, read_jsonl, write_json

WORKFLOW = Path(__file__).parents[1] / "workflow"
PAPER_SETS = DataConfig.model_validate(read_yaml(WORKFLOW / "test_sets.yaml")["data"]).test_sets


def plant_spec(root: Path, spec: Strict) -> str:
    """Where a job finds its spec; gives the spec's name."""
    write_json(root / "specs" / f"{spec_digest(spec)}.json", spec.model_dump(mode="json"))
    return spec_digest(spec)


def run_stage(stage: Callable[[Path, str], None], root: Path, spec: Strict) -> str:
    """Do a stage's job; gives the name of its result."""
    name = plant_spec(root, spec)
    stage(root, name)
    return name


def prepare(root: Path, **data: Any) -> dict[str, Path]:
    """Folders of prepared records: "training", and each test set by its name."""
    config = DataConfig.model_validate({"test_sets": PAPER_SETS, **data})
    spec, test_sets = plan_records(config, root)
    prepare_data(root, plant_spec(root, spec))
    for test_set in test_sets.values():
        prepare_test_set(root, plant_spec(root, test_set))
    folders = {name: root / "test_sets" / spec_digest(test_set) for name, test_set in test_sets.items()}
    return {"training": root / "data" / spec_digest(spec), **folders}


def records_of(folders: dict[str, Path]) -> dict[str, list[Record]]:
    """The records of all sets by name."""
    training = {name: load_records(folders["training"], name) for name in ("train", "validation")}
    return training | {name: load_records(folder, "records") for name, folder in folders.items() if name != "training"}


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder / "manifest.json")
    return found


def read_rows(path: Path) -> list[AnswerRow]:
    """What an evaluation wrote to rows.jsonl."""
    return [AnswerRow(**row) for row in read_jsonl(path)]
