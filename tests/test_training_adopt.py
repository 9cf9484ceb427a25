"""A checkpoint that is scored and never trained: its record and its folder read like a trained run's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mgsr.cli import main
from mgsr.config.families import TinyModel
from mgsr.config.specs import ModelSpec, RunSpec
from mgsr.errors import MgsrError
from mgsr.evaluation.scoring import read_rows
from mgsr.models.build import build_model
from mgsr.models.loading import load_model
from mgsr.storage import read_json
from mgsr.training.adopt import adopt
from mgsr.training.trainer import train
from tests.training_support import evaluated, evaluation_spec, make_root, run_spec


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


def test_its_record_has_every_field_of_a_trained_runs_record(root: Path) -> None:
    train("trained", run_spec(steps=2, validations=1), root)
    trained, record = (read_json(root / f"runs/{run}/training.json") for run in ("trained", "released"))
    assert trained.keys() - record.keys() == set()
    assert record["student_step_share"] is None and record["warnings"] == [] and record["validation"]["rouge_l"] is None
    assert record["data_digest"] == trained["data_digest"] and record["parameters"] == trained["parameters"]
    assert record["timings"]["total"] > 0 and (root / "runs/released/metrics.jsonl").read_text() == ""
    assert RunSpec.model_validate(read_json(root / "runs/released/spec.json")) == checkpoint_spec()


def test_it_is_evaluated_as_any_run_is(root: Path) -> None:
    folder = evaluated(root, evaluation_spec("released"))
    assert len(read_rows(folder / "rows.jsonl")) == 3 * 5 * 2 * 2
    assert read_json(folder / "summary.json")["heldout"]["forward_kl"] > 0


def test_the_role_alone_sends_the_command_here(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = checkpoint_spec().model_dump_json()
    monkeypatch.setattr("sys.argv", ["mgsr", "train", "--run", "by-role", "--spec", spec, "--root", str(root)])
    main()
    assert read_json(root / "runs/by-role/training.json")["best_step"] == 0
    assert not (root / "checkpoints/by-role").exists()


def test_another_vocabulary_is_refused(root: Path) -> None:
    model = TinyModel(builder="tiny", layers=1, width=16, heads=2, vocabulary_size=500)
    build_model(ModelSpec(model=model, seed=1, code=""), root / "models/other")
    with pytest.raises(MgsrError, match=r"checkpoint 'released' of family tiny: .*different vocabularies"):
        adopt("refused", checkpoint_spec("other"), root)
    assert not (root / "runs/refused").exists()
