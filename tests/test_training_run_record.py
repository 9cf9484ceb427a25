"""Failure signatures and the other facts of a card."""

import json
import random
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from mgsr.data.encoding import encode_examples
from mgsr.data.records import load_records
from mgsr.models.loading import load_tokenizer
from mgsr.objectives.objective import Objective
from mgsr.training.run_record import SPIKE_START, SPIKE_WINDOW, WarningSigns
from mgsr.training.trainer import train
from tests.runs_support import recorded
from tests.training_support import DATA, MGSR, SCRG_MIXED, TRAINING, metrics, record_of, run_spec, warnings_of

PLAIN = {"distillation": 1.0, "sft": 1.0, "span": 0.0, "band/collapsed": 0.0, "clip_network_gradient_norm": 1.0}


def watch(figures: Iterable[dict[str, float]], objective: dict[str, Any] | None = None, **limits: Any) -> WarningSigns:
    signatures = WarningSigns(run_spec(SCRG_MIXED, objective or MGSR, warnings=limits))
    for step, values in enumerate(figures, 1):
        signatures.on_step(step, {**PLAIN, **values})
    return signatures


def names(signatures: WarningSigns, student_share: float | None = 0.5) -> list[str]:
    return [warning["name"] for warning in signatures.warnings(student_share)]


@pytest.mark.parametrize("factor", [1.5, 5.0])
def test_spikes_are_those_above_the_running_median(factor: float) -> None:
    draw = random.Random(3)
    values = [draw.lognormvariate(0, 0.7) for _ in range(400)]
    medians = [statistics.median(values[max(0, i - SPIKE_WINDOW) : i]) for i in range(SPIKE_START, 400)]
    times = [value / middle for value, middle in zip(values[SPIKE_START:], medians, strict=True)]
    count, worst = sum(ratio > factor for ratio in times), max(times)
    (warning,) = watch([{"distillation": value} for value in values], spike_factor=factor).warnings(0.5)
    assert warning["name"] == "dac_kl_spikes" and count > 0
    assert f"{count} of 400" in warning["message"]
    assert f"{worst:.3g} times (step {times.index(worst) + SPIKE_START + 1})" in warning["message"]


CALM = [{"distillation": 1.0, "band/penalty": 0.0}] * SPIKE_START
HEAVY = {**MGSR, "span_weight": 3.0, "sft_weight": 0.5}
HIGH, LOW = ({"span": span, "sft": 1.0, "distillation": 1.0} for span in (0.51, 0.49))
COLLAPSED, WHOLE = {"band/collapsed": 0.9}, {"band/collapsed": 0.89}
GOLD = {"teacher_text_gold": 1.0}
STILL, MOVED = {"clip_network_gradient_norm": 9e-9}, {"clip_network_gradient_norm": 1.1e-8}


@pytest.mark.parametrize(
    ("name", "told", "untold"),
    [
        ("dac_kl_spikes", [*CALM, {"distillation": 5.01}], [*CALM, {"distillation": 5.0}]),
        ("dac_kl_spikes", [*CALM, {"distillation": 100.0}], [*CALM[1:], {"distillation": 100.0}]),
        ("dac_kl_spikes", [*CALM, {"distillation": 9.0}], [{"distillation": -0.1}] * 50 + [{"distillation": 3.0}]),
        # the metrics' `distillation` holds the penalty of lost mass, but it trains the clipping network alone
        ("dac_kl_spikes", *([*CALM, {"distillation": 9.0, "band/penalty": penalty}] for penalty in (3.0, 8.0))),
        ("band_collapsed", *([COLLAPSED] * n + [WHOLE] * (100 - n) for n in (90, 89))),
        ("clip_network_untrained", *([STILL] * n + [MOVED] * (100 - n) for n in (90, 89))),
        ("span_dominates", [HIGH] * 100, [HIGH] * 99 + [LOW] + [HIGH] * 99),
        ("span_dominates", [{**HIGH, "distillation": -1.0}] * 100, [LOW] * 300),
        ("teacher_text_is_gold", [GOLD] * 3, [GOLD] * 3 + [{"teacher_text_gold": 0.75}]),
    ],
)
def test_a_sign_is_told_from_its_limit_on(name: str, told: list[dict[str, float]], untold: list[dict[str, float]]) -> None:
    objective = HEAVY if name == "span_dominates" else MGSR
    assert (names(watch(told, objective)), names(watch(untold, objective))) == ([name], [])


def test_limits_can_be_set() -> None:
    assert names(watch([COLLAPSED] * 50 + [WHOLE] * 50, steps_share=0.5)) == ["band_collapsed"]
    assert names(watch([STILL] * 50 + [MOVED] * 50, steps_share=0.5)) == ["clip_network_untrained"]
    assert names(watch([WHOLE] * 100, collapsed_share=0.89)) == ["band_collapsed"]
    assert names(watch([MOVED] * 100, untrained_norm=1e-6)) == ["clip_network_untrained"]
    assert names(watch([HIGH] * 7, HEAVY, span_steps=7)) == ["span_dominates"]
    (warning,) = watch([LOW] * 5 + [HIGH] * 120 + [LOW] * 5, HEAVY).warnings(1.0)
    assert "120 steps in a row, up to step 125" in warning["message"]


@pytest.mark.parametrize(("parts", "told"), [("target_only", []), ("dense_only", ["band_collapsed"])])
def test_a_band_that_is_not_there_does_not_collapse(parts: str, told: list[str]) -> None:
    assert names(watch([COLLAPSED] * 50, {**MGSR, "distillation": {"name": "dac_kl", "parts": parts}})) == told


def test_steps_that_distil_on_nothing_count_for_nothing() -> None:
    signatures = WarningSigns(run_spec(SCRG_MIXED, MGSR, warnings={"span_steps": 20}))
    bad = {**PLAIN, "span": 9.0, "band/collapsed": 1.0, "clip_network_gradient_norm": 0.0}
    for step in range(1, 41):
        signatures.on_step(step, bad if step % 2 else {"sft": 1.0, "loss": 1.0})
    assert names(signatures) == ["band_collapsed", "clip_network_untrained", "span_dominates"]


def test_a_healthy_run_and_one_without_student_text() -> None:
    assert names(watch([{}] * 300)) == WarningSigns(run_spec()).warnings(None) == names(watch([]), None) == []
    assert names(watch([]), 0.0) == ["no_student_text"]


def test_signatures_continue_from_their_state() -> None:
    draw = random.Random(1)
    drawn = [(draw.lognormvariate(0, 1), draw.choice([0.0, 9.0, 9.0]), draw.random()) for _ in range(300)]
    figures = [PLAIN | {"distillation": loss, "span": span, "band/collapsed": share} for loss, span, share in drawn]
    limits: dict[str, Any] = {"span_steps": 4, "collapsed_share": 0.1, "steps_share": 0.5}
    spec = run_spec(SCRG_MIXED, MGSR, warnings=limits)
    whole = watch(figures, **limits)
    for stop in (1, 57, 299):
        stopped, resumed = watch(figures[:stop], **limits), WarningSigns(spec)
        resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
        for step, values in enumerate(figures[stop:], stop + 1):
            resumed.on_step(step, values)
        assert resumed.warnings(0.5) == whole.warnings(0.5)
        assert resumed.state_dict() == whole.state_dict()
    assert len(whole.warnings(0.5)) == 3


def test_a_run_watches_the_steps_that_it_does_not_log(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = recorded(monkeypatch, WarningSigns, "on_step", lambda arguments, _: arguments[1])
    printed = {**MGSR["distillation"], "start_upper": 0.5, "start_lower": 0.5, "mask_space": "probability", "softness": 1e-7}
    objective = {**MGSR, "distillation": {**printed, "trained_by": "same"}}
    train("watched", run_spec(SCRG_MIXED, objective, log_every=100), root)
    assert steps == list(range(1, 9)) and len(metrics(root, "watched")) == 1
    found = warnings_of(root, "watched")
    assert "in 8 of 8 steps" in found["band_collapsed"] and "in 8 of 8 steps" in found["clip_network_untrained"]


def test_a_network_that_nothing_trains_is_not_called_untrained(root: Path) -> None:
    for reading in ({"trained_by": "detached"}, {"thresholds": "fixed"}):
        train("fixed", run_spec(SCRG_MIXED, {**MGSR, "distillation": {"name": "dac_kl", **reading}}, steps=3), root)
        assert "clip_network_untrained" not in warnings_of(root, "fixed")


def test_the_card_has_speed_memory_and_the_scores_of_the_kept_checkpoint(root: Path) -> None:
    train("facts", run_spec(SCRG_MIXED, MGSR), root)
    card = record_of(root, "facts")
    seconds = card["timings"]["total"] - card["timings"]["validation"]
    assert card["examples_per_second"] == pytest.approx(TRAINING["steps"] * TRAINING["global_batch"] / seconds, rel=0.01)
    assert 50e6 < card["peak_memory_bytes"] < 50e9
    folder = root / "models/student"
    examples, _ = encode_examples(load_records(root / "data/records", "validation")[:6], load_tokenizer(folder), DATA)
    assert list(card["validation_scores"]) == sorted(example.id for example in examples[:3])
    mean = statistics.fmean(card["validation_scores"].values())
    assert mean == pytest.approx(card["validation"]["rouge_l"], abs=1e-3)
    (line,) = [line for line in metrics(root, "facts", "validation") if line["step"] == card["best_step"]]
    assert line["rouge_l"] == pytest.approx(mean, abs=1e-3)


def test_the_objective_knows_how_far_the_run_is_and_what_a_step_gave(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = recorded(monkeypatch, Objective, "after_step", lambda given, _: (given[0].progress, given[1]["distillation"]))
    train("progress", run_spec({}, {"distillation": {"name": "forward_kl"}}), root)
    assert [progress for progress, _ in seen] == [step / 8 for step in range(1, 9)]
    assert [value for _, value in seen] == pytest.approx([line["distillation"] for line in metrics(root, "progress")], rel=1e-4)
