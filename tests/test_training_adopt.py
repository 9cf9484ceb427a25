"""A checkpoint that is scored and never trained: its record and its folder read like a trained run's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mgsr.cli import main
from mgsr.config.families import TinyModel
from mgsr.config.run_specs import AdoptSpec
from mgsr.config.specs import ModelSpec, spec_digest
from mgsr.config.stages import stage_code
from mgsr.errors import MgsrError
from mgsr.models.build import build_model
from mgsr.models.loading import load_model
from mgsr.storage import read_json
from mgsr.training.adopt import adopt
from mgsr.training.trainer import train
from tests.records_support import plant_spec, read_rows, run_stage
from tests.training_support import evaluated, evaluation_spec, make_root, run_spec


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_root(tmp_path_factory.mktemp("results"))
    (root / "runs" / run_stage(adopt, root, checkpoint_spec())).rename(root / "runs/released")
    return root


def checkpoint_spec(base_model: str = "student") -> AdoptSpec:
    return AdoptSpec(
        family="tiny", title="released", seed=10, data="records", base_model=base_model, teacher_run="teacher",
        precision="fp32", threads=1, code="",
    )  # fmt: skip


def test_the_weights_are_the_checkpoints(root: Path) -> None:
    own, given = (load_model(root / name).state_dict() for name in ("runs/released/model", "models/student"))
    assert own.keys() == given.keys() and all(torch.equal(own[name], given[name]) for name in own)


def test_its_record_has_every_field_of_a_trained_runs_record(root: Path) -> None:
    train("trained", run_spec(steps=2, validations=1), root)
    trained, record = (read_json(root / f"runs/{run}/training.json") for run in ("trained", "released"))
    assert trained.keys() - record.keys() == set()
    assert record["student_step_share"] is None and record["warnings"] == [] and record["validation"]["rouge_l"] is None
    assert record["best_step"] is None and record["precision"] == trained["precision"] == "fp32"
    assert record["data_digest"] == trained["data_digest"] and record["parameters"] == trained["parameters"]
    assert record["timings"]["total"] > 0 and (root / "runs/released/metrics.jsonl").read_text() == ""
    assert AdoptSpec.model_validate(read_json(root / "runs/released/spec.json")) == checkpoint_spec()


def test_it_is_evaluated_as_any_run_is(root: Path) -> None:
    folder = evaluated(root, evaluation_spec("released"))
    assert len(read_rows(folder / "rows.jsonl")) == 3 * 5 * 2 * 2
    assert read_json(folder / "summary.json")["heldout"]["forward_kl"] > 0


def test_the_command_adopts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = plant_spec(root, checkpoint_spec().model_copy(update={"code": stage_code("adopt")}))
    monkeypatch.setattr("sys.argv", ["mgsr", "adopt", "--root", str(root), "--name", name])
    main()
    assert read_json(root / "runs" / name / "training.json")["learning_rate"] is None
    assert not (root / "checkpoints" / name).exists()


def test_another_vocabulary_is_refused(root: Path) -> None:
    model = TinyModel(builder="tiny", layers=1, width=16, heads=2, vocabulary_size=500)
    build_model(ModelSpec(model=model, seed=1, code=""), root / "models/other")
    with pytest.raises(MgsrError, match=r"released of family tiny: .*different vocabularies"):
        run_stage(adopt, root, checkpoint_spec("other"))
    assert not (root / "runs" / spec_digest(checkpoint_spec("other"))).exists()
