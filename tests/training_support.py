"""A small results tree on which a training run takes a second or two."""

import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mgsr.config.base import Strict
from mgsr.config.families import TinyModel
from mgsr.config.measurement import EvaluationConfig
from mgsr.config.method import Method
from mgsr.config.record_sets import DataConfig, TestSetConfig
from mgsr.config.run_specs import TrainSpec
from mgsr.config.specs import DataSpec, EvaluationSpec, ModelSpec, TestSetSpec, spec_digest
from mgsr.config.stages import stage_code
from mgsr.data.prepare import prepare_data, prepare_test_set
from mgsr.evaluation.evaluator import evaluate
from mgsr.models.build import build_model
from mgsr.storage import write_json
from mgsr.training import distributed, trainer
from mgsr.training.source import StepSource
from mgsr.training.step import ForwardPass, StepSequences, TrainStep
from mgsr.training.trainer import Trainer, train
from tests.records_support import plant_spec

DATA = DataConfig(
    source="builtin",
    max_length=128,
    max_prompt_length=100,
    train_rows=24,
    validation_rows=6,
)
TEST_SETS = {"dolly": 3, "self_instruct": 3, "vicuna": 3, "sni": 3, "unni": 3}  # name to rows; a set's digest is its name here
TRAINING: dict[str, Any] = {
    "steps": 8,
    "global_batch": 4,
    "micro_batch": 4,
    "learning_rate": 1e-3,
    "validations": 2,
    "validation_rows": 3,
    "log_every": 1,
    "checkpoint_seconds": 0,
}
SCRG_MIXED = {"policy": "mixed", "scrg": {"passes": 1}}
MGSR = {"sft_weight": 1.0, "distillation": {"name": "dac_kl"}, "span_weight": 1.0}
DISTILLM = {"policy": "off_policy", "off_policy": {"initial_threshold": 0.8, "buffer_size": 8}}

# Child processes are forked from a server that has the imports done: seconds saved for each.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["mgsr.training.trainer"])


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
    method = Method.model_validate(
        {
            "title": "under test",
            "start": "base",
            "sequences": sequences or {},
            "objective": objective or {"sft_weight": 1.0},
            "training": TRAINING | changes,
        }
    )
    values: dict[str, Any] = {
        "family": "tiny",
        "method": method,
        "seed": 10,
        "data": "records",
        "data_config": DATA,
        "max_new_tokens": 10,
        "validation_protocol": "plain",
        "base_model": "student",
        "start_run": None,
        "teacher_run": "teacher",
        "lora": None,
        "threads": 1,
        "processes": 1,
        "code": "",
        "custom_code": {},
    }
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


def metrics(root: Path, run: str, kind: str = "train") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (root / "runs" / run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def weights(root: Path, run: str) -> bytes:
    """The bytes of a run's model, or of its adapters."""
    (file,) = (root / "runs" / run / "model").glob("*.safetensors")
    return file.read_bytes()


def assert_same(root: Path, first: str, second: str) -> None:
    """Two runs have the same weights and metrics, byte for byte."""
    assert weights(root, first) == weights(root, second)
    assert (root / "runs" / first / "metrics.jsonl").read_bytes() == (root / "runs" / second / "metrics.jsonl").read_bytes()


def call_train(root: Path, spec: TrainSpec) -> "tuple[str, subprocess.CompletedProcess[str]]":
    """`mgsr train` as the workflow calls it; gives the run's name and the finished process."""
    run = plant_spec(root, spec.model_copy(update={"code": stage_code("train")}))
    command = [sys.executable, "-m", "mgsr", "train", "--root", str(root), "--name", run]
    return run, subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


def _as_rank(rank: int, port: int, run: str, spec: TrainSpec, root: Path, slow: bool) -> None:
    os.environ.update(WORLD_SIZE="2", RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if slow:
        distributed.TIMEOUT = timedelta(seconds=2)
        if rank == 0:
            for owner, name in ((trainer, "load_model"), (trainer, "save_checkpoint"), (Trainer, "finish")):
                setattr(owner, name, _after_a_sleep(getattr(owner, name)))
    train(run, spec, root)


def _after_a_sleep(function: Any) -> Any:
    def slowly(*args: Any, **settings: Any) -> Any:
        time.sleep(4)
        return function(*args, **settings)

    return slowly


def train_as_two(root: Path, run: str, spec: TrainSpec, slow: bool = False) -> None:
    """`train` in two processes, without torchrun's launcher. `slow`: where the first one works alone, it needs longer than a
    collective waits."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [FORKED.Process(target=_as_rank, args=(rank, port, run, spec, root, slow)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]


def train_and_kill(root: Path, run: str, spec: TrainSpec) -> None:
    """Train in a process of its own, which is killed at a random moment after its next checkpoint."""
    folder = root / "checkpoints" / run
    before = set(folder.glob("checkpoint-*"))
    process = FORKED.Process(target=train, args=(run, spec, root))
    process.start()
    deadline = time.monotonic() + 120
    while set(folder.glob("checkpoint-*")) <= before:
        assert process.is_alive(), "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(random.Random().uniform(0, 0.1))
    process.kill()
    process.join()
    assert process.exitcode == -9


def record_steps(patch: pytest.MonkeyPatch) -> list[StepSequences]:
    """The sequences of every step from now on."""
    original, steps = StepSource.step, list[StepSequences]()

    def step(self: StepSource, number: int) -> tuple[StepSequences, dict[str, Any]]:
        sequences, facts = original(self, number)
        steps.append(sequences)
        return sequences, facts

    patch.setattr(StepSource, "step", step)
    return steps


def record_parts(patch: pytest.MonkeyPatch) -> list[list[ForwardPass]]:
    """The forward passes of every micro-batch from now on. `TRAINING` has one micro-batch a step."""
    original, micro_batches = TrainStep.forward, list[list[ForwardPass]]()

    def forward(self: TrainStep, parts: list[ForwardPass], *states: Any) -> Any:
        micro_batches.append(parts)
        return original(self, parts, *states)

    patch.setattr(TrainStep, "forward", forward)
    return micro_batches


def stop_after(step: int, patch: pytest.MonkeyPatch) -> None:
    """The next run stops as by Ctrl-C once it has saved its checkpoint of this step."""
    original = Trainer.save

    def save(self: Trainer) -> None:
        original(self)
        if self.step == step:
            raise KeyboardInterrupt

    patch.setattr(Trainer, "save", save)
