"""A small results tree on which a training run takes a second or two."""

from pathlib import Path
from typing import Any

from mgsr.config.base import Strict
from mgsr.config.families import TinyModel
from mgsr.config.measurement import EvaluationConfig
from mgsr.config.method import Method
from mgsr.config.record_sets import DataConfig, TestSetConfig
from mgsr.config.run_specs import TrainSpec
from mgsr.config.specs import DataSpec, EvaluationSpec, ModelSpec, TestSetSpec, spec_digest
from mgsr.data.prepare import prepare_data, prepare_test_set
from mgsr.evaluation.evaluator import evaluate
from mgsr.models.build import build_model
from mgsr.storage import read_json, read_jsonl, write_json
from mgsr.training.trainer import train
from tests.records_support import plant_spec

DATA = DataConfig(source="builtin", max_length=128, max_prompt_length=100, train_rows=24, validation_rows=6)
TEST_SETS = {"dolly": 3, "self_instruct": 3, "vicuna": 3, "sni": 3, "unni": 3}  # name to rows; a set's digest is its name here
TRAINING: dict[str, Any] = {
    "steps": 8, "global_batch": 4, "micro_batch": 4, "learning_rate": 1e-3, "validations": 2, "validation_rows": 3,
    "log_every": 1, "checkpoint_seconds": 0,
}  # fmt: skip
SCRG_MIXED = {"policy": "mixed", "scrg": {"passes": 1}}
MGSR = {"sft_weight": 1.0, "distillation": {"name": "dac_kl"}, "span_weight": 1.0}
COLLECTION = {"policy": "collection", "collection": {"rollouts": 8, "inner_epochs": 2}}  # of batches of 4: four steps
POLICY_GRADIENT: dict[str, Any] = {"sft_weight": 1.0, "distillation": {"name": "policy_gradient"}}
DISTILLM = {"policy": "off_policy", "off_policy": {"initial_threshold": 0.8, "buffer_size": 8}}


def make_root(root: Path) -> Path:
    """Records, a teacher and a student that are not trained."""
    spec: Strict = DataSpec(source="builtin", place=None, split="paper", contents={}, code="")
    prepare_data(root, plant_spec(root, spec))
    (root / "data" / spec_digest(spec)).rename(root / "data/records")
    for name in TEST_SETS:
        spec = builtin_set(name)
        prepare_test_set(root, plant_spec(root, spec))
        (root / "test_sets" / spec_digest(spec)).rename(root / "test_sets" / name)
    for name, layers, width in (("teacher", 2, 32), ("student", 1, 16)):
        model = TinyModel(builder="tiny", layers=layers, width=width, heads=2, initializer_range=0.1)
        folder = root / ("runs/teacher/model" if name == "teacher" else "models/student")
        build_model(ModelSpec(model=model, seed=layers, code=""), folder)
    write_json(root / "runs/teacher/training.json", {"precision": "fp32"})
    return root


def builtin_set(name: str) -> TestSetSpec:
    """A generated test set, of the training records `data/records`."""
    origin = TestSetConfig(title=name, path=name)
    return TestSetSpec(name=name, data="records", test_set=origin, source="builtin", place=None, contents={}, code="")


def run_spec(sequences: dict[str, Any] | None = None, objective: dict[str, Any] | None = None, **changes: Any) -> TrainSpec:
    """A student's run; `changes` are of the training settings, or of the spec where it has the key."""
    spec = {name: changes.pop(name) for name in list(changes) if name in TrainSpec.model_fields}
    stated = {"title": "under test", "start": "base", "sequences": sequences or {}, "objective": objective or {"sft_weight": 1}}
    values: dict[str, Any] = {
        "family": "tiny", "method": Method.model_validate({**stated, "training": TRAINING | changes}), "seed": 10,
        "data": "records", "data_config": DATA, "max_new_tokens": 10, "validation_protocol": "plain",
        "base_model": "student", "start_run": None, "teacher_run": "teacher", "lora": None,
        "threads": 1, "processes": 1, "code": "", "custom_code": {},
    }  # fmt: skip
    return TrainSpec(**(values | spec))


def evaluation_spec(run: str, **changes: Any) -> EvaluationSpec:
    values: dict[str, Any] = {
        "run": run, "teacher_run": "teacher", "family": "tiny", "test_sets": {name: name for name in TEST_SETS},
        "rows": TEST_SETS, "max_length": DATA.max_length, "max_prompt_length": DATA.max_prompt_length,
        "evaluation": EvaluationConfig(decoding_seeds=(10, 20), max_new_tokens=8, batch=4, heldout_rows=3),
        "metrics": ("rouge_l",), "threads": 1, "answer_code": "", "custom_code": {}, "code": "",
    }  # fmt: skip
    return EvaluationSpec(**(values | changes))


def evaluated(root: Path, spec: EvaluationSpec) -> Path:
    """The folder of a run's evaluation."""
    name = plant_spec(root, spec)
    evaluate(root, name)
    return root / "evaluations" / name


def record_of(root: Path, run: str) -> dict[str, Any]:
    """A run's training.json."""
    return read_json(root / "runs" / run / "training.json")


def warnings_of(root: Path, run: str) -> dict[str, str]:
    """Messages by name."""
    return {warning["name"]: warning["message"] for warning in record_of(root, run)["warnings"]}


def losses(root: Path, run: str, spec: TrainSpec) -> list[float]:
    """Of each step of a run that is trained here."""
    train(run, spec, root)
    return [line["loss"] for line in metrics(root, run)]


def metrics(root: Path, run: str, kind: str = "train") -> list[dict[str, Any]]:
    return [line for line in read_jsonl(root / "runs" / run / "metrics.jsonl") if line["kind"] == kind]
