"""A run's steps follow from its rows where the configuration states epochs, and everything that is spread over them follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mgsr.config.load import load_config, load_methods
from mgsr.config.method import TrainingConfig
from mgsr.errors import MgsrError
from mgsr.storage import read_json
from mgsr.training.trainer import evenly, learning_rate_at, train
from tests.training_support import DATA, make_root, metrics, run_spec

WORKFLOW = Path(__file__).parents[1] / "workflow"


def test_steps_are_epochs_times_rows_by_batch() -> None:
    ten_epochs = TrainingConfig(steps={"epochs": 10}, global_batch=32)
    assert [ten_epochs.steps_of(rows) for rows in (11_400, 11_900, 14_000)] == [3562, 3719, 4375]
    assert TrainingConfig(steps={"epochs": 0.1}, global_batch=32).steps_of(5) == 1
    assert TrainingConfig(steps=7).steps_of(11_400) == 7


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"epochz": 3}, "training.steps.epochz: no such key; the nearest valid one is 'epochs'"),
        ({"epochs": 0}, "training.steps.epochs: input should be greater than 0"),
    ],
)
def test_a_wrong_number_of_epochs_is_named(steps: Any, message: str) -> None:
    with pytest.raises(MgsrError, match=message):
        load_config(WORKFLOW, {"preset": "smoke", "training": {"steps": steps}})


def test_a_later_number_takes_the_place_of_epochs() -> None:
    config = load_config(WORKFLOW, {"preset": "paper"})
    methods = load_methods(WORKFLOW, config)
    assert methods.resolve("OPT", "minillm").training.steps == 5000  # of the recipe, over the preset's epochs
    epochs = [
        methods.resolve(family, method).training.steps_of(32) for family in ("OPT", "GPT2") for method in ("mgsr", "sft_start")
    ]
    assert epochs == [10, 3, 20, 3]  # at as many rows as a batch has


def test_a_run_counts_its_epochs_and_ends_its_schedules_with_them(tmp_path: Path) -> None:
    """22 rows at batch 4 are 11 steps in two epochs: with validations, tau's checks and the cosine over these."""
    root = make_root(tmp_path)
    data = DATA.model_copy(update={"train_rows": 22})
    off_policy = {"policy": "off_policy", "off_policy": {"buffer_size": 8, "checks": 3}}
    spec = run_spec(off_policy, data_config=data, steps={"epochs": 2}, learning_rate=1e-3, final_learning_rate=1e-5)
    train("epochs", spec, root)
    record = read_json(root / "runs" / "epochs" / "training.json")
    assert (record["train_rows"], record["steps"]) == (22, 11)
    assert record["spec"]["method"]["training"]["steps"] == {"epochs": 2.0}
    lines = metrics(root, "epochs")
    assert [line["step"] for line in lines] == list(range(1, 12))
    assert [line["learning_rate"] for line in lines][0::10] == [pytest.approx(1e-3), pytest.approx(1e-5)]
    validations = [line["step"] for line in metrics(root, "epochs", "validation")]
    assert validations == sorted({0} | evenly(11, 2) | evenly(11, 3)) == [0, 4, 6, 7, 11]
    train("steps", run_spec(off_policy, data_config=data, steps=11, learning_rate=1e-3, final_learning_rate=1e-5), root)
    assert (root / "runs/steps/model/model.safetensors").read_bytes() == (
        root / "runs/epochs/model/model.safetensors"
    ).read_bytes()
    assert learning_rate_at(11, 11, spec) == pytest.approx(1e-5)
