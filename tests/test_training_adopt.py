"""A checkpoint that is scored and never trained: its card and its folder read like a trained run's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mgsr.config.sources import TinyModel
from mgsr.config.specs import ModelSpec, RunSpec
from mgsr.errors import MgsrError
from mgsr.evaluation.rows import read_rows
from mgsr.evaluation.run import evaluate
from mgsr.models.build import build_model
from mgsr.models.loading import load_model
from mgsr.storage import read_json
from mgsr.training.adopt import adopt
from mgsr.training.run import train
from tests.training_support import evaluation_spec, make_root, run_spec


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_root(tmp_path_factory.mktemp("results"))
    adopt("released", checkpoint_spec(), root)
    return root


def checkpoint_spec(base_model: str = "student") -> RunSpec:
    spec = run_spec(base_model=base_model)
    return spec.model_copy(update={"method": spec.method.model_copy(update={"role": "checkpoint", "title": "released"})})


def test_the_weights_are_the_checkpoints(root: Path) -> None:
    own, given = (load_model(root / name).state_dict() for name in ("runs/released/model", "models/student"))
    assert own.keys() == given.keys() and all(torch.equal(own[name], given[name]) for name in own)


def test_its_card_has_every_field_of_a_trained_runs_card(root: Path) -> None:
    train("trained", run_spec(steps=2, validations=1), root)
    trained, card = (read_json(root / f"runs/{run}/card.json") for run in ("trained", "released"))
    assert trained.keys() - card.keys() == set()
    assert card["student_step_share"] is None and card["warnings"] == [] and card["validation"]["rouge_l"] is None
    assert card["data_digest"] == trained["data_digest"] and card["parameters"] == trained["parameters"]
    assert card["timings"]["total"] > 0 and (root / "runs/released/metrics.jsonl").read_text() == ""
    assert RunSpec.model_validate(read_json(root / "runs/released/spec.json")) == checkpoint_spec()


def test_it_is_evaluated_as_any_run_is(root: Path) -> None:
    evaluate("released", evaluation_spec("released"), root)
    assert len(read_rows(root / "evaluations/released/rows.jsonl")) == 3 * 5 * 2 * 2
    assert read_json(root / "evaluations/released/summary.json")["heldout"]["forward_kl"] > 0


def test_the_role_alone_sends_train_here(root: Path) -> None:
    train("by-role", checkpoint_spec(), root)
    assert read_json(root / "runs/by-role/card.json")["best_step"] == 0
    assert not (root / "checkpoints/by-role").exists()


def test_another_vocabulary_is_refused(root: Path) -> None:
    model = TinyModel(builder="tiny", layers=1, width=16, heads=2, vocabulary_size=500)
    build_model(ModelSpec(model=model, seed=1, code=""), root / "models/other")
    with pytest.raises(MgsrError, match=r"checkpoint 'released' of family tiny: .*different vocabularies"):
        adopt("refused", checkpoint_spec("other"), root)
    assert not (root / "runs/refused").exists()
