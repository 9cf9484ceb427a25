"""The loop: what it computes does not depend on how the work is cut, and it stops where it must."""

import shutil
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mgsr.config.families import LoraConfig
from mgsr.errors import MgsrError
from mgsr.evaluation.evaluator import Evaluator
from mgsr.evaluation.scoring import prepared_records
from mgsr.models.loading import load_model
from mgsr.storage import read_json, read_jsonl, write_json
from mgsr.training.checkpoint import load_checkpoint, run_lock
from mgsr.training.distributed import World
from mgsr.training.source import StepSource
from mgsr.training.step import ForwardPass, TrainStep
from mgsr.training.texts import Rollouts
from mgsr.training.trainer import Trainer, learning_rate_at, train
from tests.runs_support import record_parts, train_and_stop
from tests.training_support import (
    DISTILLM,
    MGSR,
    SCRG_MIXED,
    evaluation_spec,
    losses,
    make_root,
    metrics,
    record_of,
    run_spec,
    warnings_of,
)

STUDENT = {**SCRG_MIXED, "student_share": 1.0}


def test_sft_learns(root: Path) -> None:
    course = losses(root, "sft", run_spec(teacher_run=None, steps=30, learning_rate=2e-2))
    assert course[-1] < course[0] - 1


@pytest.mark.parametrize("averaging", ["token_mean", "sequence_mean"])
def test_pitfall_11_accumulation_is_the_mean_over_the_step(root: Path, averaging: str) -> None:
    objective = {**MGSR, "averaging": averaging}
    whole = losses(root, "whole", run_spec(SCRG_MIXED, objective))
    cut = losses(root, "cut", run_spec(SCRG_MIXED, objective, micro_batch=1, chunk=3, rollout_batch=2))
    assert cut == pytest.approx(whole, rel=2e-4)


def test_pitfall_10_student_steps_divide_by_their_own_tokens(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    micro_batches = record_parts(monkeypatch)
    train("own", run_spec(STUDENT, MGSR), root)
    weights = [float(parts[0].at.token_weight.sum()) for parts in micro_batches]
    assert weights == pytest.approx([1.0] * 8, rel=1e-5)


def test_pitfall_1_a_label_shift_by_one_is_caught(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = losses(root, "right", run_spec(STUDENT, MGSR))
    original = ForwardPass.to

    def shifted(self: ForwardPass, device: torch.device) -> ForwardPass:
        batch = replace(self.batch, hidden_index=self.batch.hidden_index + 1)
        return original(replace(self, batch=batch), device)

    monkeypatch.setattr(ForwardPass, "to", shifted)
    wrong = losses(root, "wrong", run_spec(STUDENT, MGSR))
    assert abs(wrong[0] - right[0]) > 1e-3


def test_mgsr_logs_every_term(root: Path) -> None:
    train("terms", run_spec(SCRG_MIXED, MGSR), root)
    line = metrics(root, "terms")[-1]
    terms = {"loss", "sft", "distillation", "span", "band/log_width", "band/kept_mass", "band/kept_classes", "band/collapsed"}
    assert terms | {"clip_network_gradient_norm", "gradient_norm", "learning_rate", "source", "student_share"} <= line.keys()
    assert line["loss"] == pytest.approx(line["sft"] + line["distillation"] + line["span"], rel=1e-4)
    card = record_of(root, "terms")
    assert 0 < card["student_step_share"] < 1
    assert {"rollout", "scrg", "chunker", "teacher", "student", "update", "validation", "total"} <= card["timings"].keys()


def test_a_run_without_student_text_says_so(root: Path) -> None:
    spec = run_spec({**DISTILLM, "off_policy": {"initial_threshold": 0.0, "tolerance": 100.0, "buffer_size": 8}}, MGSR)
    train("off", spec, root)
    assert record_of(root, "off")["student_step_share"] == 0 and "no_student_text" in warnings_of(root, "off")


def poison_step_4(patch: pytest.MonkeyPatch, poison: Callable[[TrainStep, torch.Tensor], torch.Tensor]) -> None:
    original, calls = TrainStep.forward, []

    def forward(self: TrainStep, *arguments: Any) -> Any:
        calls.append(0)
        loss, sums = original(self, *arguments)
        return (poison(self, loss) if len(calls) == 4 else loss), sums

    patch.setattr(TrainStep, "forward", forward)


def test_pitfall_31_a_loss_that_is_not_finite_stops_the_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison_step_4(monkeypatch, lambda _, loss: loss * float("nan"))
    with pytest.raises(MgsrError, match=r"run nan, step 4: the loss on dataset sequences is nan\. Examples: dolly-train"):
        train("nan", run_spec(), root)
    assert (root / "checkpoints/nan/checkpoint-000000003/state.json").exists()


def test_pitfall_31_a_gradient_that_is_not_finite_spoils_no_checkpoint(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # at 0 sqrt has no finite slope
    poison_step_4(monkeypatch, lambda step, loss: loss + (step.head.get_parameter("weight").sum() * 0).sqrt())
    with pytest.raises(MgsrError, match=r"run slope, step 4: the gradient norm on dataset sequences is nan\. Examples: dolly"):
        train("slope", run_spec(), root)
    step, tensors, _ = load_checkpoint(root / "checkpoints/slope") or (0, {}, {})
    assert step == 3 and all(tensor.isfinite().all() for tensor in tensors["student"].values())


def test_errors_of_rollouts_and_validation_name_run_and_step(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise MgsrError("not finite")

    monkeypatch.setattr(Rollouts, "revise", fail)
    with pytest.raises(MgsrError, match="run rolled, step 1: not finite"):
        train("rolled", run_spec(STUDENT, MGSR), root)
    monkeypatch.setattr(StepSource, "on_validation", lambda self, _: self._steps and fail())
    with pytest.raises(MgsrError, match="run validated, step 4: not finite"):
        train("validated", run_spec(), root)


def test_a_second_trainer_waits_and_then_finds_what_the_first_one_made(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = ExitStack()
    first.enter_context(run_lock(root / "checkpoints/twice"))
    threading.Timer(1.0, first.close).start()
    train("twice", run_spec(), root)
    assert "another process trains this run; this one waits for it" in capsys.readouterr().err
    record = (root / "runs/twice/training.json").read_bytes()
    train("twice", run_spec(), root)
    assert (root / "runs/twice/training.json").read_bytes() == record


def test_a_run_refuses_data_that_changed(root: Path) -> None:
    spec, records = run_spec(data="changing"), root / "data/changing"
    shutil.copytree(root / "data/records", records)
    train_and_stop(root, "moved", spec, 1)
    write_json(records / "manifest.json", {**read_json(records / "manifest.json"), "digest": "another"})
    with pytest.raises(MgsrError, match="the data changed"):
        train("moved", spec, root)


def test_lora_trains_and_keeps_adapters_alone(root: Path) -> None:
    train("lora", run_spec(SCRG_MIXED, MGSR, lora=LoraConfig(rank=2, dropout=0.0), learning_rate=1e-2), root)
    before = load_model(root / "models/student").state_dict()
    after = load_model(root / "runs/lora/model").state_dict()
    assert not list((root / "runs/lora/model").glob("model*.safetensors"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(".q_proj." in name or ".v_proj." in name for name in moved)
    untied = {tensor.data_ptr(): tensor.numel() for tensor in after.values()}
    assert record_of(root, "lora")["parameters"] == sum(untied.values())
    spec = evaluation_spec("lora")
    answers = Evaluator(root, spec).answers(("dolly", "plain", 10), prepared_records(root, spec, "dolly"))
    assert len(answers) == 3 and all(answer.text for answer in answers)


def test_bf16_autocast_runs_and_keeps_fp32_weights(root: Path) -> None:
    course = losses(root, "bf16", run_spec(SCRG_MIXED, MGSR, precision="bf16"))
    assert course == pytest.approx(losses(root, "fp32", run_spec(SCRG_MIXED, MGSR)), rel=0.1)
    assert {tensor.dtype for tensor in load_model(root / "runs/bf16/model").state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, dropout=0.1)])
def test_frozen_weights_are_narrow_under_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: LoraConfig | None) -> None:
    """And nothing else changes."""
    root, spec = make_root(tmp_path), run_spec(SCRG_MIXED, MGSR, precision="bf16", lora=lora, learning_rate=1e-2)
    trainer = Trainer("narrow", spec, root, World(0, 1, torch.device("cpu")))
    assert trainer.models.teacher is not None
    for model, frozen in ((trainer.models.teacher.backbone, True), (trainer.student, lora is not None)):
        kinds = {(parameter.dtype, parameter.requires_grad) for parameter in model.parameters()}
        assert ((torch.bfloat16, False) in kinds) is frozen and (torch.bfloat16, True) not in kinds
    course = losses(root, "narrow", spec)
    monkeypatch.setattr("mgsr.models.loading.narrow", lambda model, **_: None)
    assert losses(root, "wide", spec) == course
    folders = "runs/narrow/model", "runs/wide/model", "models/student"
    saved, wide, start = (load_model(root / folder).state_dict() for folder in folders)
    assert all(torch.equal(saved[name], wide[name]) for name in wide)
    if lora is not None:  # what no adapter touches is saved as it was loaded, in fp32
        assert all(torch.equal(saved[name], start[name]) for name in start if ".mlp." in name or "embed" in name)


def test_learning_rate_goes_from_warm_up_to_the_cosines_end() -> None:
    spec = run_spec(steps=100, warmup_steps=10, learning_rate=1.0, final_learning_rate=0.1)
    rates = [learning_rate_at(step, 100, spec) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0) and rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1) and rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate_at(1, 1, run_spec(steps=1, learning_rate=1.0)) == 1.0


def test_the_optimiser_gets_the_cosine_and_metrics_keep_small_figures(root: Path) -> None:
    train("rates", run_spec(steps=4, learning_rate=1e-3, final_learning_rate=1.25e-7), root)
    rates = [line["learning_rate"] for line in metrics(root, "rates")]
    assert rates[0] == 1e-3 and rates[-1] == 1.25e-7


@pytest.mark.parametrize(
    ("checks", "steps"), [(4, [0, 3, 6, 9, 12]), (3, [0, 4, 8, 12]), (None, [0, 6, 12]), (99, list(range(13)))]
)
def test_distillms_threshold_is_reconsidered_apart_from_the_choice_of_a_checkpoint(
    root: Path, monkeypatch: pytest.MonkeyPatch, checks: int | None, steps: list[int]
) -> None:
    losses: list[float] = []
    monkeypatch.setattr(StepSource, "on_validation", lambda _, loss: losses.append(loss))
    schedule = {"initial_threshold": 0.5, "buffer_size": 8, "checks": checks}
    spec = run_spec({"policy": "off_policy", "off_policy": schedule}, MGSR, steps=12, validations=2)
    train(f"checks {checks}", spec, root)
    lines = [line for line in read_jsonl(root / f"runs/checks {checks}/metrics.jsonl") if line["kind"] == "validation"]
    assert [line["step"] for line in lines if "rouge_l" in line] == [6, 12]
    assert sorted({line["step"] for line in lines}) == sorted({*steps, 6, 12})
    assert losses == pytest.approx([line["loss"] for line in lines if line["step"] in steps], rel=1e-5)
