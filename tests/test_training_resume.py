"""Killed at random moments, a run ends with the same weights, bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mgsr.config.families import LoraConfig
from mgsr.config.specs import spec_digest
from mgsr.config.stages import stage_code
from mgsr.rollouts.sequence import Sequence
from mgsr.training.texts import Rollouts
from mgsr.training.trainer import train
from tests.runs_support import assert_same, call_train, train_and_kill, train_and_stop
from tests.training_support import COLLECTION, DISTILLM, MGSR, POLICY_GRADIENT, SCRG_MIXED, record_of, run_spec

METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mgsr": (SCRG_MIXED, MGSR),
    "distillm": (DISTILLM, {"sft_weight": 1.0, "distillation": {"name": "skew_forward_kl"}}),
    "minillm": (COLLECTION, POLICY_GRADIENT),
}


@pytest.mark.parametrize("name", METHODS)
def test_killed_three_times_ends_with_the_same_weights(root: Path, name: str) -> None:
    spec = run_spec(*METHODS[name], steps=24, dropout=0.1).model_copy(update={"code": stage_code("train")})
    whole, killed = f"{name}-whole", spec_digest(spec)  # as the command finds its spec
    train(whole, spec, root)
    for _ in range(3):
        train_and_kill(root, killed, spec)
    if name == "mgsr":
        _, finished = call_train(root, spec)
        assert finished.returncode == 0, finished.stderr
    else:
        train(killed, spec, root)
    assert_same(root, whole, killed)
    assert not (root / "checkpoints" / killed).exists()


def test_a_damaged_checkpoint_is_passed_over(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = run_spec(DISTILLM, MGSR, steps=6, validations=3)
    train("sound", spec, root)
    train_and_stop(root, "stopped", spec, 4)
    names = [f"{name}.safetensors" for name in ("best", "objective", "optimizer", "student")] + ["state.json", "checksums.json"]
    assert {path.name for path in (root / "checkpoints/stopped/checkpoint-000000004").iterdir()} == {*names, "seal.json"}
    for name in names:
        run = f"damaged-{name}"
        shutil.copytree(root / "checkpoints/stopped", root / "checkpoints" / run)
        file = root / "checkpoints" / run / "checkpoint-000000004" / name
        content = bytearray(file.read_bytes())
        # a digit of a JSON file stays a digit: only a checksum can tell
        place = content.index(b'"loss": ') + 8 if name == "state.json" else content.index(b'": "') + 4 if "sums" in name else -1
        content[place] ^= 1
        file.write_bytes(content)
        train(run, spec, root)
        assert f"checkpoint-000000004 is damaged ({'' if 'sums' in name else name}" in capsys.readouterr().err
        assert_same(root, "sound", run)


ADAPTERS = {"lora": LoraConfig(rank=2, dropout=0.3), "learning_rate": 1e-2}
STOPPED: dict[str, tuple[dict[str, Any], ...]] = {  # sequences, objective, other settings
    "seqkd": ({"policy": "teacher"}, {"sft_weight": 1.0, "distillation": {"name": "cross_entropy"}}),
    "revised-teacher": ({"policy": "teacher", "scrg": {"passes": 1, "suffix_writer": "teacher"}}, MGSR),
    "sft-alone": ({**SCRG_MIXED, "dataset_terms": "sft"}, MGSR),
    "custom": ({"policy": "custom", "function": "tests.test_training_resume:half_and_half"}, MGSR),
    "own-loss": ({}, {"distillation": {"name": "custom", "function": "tests.test_training_resume:Smoothed"}}),
    "within-a-collection": (COLLECTION, {**POLICY_GRADIENT, "span_weight": 1.0}, {"dropout": 0.1}),
    "adapters-with-dropout": (SCRG_MIXED, MGSR, ADAPTERS),
}


def half_and_half(rollouts: Rollouts, examples: Any, visits: Any, *, step: int, steps: int) -> list[Sequence]:
    return (rollouts.student if step % 2 else rollouts.teacher)(examples, visits)


class Smoothed(torch.nn.Module):
    """Reverse KL, weighted by a running mean of its own past values."""

    level: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.ones(()))

    def forward(self, student_logp: torch.Tensor, teacher_logp: torch.Tensor, progress: float) -> torch.Tensor:
        weight = self.level * (1 + progress)
        return weight * (student_logp.exp() * (student_logp - teacher_logp)).sum(-1)

    def after_step(self, distillation: float, progress: float) -> None:
        self.level.mul_(0.5).add_(distillation)


@pytest.mark.parametrize("name", STOPPED)
def test_stopped_in_the_second_epoch_ends_with_the_same_weights(root: Path, name: str) -> None:
    sequences, objective, *others = STOPPED[name]
    limits = {"span_steps": 3, "span_share": 1e-6, "spike_factor": 1.1}
    spec = run_spec(sequences, objective, steps=10, warnings=limits, **(others[0] if others else {}))
    train(f"{name}-whole", spec, root)
    train_and_stop(root, f"{name}-stopped", spec, 7)
    train(f"{name}-stopped", spec, root)
    assert_same(root, f"{name}-whole", f"{name}-stopped")
    records = [record_of(root, f"{name}-{run}") for run in ("whole", "stopped")]
    for fact in ("warnings", "student_step_share", "validation", "validation_scores", "best_step"):
        assert records[0][fact] == records[1][fact]
