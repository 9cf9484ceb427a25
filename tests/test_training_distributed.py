"""Several processes train as one."""

from pathlib import Path

import pytest

from mgsr.config.families import LoraConfig
from mgsr.training.trainer import train
from tests.runs_support import call_train, train_as_two
from tests.training_support import COLLECTION, DATA, DISTILLM, MGSR, POLICY_GRADIENT, SCRG_MIXED, metrics, record_of, run_spec


def assert_one(root: Path, alone_run: str, pair_run: str) -> None:
    """Both have the same course."""
    for kind in ("train", "validation"):
        alone, pair = metrics(root, alone_run, kind), metrics(root, pair_run, kind)
        assert [line.keys() for line in pair] == [line.keys() for line in alone]
        assert [line.get("source") for line in pair] == [line.get("source") for line in alone]
        for figure in {figure for line in alone for figure in line} - {"source", "kind"}:
            values = [[line[figure] for line in lines if figure in line] for lines in (pair, alone)]
            if figure == "scrg_hits":
                assert values[0] == values[1]
            else:
                assert values[0] == pytest.approx(values[1], rel=2e-3, abs=1e-5), figure


def test_pitfall_19_26_two_processes_train_as_one(root: Path) -> None:
    """With fresh, corrected, replayed and dataset sequences; the replay buffer is one for both processes."""
    spec = run_spec({**DISTILLM, "scrg": SCRG_MIXED["scrg"]}, MGSR, steps=16, micro_batch=1, processes=2)
    train("alone", spec.model_copy(update={"processes": 1}), root)
    pair, finished = call_train(root, spec)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert_one(root, "alone", pair)
    assert {line["source"] for line in metrics(root, pair)} == {"dataset", "student", "buffer"}
    assert record_of(root, pair)["processes"] == 2


TEACHERS_TEXT = {"policy": "teacher"}
OTHERS = {
    "teacher's text": (TEACHERS_TEXT, {"distillation": {"name": "cross_entropy"}}),
    "teacher's text, revised": ({**TEACHERS_TEXT, "scrg": {"passes": 1}}, MGSR),
    "SFT alone on the data set": ({**SCRG_MIXED, "dataset_terms": "sft"}, MGSR),
    "MiniLLM's collection": (COLLECTION, POLICY_GRADIENT),
}


@pytest.mark.parametrize("name", OTHERS)
def test_pitfall_19_26_two_processes_share_every_other_policy(root: Path, name: str) -> None:
    spec = run_spec(*OTHERS[name], steps=9, micro_batch=1, processes=2, data_config=DATA.model_copy(update={"train_rows": 22}))
    train(f"{name}, alone", spec.model_copy(update={"processes": 1}), root)
    train_as_two(root, f"{name}, pair", spec)
    assert_one(root, f"{name}, alone", f"{name}, pair")
    cards = [record_of(root, f"{name}, {run}") for run in ("alone", "pair")]
    for fact in ("warnings", "student_step_share"):
        assert cards[0][fact] == cards[1][fact]
    assert cards[0]["validation_scores"].keys() == cards[1]["validation_scores"].keys()


def test_two_processes_hold_adapters_over_narrow_frozen_weights(root: Path) -> None:
    spec = run_spec(objective=MGSR, precision="bf16", lora=LoraConfig(rank=2, dropout=0.0), steps=4, processes=2)
    train("adapters, alone", spec.model_copy(update={"processes": 1}), root)
    train_as_two(root, "adapters, pair", spec)
    alone, pair = ([line["loss"] for line in metrics(root, f"adapters, {run}")] for run in ("alone", "pair"))
    assert pair == pytest.approx(alone, rel=0.02)


def test_a_process_may_load_and_write_for_longer_than_a_collective_waits(root: Path) -> None:
    """The first process sleeps while it loads, at a checkpoint and at the end. The second one waits, and nothing times out."""
    spec = run_spec(objective=MGSR, steps=2, validations=1, gradient_checkpointing=True, processes=2)
    train("quick", spec.model_copy(update={"processes": 1}), root)
    train_as_two(root, "slow", spec, slow=True)
    assert_one(root, "quick", "slow")
