"""A small results tree on which a training run takes a second or two."""

import json
import multiprocessing
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mgsr.config.base import Strict
from mgsr.config.families import TinyModel
from mgsr.config.measurement import EvaluationConfig
from mgsr.config.method import Method
from mgsr.config.record_sets import DataConfig
from mgsr.config.specs import DataSpec, EvaluationSpec, ModelSpec, RunSpec, spec_digest
from mgsr.data.prepare import prepare
from mgsr.evaluation.evaluator import evaluate
from mgsr.models.build import build_model
from mgsr.storage import write_json
from mgsr.training.source import StepSource
from mgsr.training.step import Part, StepSequences, TrainStep
from mgsr.training.trainer import Trainer, train

DATA = DataConfig(
    source="builtin",
    max_length=128,
    max_prompt_length=100,
    train_rows=24,
    validation_rows=6,
    test_rows={"dolly": 3, "self_instruct": 3, "vicuna": 3, "sni": 3, "unni": 3},
)
TEST_SETS = dict(DATA.test_rows)  # name to rows; the digest of a set is its name here
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
    prepare(DataSpec(source="builtin", data_dir=None, split="paper", code=""), root / "data/records", root / "lock.json")
    for name in TEST_SETS:
        (root / "test_sets" / name).mkdir(parents=True)
        shutil.copy(root / f"data/records/{name}.jsonl", root / f"test_sets/{name}/records.jsonl")
    for name, layers, width in (("teacher", 2, 32), ("student", 1, 16)):
        model = TinyModel(builder="tiny", layers=layers, width=width, heads=2, initializer_range=0.1)
        folder = root / ("runs/teacher/model" if name == "teacher" else "models/student")
        build_model(ModelSpec(model=model, seed=layers, code=""), folder)
    write_json(root / "runs/teacher/training.json", {"precision": "fp32"})  # what an evaluation reads of a record
    return root


def run_spec(sequences: dict[str, Any] | None = None, objective: dict[str, Any] | None = None, **changes: Any) -> RunSpec:
    """A student's run; `changes` are of the training settings, or of the spec where it has the key."""
    spec = {name: changes.pop(name) for name in list(changes) if name in RunSpec.model_fields}
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
        "candidates": (),
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
        "custom_code": (),
    }
    return RunSpec(**(values | spec))


def evaluation_spec(run: str, **changes: Any) -> EvaluationSpec:
    values: dict[str, Any] = {
        "run": run, "teacher_run": "teacher", "family": "tiny", "test_sets": {name: name for name in TEST_SETS},
        "rows": TEST_SETS, "max_length": DATA.max_length, "max_prompt_length": DATA.max_prompt_length,
        "evaluation": EvaluationConfig(decoding_seeds=(10, 20), max_new_tokens=8, batch=4, heldout_rows=3),
        "metrics": ("rouge_l",), "threads": 1, "answer_code": "", "custom_code": (), "code": "",
    }  # fmt: skip
    return EvaluationSpec(**(values | changes))


def plant_spec(root: Path, spec: Strict) -> str:
    """Where a job finds its spec; gives the spec's name."""
    write_json(root / "specs" / f"{spec_digest(spec)}.json", spec.model_dump(mode="json"))
    return spec_digest(spec)


def evaluated(root: Path, spec: EvaluationSpec) -> Path:
    """The folder of a run's evaluation."""
    name = plant_spec(root, spec)
    evaluate(root, name)
    return root / "evaluations" / name


def metrics(root: Path, run: str, kind: str = "train") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (root / "runs" / run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def weights(root: Path, run: str) -> bytes:
    return (root / "runs" / run / "model/model.safetensors").read_bytes()


def assert_same(root: Path, first: str, second: str) -> None:
    """Two runs have the same weights and metrics, byte for byte."""
    assert weights(root, first) == weights(root, second)
    assert (root / "runs" / first / "metrics.jsonl").read_bytes() == (root / "runs" / second / "metrics.jsonl").read_bytes()


def call_train(root: Path, run: str, spec: RunSpec) -> "subprocess.CompletedProcess[str]":
    """`mgsr train` as the workflow calls it."""
    command = [sys.executable, "-c", "from mgsr.cli import main; main()", "train", "--run", run, "--root", str(root)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, "--spec", spec.model_dump_json()], env=environment, capture_output=True, text=True)


def _as_rank(rank: int, port: int, run: str, spec: RunSpec, root: Path) -> None:
    os.environ.update(WORLD_SIZE="2", RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    train(run, spec, root)


def train_as_two(root: Path, run: str, spec: RunSpec) -> None:
    """`train` in two processes, without torchrun's launcher."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [FORKED.Process(target=_as_rank, args=(rank, port, run, spec, root)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]


def train_and_kill(root: Path, run: str, spec: RunSpec) -> None:
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


def record_parts(patch: pytest.MonkeyPatch) -> list[list[Part]]:
    """The forward passes of every micro-batch from now on. `TRAINING` has one micro-batch a step."""
    original, micro_batches = TrainStep.forward, list[list[Part]]()

    def forward(self: TrainStep, parts: list[Part], *states: Any) -> Any:
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
