"""ExAccErr against chains with a closed form, against loops over the models' own logits, and by its two readings."""

import math
from collections.abc import Sequence as Items
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from mgsr.config.measurement import ExposureConfig
from mgsr.config.specs import ExposureSpec, SamplesSpec, spec_digest
from mgsr.errors import MgsrError
from mgsr.evaluation.accumulation import SOURCES, Divergences, read_divergences
from mgsr.evaluation.exposure import divergences_by_position, measure_exposure, sample_teacher, sum_by_prompt
from mgsr.evaluation.intervals import percentile_interval
from mgsr.evaluation.trained_model import TrainedModel
from mgsr.models.language_model import LanguageModel
from mgsr.rollouts.sampler import Decoding, Prompt
from mgsr.rollouts.sequence import Sequence
from mgsr.storage import read_json, read_jsonl
from mgsr.training.trainer import train
from tests.records_support import run_stage
from tests.training_support import DATA, run_spec

CONFIG = ExposureConfig(lengths=(2, 4), samples=3, rows=3)


# --- the definition ---------------------------------------------------------------------------------------------------

EOS = 3
# the student stays in state 1, where it is far from the teacher, and the teacher seldom goes there
STUDENT = torch.tensor([[0.4, 0.4, 0.1, 0.1], [0.05, 0.8, 0.05, 0.1], [0.3, 0.3, 0.3, 0.1], [0.25, 0.25, 0.25, 0.25]])
TEACHER = torch.tensor([[0.6, 0.1, 0.2, 0.1], [0.6, 0.1, 0.1, 0.2], [0.1, 0.2, 0.5, 0.2], [0.25, 0.25, 0.25, 0.25]])


class Chain(nn.Module):
    """A backbone that knows the current token and nothing else, and so needs no cache."""

    config = SimpleNamespace(model_type="chain")

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=nn.functional.one_hot(input_ids, 4).float())


def chain(transitions: torch.Tensor) -> TrainedModel:
    head = nn.Linear(4, 4, bias=False)
    head.weight.data = transitions.log().T.contiguous()
    model = LanguageModel(Chain(), head, eos_id=EOS, pad_id=EOS, vocabulary=4)
    return TrainedModel(model, tokenizer=None, precision="fp32")  # type: ignore[arg-type]


def closed_form(writer: torch.Tensor, lengths: Items[int], finished: str) -> list[float]:
    """sum_i E KL over the chain's states that still run (or over all, ended ones at 0), from token 0 on."""
    divergence = (TEACHER * (TEACHER / STUDENT).log()).sum(-1)
    state, totals, total = torch.tensor([1.0, 0, 0, 0]), [], 0.0
    for _ in range(max(lengths)):
        mass = float(state.sum())
        total += float(state @ divergence) / (mass if finished == "running" else 1.0)
        totals.append(total)
        state = (state @ writer) * torch.tensor([1.0, 1, 1, 0])
    return [totals[length - 1] for length in lengths]


@pytest.mark.parametrize("finished", ["running", "zero"])
def test_a_markov_chain_has_its_closed_form(finished: str) -> None:
    config = ExposureConfig(lengths=(1, 3, 6), samples=3000, rows=1, finished=finished)  # type: ignore[arg-type]
    models = {"student": chain(STUDENT), "teacher": chain(TEACHER)}
    prompts = [Prompt("a", (0,), visit=number) for number in range(config.samples)]
    decoding = Decoding(6, 99, seed=10, batch=500)
    sequences = {name: model.write(prompts, decoding, "exposure") for name, model in models.items()}
    values = {name: divergences_by_position(*models.values(), sequences[name], 500) for name in models}
    divergences = sum_by_prompt(sequences, values, ["a"], config)
    accumulated = [closed_form(writer, config.lengths, finished) for writer in (STUDENT, TEACHER)]
    for source, expected in zip(("student", "teacher"), accumulated, strict=True):
        np.testing.assert_allclose(divergences.accumulated(source, config.lengths), expected, rtol=0.05)
    excess = [100 * (r - e) / e for r, e in zip(*accumulated, strict=True)]
    assert excess[0] == 0 and max(map(abs, excess)) > 10, "the chains must differ for this test to say anything"
    np.testing.assert_allclose(divergences.excess_error(config.lengths), excess, atol=4)


def test_who_counts_where() -> None:
    """Of three samples one ends, one is cut, one runs on: the readings differ in the first only."""
    rows = [Sequence("a", (0,), (1,) * tokens, finished) for tokens, finished in ((1, True), (2, False), (4, True))]
    values = [np.array([1.0]), np.array([2.0, 3.0]), np.array([4.0, 5.0, 6.0, 7.0])]
    both = {"student": rows, "teacher": rows}, {"student": values, "teacher": values}
    running = sum_by_prompt(*both, ["a"], ExposureConfig(lengths=(3,), samples=3, rows=1))
    assert running.counts["student"].tolist() == [[3, 2, 1]]
    assert running.means("student").tolist() == [7 / 3, 8 / 2, 6 / 1]
    assert running.accumulated("student", [2, 3]).tolist() == pytest.approx([7 / 3 + 4, 7 / 3 + 10])
    zero = sum_by_prompt(*both, ["a"], ExposureConfig(lengths=(3,), samples=3, rows=1, finished="zero"))
    assert zero.counts["student"].tolist() == [[3, 3, 2]]
    assert zero.accumulated("student", [3]).tolist() == pytest.approx([7 / 3 + 8 / 3 + 6 / 2])


def test_undefined_is_said_and_not_made_up() -> None:
    """Nobody runs at position 3, and where the models agree there is nothing to divide by."""
    short = [Sequence("a", (0,), (1, 1), True)]
    config = ExposureConfig(lengths=(2, 3), samples=1, rows=1)
    divergences = sum_by_prompt({"student": short, "teacher": short}, {s: [np.ones(2)] for s in SOURCES}, ["a"], config)
    assert divergences.excess_error([2, 3]).tolist() == [0.0, pytest.approx(math.nan, nan_ok=True)]
    assert percentile_interval(divergences.excess_error_resamples([2, 3], resamples=50))[1] is None
    same = sum_by_prompt({"student": short, "teacher": short}, {s: [np.zeros(2)] for s in SOURCES}, ["a"], config)
    assert np.isnan(same.excess_error([2])).all()


def test_the_bootstrap_resamples_prompts_and_pairs_models_by_its_seed() -> None:
    generator = np.random.default_rng(1)
    sums = {source: generator.random((6, 3)) for source in SOURCES}
    counts = {source: generator.integers(1, 4, (6, 3)).astype(float) for source in SOURCES}
    divergences = Divergences(tuple("abcdef"), sums, counts)
    resamples = divergences.excess_error_resamples([3], resamples=2500, seed=5)
    assert resamples.shape == (2500, 1)
    replay = np.random.default_rng(5)  # the same draws, written out as chosen rows
    draws = replay.multinomial(6, [1 / 6] * 6, 1000)[:20]
    for draw, value in zip(draws, resamples[:, 0], strict=False):
        rows = np.repeat(np.arange(6), draw)
        r, e = ((sums[s][rows].sum(0) / counts[s][rows].sum(0)).sum() for s in ("student", "teacher"))
        assert value == pytest.approx(100 * (r - e) / e)
    assert (resamples == divergences.excess_error_resamples([3], resamples=2500, seed=5)).all()


# --- the stages -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(root: Path) -> Path:
    train("run", run_spec(teacher_run=None, steps=2, validations=1), root)
    run_stage(sample_teacher, root, samples_spec())
    run_stage(measure_exposure, root, exposure_spec())
    return root


def samples_spec(**changes: Any) -> SamplesSpec:
    values: dict[str, Any] = {
        "teacher_run": "teacher", "test_set": "dolly", "rows": None, "exposure": CONFIG, "max_length": DATA.max_length,
        "max_prompt_length": DATA.max_prompt_length, "max_new_tokens": 8, "batch": 4, "threads": 1, "code": "",
    }  # fmt: skip
    return SamplesSpec(**(values | changes))


def exposure_spec(run: str = "run", **changes: Any) -> ExposureSpec:
    return ExposureSpec(run=run, samples=SAMPLES, **samples_spec(**changes).model_dump())


def summary_of(root: Path, name: str | None = None) -> dict[str, Any]:
    return read_json(root / "exposure" / (name or FIRST) / "summary.json")


SAMPLES = spec_digest(samples_spec())
FIRST = spec_digest(exposure_spec())


def test_the_summary_equals_loops_over_the_models_own_logits(root: Path) -> None:
    summary = summary_of(root)
    models = [AutoModelForCausalLM.from_pretrained(root / f"runs/{run}/model") for run in ("run", "teacher")]
    examples = TrainedModel.load(root, "run").examples(root, samples_spec(), CONFIG.rows)
    by_id = {example.id: example for example in examples}
    sums: dict[int, list[float]] = {i: [] for i in range(4)}
    for line in read_jsonl(root / "samples" / SAMPLES / "samples.jsonl"):
        prompt, response = by_id[line["id"]].prompt_ids, line["response_ids"]
        for i in range(min(4, len(response))):
            ids = torch.tensor([[*prompt, *response[:i]]])
            with torch.no_grad():
                s, t = (model(ids).logits[0, -1].double().log_softmax(-1) for model in models)
            sums[i].append(float(nn.functional.kl_div(s, t, reduction="sum", log_target=True)))
    means = [sum(values) / len(values) for values in sums.values()]
    assert summary["expected"] == pytest.approx([sum(means[:2]), sum(means)], rel=1e-4)
    assert summary["by_position"]["teacher"] == pytest.approx(means, rel=1e-4)
    assert summary["running_teacher"] == [len(sums[1]), len(sums[3])]
    for value, ours, expected in zip(*(summary[k] for k in ("excess_error", "accumulated", "expected")), strict=True):
        assert value == pytest.approx(100 * (ours - expected) / expected, rel=1e-3, abs=1e-3)
    assert (summary["rows"], summary["samples"], summary["lengths"]) == (3, 3, [2, 4])
    assert summary["finished"] == "running" and summary["timings"].keys() == {"start", "samples", "total"}


def test_the_kept_prompts_give_the_summary_back(root: Path) -> None:
    summary, divergences = summary_of(root), read_divergences(root / "exposure" / FIRST / "prompts.jsonl")
    assert divergences.excess_error([2, 4]).tolist() == pytest.approx(summary["excess_error"], rel=1e-3, abs=1e-3)
    for (low, high), value in zip(summary["intervals"], summary["excess_error"], strict=True):
        assert low <= value <= high


def test_the_same_call_gives_the_same_numbers(root: Path) -> None:
    again = summary_of(root, run_stage(measure_exposure, root, exposure_spec(code="again")))
    assert {**summary_of(root), "timings": None} == {**again, "timings": None}
    names = SAMPLES, run_stage(sample_teacher, root, samples_spec(batch=2))
    texts = [(root / f"samples/{name}/samples.jsonl").read_text() for name in names]
    assert texts[0] == texts[1]


def test_samples_of_a_prompt_differ_and_end_at_the_longest_length(root: Path) -> None:
    lines = list(read_jsonl(root / "samples" / SAMPLES / "samples.jsonl"))
    assert [line["sample"] for line in lines] == [0, 1, 2] * 3
    assert len({tuple(line["response_ids"]) for line in lines}) > 3
    assert max(len(line["response_ids"]) for line in lines) == max(CONFIG.lengths)


def test_a_model_that_is_the_teacher_has_no_exposure_bias_to_measure(root: Path) -> None:
    summary = summary_of(root, run_stage(measure_exposure, root, exposure_spec("teacher")))
    assert summary["accumulated"] == summary["expected"] == [0, 0] and summary["excess_error"] == [None, None]
    assert summary["running_student"] == summary["running_teacher"], "equal models write the same text"


def test_samples_of_other_rows_are_refused(root: Path) -> None:
    with pytest.raises(MgsrError, match="not those of the rows"):
        run_stage(measure_exposure, root, exposure_spec(exposure=CONFIG.model_copy(update={"rows": 2})))
