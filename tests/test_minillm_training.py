"""MiniLLM in the training loop: when it collects, and what a step trains on."""

from pathlib import Path

import pytest
import torch

from mgsr.rollouts.collection import Collection, Rollout
from mgsr.training.trainer import train
from tests.runs_support import record_steps, recorded
from tests.training_support import COLLECTION, POLICY_GRADIENT, losses, metrics, record_of, run_spec, warnings_of


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[list[Rollout]]:
    """The rollouts of each collection."""
    return recorded(monkeypatch, Collection, "fill", lambda arguments, _: arguments[2])


def test_a_collection_serves_its_inner_epochs_and_every_step_is_the_students(
    root: Path, collected: list[list[Rollout]], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = record_steps(monkeypatch)
    train("whole", run_spec(COLLECTION, POLICY_GRADIENT, steps=10), root)
    assert [len(rollouts) for rollouts in collected] == [8, 8, 8]
    prompts = [rollout.sequence.example_id for rollouts in collected for rollout in rollouts]
    assert len(set(prompts)) == 24  # the data order goes on where the collection before ended
    for number, step in enumerate(steps):
        of = {rollout.sequence.example_id: rollout for rollout in collected[number // 4]}
        assert [s.example_id for s in step.truth] == [s.example_id for s in step.distilled]
        assert all(s.author == "dataset" for s in step.truth)
        assert all(s is of[s.example_id].sequence and s.author == "student" for s in step.distilled)
        assert step.rollout is not None
        advantages = torch.cat(step.rollout)[:, 1]
        assert float(advantages.mean()) == pytest.approx(0, abs=1e-5)
        assert float(advantages.std(correction=0)) == pytest.approx(1, abs=1e-4)
        for sequence, columns in zip(step.distilled, step.rollout, strict=True):
            assert torch.equal(columns[:, 0], of[sequence.example_id].log_probs[:, 0])
    lines = metrics(root, "whole")
    assert {line["source"] for line in lines} == {"student"} and record_of(root, "whole")["student_step_share"] == 1
    assert "no_student_text" not in warnings_of(root, "whole")
    assert {f"policy_gradient/{name}" for name in ("single_step", "ratio", "clipped")} <= lines[0].keys()
    assert lines[0]["loss"] == pytest.approx(lines[0]["sft"] + lines[0]["distillation"], rel=1e-4)


def test_the_ratio_is_one_until_the_student_moves(root: Path) -> None:
    sequences = {**COLLECTION, "collection": {**COLLECTION["collection"], "teacher_mix": 0.0}}
    train("ratio", run_spec(sequences, POLICY_GRADIENT, steps=8, learning_rate=3e-2), root)
    lines = metrics(root, "ratio")
    fresh, moved = [lines[i] for i in (0, 4)], [lines[i] for i in (1, 2, 3, 5, 6, 7)]
    assert all(line["policy_gradient/ratio"] == pytest.approx(1, abs=1e-5) for line in fresh)
    assert all(line["policy_gradient/clipped"] == 0 for line in fresh)
    assert all(abs(line["policy_gradient/ratio"] - 1) > 1e-3 for line in moved)
    assert any(line["policy_gradient/clipped"] > 0 for line in moved)


def test_the_student_comes_nearer_to_the_teacher(root: Path) -> None:
    spec = run_spec(COLLECTION, {**POLICY_GRADIENT, "sft_weight": 0.0}, steps=40, learning_rate=1e-2, validations=1)
    train("learns", spec, root)
    course = [line["policy_gradient/single_step"] for line in metrics(root, "learns")]
    assert sum(course[-8:]) < 0.8 * sum(course[:8])


def test_accumulation_and_chunks_change_nothing(root: Path) -> None:
    coarse = losses(root, "coarse", run_spec(COLLECTION, POLICY_GRADIENT))
    fine = losses(root, "fine", run_spec(COLLECTION, POLICY_GRADIENT, micro_batch=1, chunk=3, rollout_batch=3))
    assert coarse == pytest.approx(fine, rel=2e-3, abs=1e-4)
