"""Runs that are watched, stopped, killed or shared between processes."""

import multiprocessing
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mgsr.config.run_specs import TrainSpec
from mgsr.config.stages import stage_code
from mgsr.training import distributed, trainer
from mgsr.training.source import StepSource
from mgsr.training.step import ForwardPass, StepSequences, TrainStep
from mgsr.training.trainer import Trainer, train
from tests.records_support import plant_spec

# Child processes are forked from a server that has the imports done: seconds saved for each.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["mgsr.training.trainer"])


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


def _after_a_sleep(function: Callable[..., Any]) -> Callable[..., Any]:
    def slowly(*arguments: Any, **keywords: Any) -> Any:
        time.sleep(4)
        return function(*arguments, **keywords)

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


def recorded(patch: pytest.MonkeyPatch, owner: type, name: str, what: Callable[[tuple[Any, ...], Any], Any]) -> list[Any]:
    """`what` of the arguments and the result of each call of a method from now on."""
    original, found = getattr(owner, name), list[Any]()

    def call(*arguments: Any, **keywords: Any) -> Any:
        result = original(*arguments, **keywords)
        found.append(what(arguments, result))
        return result

    patch.setattr(owner, name, call)
    return found


def record_steps(patch: pytest.MonkeyPatch) -> list[StepSequences]:
    """The sequences of every step from now on."""
    return recorded(patch, StepSource, "step", lambda _, result: result[0])


def record_parts(patch: pytest.MonkeyPatch) -> list[list[ForwardPass]]:
    """The forward passes of every micro-batch from now on. `TRAINING` has one micro-batch a step."""
    return recorded(patch, TrainStep, "forward", lambda arguments, _: arguments[1])


def train_and_stop(root: Path, run: str, spec: TrainSpec, step: int) -> None:
    """The run stops as by Ctrl-C once it has saved its checkpoint of this step."""
    original = Trainer.save

    def save(self: Trainer) -> None:
        original(self)
        if self.step == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "save", save)
        train(run, spec, root)
