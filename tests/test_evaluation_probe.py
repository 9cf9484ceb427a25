"""Planted errors, what detection makes of them, span statistics and diversity: against loops, scipy and planted effects."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from mgsr.config.loss_terms import SpanConfig
from mgsr.config.measurement import ProbeConfig
from mgsr.config.policy import ScrgConfig
from mgsr.config.specs import ProbeSpec, spec_digest
from mgsr.data.encoding import Example
from mgsr.data.spans import token_spans
from mgsr.evaluation.detection import DETECTORS, SCORES, STARTS, WINDOWS, Detection, detect, hits
from mgsr.evaluation.diversity import corpus_diversity, distinct, response_diversity
from mgsr.evaluation.injection import ERRORS, Injected, Planter, inject
from mgsr.evaluation.intervals import mean_interval
from mgsr.evaluation.probe import probe, summarise_corpus
from mgsr.evaluation.trained_model import SEED, TrainedModel, response_log_probabilities
from mgsr.models.language_model import LanguageModel
from mgsr.rollouts.sampler import Decoding, Prompt
from mgsr.rollouts.scrg import detection_scores, revise
from mgsr.rollouts.sequence import Sequence
from mgsr.storage import read_json, write_json
from tests.records_support import run_stage
from tests.training_support import DATA

Pair = tuple[TrainedModel, TrainedModel]  # student and teacher
ROWS = 12
DECODING = Decoding(40, 128, seed=SEED, batch=7)


@pytest.fixture(scope="module")
def root(root: Path) -> Path:
    (root / "runs/student").mkdir()
    (root / "models/student").rename(root / "runs/student/model")
    for run in ("student", "teacher"):
        write_json(root / f"runs/{run}/training.json", {"precision": "fp32"})
    run_stage(probe, root, probe_spec())
    return root


def probe_spec(**changes: Any) -> ProbeSpec:
    values: dict[str, Any] = {
        "student_run": "student", "teacher_run": "teacher", "test_set": "dolly", "rows": None,
        "max_length": DATA.max_length, "max_prompt_length": DATA.max_prompt_length,
        "probe": ProbeConfig(rows=ROWS, samples=2), "max_new_tokens": 40, "batch": 5, "threads": 1, "code": "",
    }  # fmt: skip
    return ProbeSpec(**(values | changes))


@pytest.fixture(scope="module")
def models(root: Path) -> Pair:
    return TrainedModel.load(root, "student"), TrainedModel.load(root, "teacher")


@pytest.fixture(scope="module")
def examples(root: Path, models: Pair) -> list[Example]:
    return models[0].examples(root, probe_spec(), ROWS)


@pytest.fixture(scope="module")
def injected(models: Pair, examples: list[Example]) -> list[Injected]:
    return inject(examples, models[0].tokenizer, lambda example: 40)[0]


@pytest.fixture(scope="module")
def content(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(root / "probes" / spec_digest(probe_spec()) / "probe.json")
    return found


def as_sequence(row: Injected, ids: tuple[int, ...]) -> Sequence:
    return Sequence(row.example.id, row.example.prompt_ids, ids, True)


# --- planting ---------------------------------------------------------------------------------------------------------


def test_a_repetition_says_the_last_words_again(examples: list[Example]) -> None:
    planter = Planter(examples)
    for example in examples:
        words, original = (planter.plant(example, "repetition") or "").split(), example.references[0].split()
        at = next(i for i in range(3, len(words)) if words[i - 3 : i] == words[i : i + 3] == words[i + 3 : i + 6])
        assert words[:at] + words[at + 6 :] == original


def test_a_drift_goes_on_with_another_answer(examples: list[Example]) -> None:
    planter, answers = Planter(examples), [example.references[0] for example in examples]
    for example in examples:
        text = planter.plant(example, "drift") or ""
        assert any(
            text.endswith(answer) and example.references[0].startswith(text.removesuffix(answer))
            for answer in answers
            if answer != example.references[0]
        )


def test_a_substitution_changes_one_word_to_one_of_its_kind() -> None:
    texts = ["Alan was born in 1912 and died in 1954.", "Next to the river there were 17 ducks and Ada."]
    planter = Planter([Example(f"row-{i}", (1,), (2,), (text,), "") for i, text in enumerate(texts)])
    for row, example in enumerate(planter._examples):
        changed = (planter.plant(example, "substitution") or "").split()
        pairs = [(old, new) for old, new in zip(texts[row].split(), changed, strict=True) if old != new]
        assert len(pairs) == 1, "numbers go before names, names before nouns"
        assert pairs[0][0].strip(".").isdigit() and pairs[0][1].strip(".").isdigit()
        assert pairs[0][1].strip(".") not in texts[row] and pairs[0][0].endswith(".") == pairs[0][1].endswith(".")


def test_a_drift_begins_where_a_sentence_begins() -> None:
    texts = ["One two three four five. Six seven eight.", "Nothing of this belongs here."]
    planter = Planter([Example(f"row-{i}", (1,), (2,), (text,), "") for i, text in enumerate(texts)])
    assert planter.plant(planter._examples[0], "drift") == "One two three four five. Nothing of this belongs here."


def test_the_known_position_is_the_first_token_that_differs(injected: list[Injected], models: Pair) -> None:
    assert {row.error for row in injected} == set(ERRORS)
    for row in injected:
        assert row.ids[: row.position] == row.original_ids[: row.position] and row.position > 0
        assert row.ids[row.position] != row.original_ids[row.position]
        assert row.original_ids == row.example.response_ids[:40]
        if row.error == "drift":
            assert row.end == len(row.ids)
        elif len(row.ids) < 40:  # what follows the error is the original's text again
            assert row.position <= row.end
            assert row.original_ids[len(row.original_ids) - (len(row.ids) - row.end) :] == row.ids[row.end :]


def test_rows_that_cannot_have_an_error_are_counted(models: Pair, examples: list[Example]) -> None:
    short = Example("short", (1,), (2,), ("Yes it is.",), "")
    injected, skipped = inject([*examples, short], models[0].tokenizer, lambda example: 40)
    assert skipped == dict.fromkeys(ERRORS, 1) and len(injected) == 3 * ROWS
    assert sum(inject(examples, models[0].tokenizer, lambda example: 1)[1].values()) == 3 * ROWS


# --- detection --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES)
def test_the_chosen_position_is_the_one_that_scrg_corrects(score: str, models: Pair, injected: list[Injected]) -> None:
    student, teacher = models
    sequences = [as_sequence(row, row.ids) for row in injected]
    visits = [0] * len(sequences)
    _, stats = revise(student.model, teacher.model, sequences, visits, SCORES[score], DECODING, chunk=16)
    detections = detect(student, teacher, sequences, batch=4)
    assert [detection.chosen[score] for detection in detections] == list(stats.positions[0])


def test_the_entropy_baseline_and_candidates_by_brute_force(root: Path, models: Pair, injected: list[Injected]) -> None:
    plain = AutoModelForCausalLM.from_pretrained(root / "runs/student/model")
    detections = detect(*models, [as_sequence(row, row.ids) for row in injected[:4]], batch=4)
    for row, found in zip(injected[:4], detections, strict=True):
        with torch.no_grad():
            logits = plain(torch.tensor([[*row.example.prompt_ids, *row.ids]])).logits[0, len(row.example.prompt_ids) - 1 : -1]
        entropy = scipy.stats.entropy(logits.softmax(-1).numpy(), axis=-1)
        assert found.candidates == [i for i, (a, b) in enumerate(zip(found.tokens, row.ids, strict=True)) if a != b]
        assert found.chosen["student_entropy"] == max(found.candidates, key=lambda i: entropy[i])


def test_the_printed_score_cannot_see_the_planted_token(models: Pair, injected: list[Injected]) -> None:
    """It depends on y_<k alone: at k itself, with and without the error, it is the same. The other two are not."""
    for row in injected[:6]:
        by_score: dict[str, list[torch.Tensor]] = {name: [] for name in SCORES}
        for ids in (row.ids, row.original_ids):
            ((_, (student_logp, teacher_logp)),) = response_log_probabilities(models, [as_sequence(row, ids)], 1)
            for name, config in SCORES.items():
                by_score[name].append(detection_scores(student_logp, teacher_logp, torch.tensor(ids), config))
        k = row.position
        for name in ("kl_student_teacher", "kl_teacher_student"):
            torch.testing.assert_close(by_score[name][0][: k + 1], by_score[name][1][: k + 1], rtol=1e-4, atol=1e-5)
        for name in ("teacher_nll", "log_ratio"):
            assert abs(by_score[name][0][k] - by_score[name][1][k]) > 1e-3


class Successor(nn.Module):
    """Knows that a token is followed by the next higher one."""

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=nn.functional.one_hot((input_ids + 1) % 20, 20).float())


def knowing(scale: float) -> TrainedModel:
    """The right token has the logit `scale`, all others 0."""
    head = nn.Linear(20, 20, bias=False)
    head.weight.data = torch.eye(20) * scale
    model = LanguageModel(Successor(), head, eos_id=0, pad_id=0, vocabulary=20)
    return TrainedModel(model, tokenizer=None, precision="fp32")  # type: ignore[arg-type]


def test_a_planted_effect_is_found_and_its_absence_is_not() -> None:
    """A teacher that knows what follows disagrees with a wrong token, and with nothing in the clean text."""
    student, teacher = knowing(0.0), knowing(12.0)
    clean = tuple(range(2, 14))
    rows = [Sequence(f"row-{k}", (1,), (*clean[:k], 0, *clean[k + 1 :]), True) for k in range(2, 11)]
    for k, detection in zip(range(2, 11), detect(student, teacher, rows, batch=3), strict=True):
        assert detection.chosen["teacher_nll"] == k and hits(detection, k)["teacher_nll"] == [1, 0, 0]
        assert k in detection.candidates and detection.candidates != list(range(12))
    (nothing,) = detect(student, teacher, [Sequence("row", (1,), clean, True)], batch=1)
    assert nothing.candidates == [] and set(nothing.chosen.values()) == {None}
    assert all(found == [0, 0, 0] for found in hits(nothing, 5).values())


def test_windows_lie_beside_each_other() -> None:
    chosen = {name: 7 for name in (*SCORES, "student_entropy")}
    for position, expected in [
        (7, [1, 0, 0]),
        (6, [0, 1, 0]),
        (2, [0, 1, 0]),
        (1, [0, 0, 0]),
        (8, [0, 0, 1]),
        (12, [0, 0, 1]),
        (13, [0, 0, 0]),
    ]:
        found = hits(Detection([0] * 20, [3, 7, 8, 19], chosen), position)
        assert found["teacher_nll"] == expected
    assert hits(Detection([0] * 20, [3, 7, 8, 19], chosen), 7)["random"] == [0.25, 0.25, 0.25]
    assert list(hits(Detection([0] * 20, [], dict.fromkeys(chosen)), 7).values()) == [[0, 0, 0]] * len(DETECTORS)


def test_what_a_correction_gains_by_brute_force(
    root: Path, content: dict[str, Any], models: Pair, injected: list[Injected]
) -> None:
    student, teacher = models
    plain = AutoModelForCausalLM.from_pretrained(root / "runs/teacher/model")
    rows = content["injected_errors"]["rows"]
    assert [(row["id"], row["error"], row["position"]) for row in rows] == [
        (r.example.id, r.error, r.position) for r in injected
    ]
    for row, own in list(zip(rows, injected, strict=True))[:6]:
        token = detect(student, teacher, [as_sequence(own, own.ids)], batch=1)[0].tokens[own.position]
        shown = own.ids[: min(own.end, own.position + 6)]
        for start, prefix in {"kept": shown, "at_error": (*own.ids[: own.position], token)}.items():
            prompt = Prompt(own.example.id, own.example.prompt_ids, prefix)
            (written,) = student.write([prompt], DECODING, "probe")
            assert written.response_ids[: len(prefix)] == prefix
            with torch.no_grad():
                logp = plain(torch.tensor([[*written.prompt_ids, *written.response_ids]])).logits[0].log_softmax(-1)
            places = range(len(written.prompt_ids) + len(prefix), len(written))
            ids = [*written.prompt_ids, *written.response_ids]
            expected = fmean(float(logp[at - 1, ids[at]]) for at in places)
            assert row["continued"][start][0] == pytest.approx(expected, rel=1e-4)


# --- spans and diversity ----------------------------------------------------------------------------------------------


def test_span_statistics_by_brute_force(root: Path, content: dict[str, Any], examples: list[Example]) -> None:
    models = [AutoModelForCausalLM.from_pretrained(root / f"runs/{run}/model") for run in ("student", "teacher")]
    tokenizer = TrainedModel.load(root, "student").tokenizer
    rows = {row["id"]: row for row in content["spans"]["rows"] if row["source"] == "reference"}
    for example in examples[:4]:
        ids = torch.tensor([[*example.prompt_ids, *example.response_ids]])
        with torch.no_grad():
            s, t = (model(ids).logits[0, len(example.prompt_ids) - 1 : -1].double().softmax(-1) for model in models)
        for prior in ("phrases", "fixed", "sentences"):
            spans = token_spans(example.response_ids, tokenizer, SpanConfig(priors=prior))  # type: ignore[arg-type]
            terms = [
                sum(float((s[a] * s[b] - t[a] * t[b]).norm()) for a, b in pairwise(range(start, end))) / (end - start)
                for start, end in spans
            ]
            found = rows[example.id]["priors"][prior]
            assert found[:3] == [len(spans), sum(e - b for b, e in spans), sum(e - b == 1 for b, e in spans)]
            assert found[3] == pytest.approx(fmean(terms), rel=1e-3)


def test_span_summaries_are_the_rows_pooled(content: dict[str, Any]) -> None:
    rows, lines = content["spans"]["rows"], content["spans"]["summary"]
    for line in lines:
        own = [r for r in rows if r["source"] == line["source"] and line["category"] in ("all", r["category"])]
        spans = [r["priors"][line["priors"]] for r in own]
        assert line["responses"] == len(own) and line["covered"] == pytest.approx(
            sum(s[1] for s in spans) / sum(r["tokens"] for r in own), rel=1e-5
        )
        assert line["tokens_per_span"] == pytest.approx(sum(s[1] for s in spans) / sum(s[0] for s in spans), rel=1e-5)
    categories = {row["category"] for row in rows}
    assert len(lines) == 3 * 3 * (len(categories) + 1) and len(categories) > 1
    assert sum(row["source"] == "reference" for row in rows) == ROWS
    assert sum(row["source"] == "scrg" for row in rows) == 2 * ROWS


def test_diversity_by_hand() -> None:
    found = response_diversity("a b a b a b")
    assert (found["distinct_1"], found["distinct_2"], found["distinct_4"]) == (2 / 6, 2 / 5, 2 / 3)
    assert found["repetition"] == pytest.approx(1 / 3) and found["words"] == 6
    assert response_diversity("One two")["repetition"] is None and distinct([], 1) is None
    assert corpus_diversity(["a b", "A b"])["distinct_1"] == 0.5


def test_collections_of_equal_size_are_compared() -> None:
    """Two samples a prompt are two collections, not one of twice the size."""
    lines = summarise_corpus({"reference": ["a b", "c d"], "student": ["a b", "x", "c d", "y"]}, samples=2)
    assert [(line["responses"], line["distinct_1"]) for line in lines] == [(2, 1.0), (2, 1.0)]
    (line,) = summarise_corpus({"student": ["a", "b", "a", "c"]}, samples=2)
    assert line["distinct_1"] == (0.5 + 1) / 2 and line["distinct_4"] is None


def test_scrg_keeps_what_stands_before_the_correction(content: dict[str, Any]) -> None:
    lines = {(line["source"], line["measure"]): line for line in content["diversity"]["summary"]}
    (change,) = [line for line in content["diversity"]["differences"] if line["measure"] == "words"]
    assert change["difference"] == pytest.approx(lines["scrg", "words"]["mean"] - lines["student", "words"]["mean"], abs=1e-4)
    assert change["prompts"] == ROWS


# --- the file ---------------------------------------------------------------------------------------------------------


def test_intervals_agree_with_scipy() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=40)
    mean, low, high = mean_interval(values.tolist())
    expected = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert mean == pytest.approx(values.mean())
    assert (low, high) == (pytest.approx(expected.low, abs=0.03), pytest.approx(expected.high, abs=0.03))
    assert mean_interval([2.0]) == (2.0, None, None) and mean_interval([]) == (None, None, None)


def test_detection_summaries_are_the_rows_averaged(content: dict[str, Any]) -> None:
    rows, lines = content["injected_errors"]["rows"], content["injected_errors"]["detection"]
    assert len(lines) == len(ERRORS) * len(DETECTORS) * len(WINDOWS)
    for line in lines:
        own = [row["hits"][line["detector"]] for row in rows if row["error"] == line["error"]]
        at = WINDOWS.index(line["window"])
        assert line["rate"] == pytest.approx(fmean(hit[at] for hit in own), abs=1e-5)
        assert line["difference"] == pytest.approx(fmean(hit[at] - hit[at + 3] for hit in own), abs=1e-5)
        assert line["low"] <= line["difference"] <= line["high"] and line["prompts"] == len(own)
        for baseline in ("random", "student_entropy"):
            others = [row["hits"][baseline] for row in rows if row["error"] == line["error"]]
            above = fmean(hit[at] - other[at] for hit, other in zip(own, others, strict=True))
            assert line[f"above_{baseline}"] == pytest.approx(above, abs=1e-5)
            assert line[f"above_{baseline}_low"] - 1e-6 <= above <= line[f"above_{baseline}_high"] + 1e-6
    for row in rows:  # what stands there by name is what was counted
        for name, (chosen, on_original) in row["chosen"].items():
            assert row["hits"][name][0] == (chosen == row["position"]) and row["hits"][name][3] == (
                on_original == row["position"]
            )


def test_correction_summaries_are_paired(content: dict[str, Any]) -> None:
    rows, lines = content["injected_errors"]["rows"], content["injected_errors"]["correction"]
    assert len(lines) == len(ERRORS) * len(STARTS) * 2
    for line in lines:
        at = ("teacher_logp", "rouge_l").index(line["measure"])
        own = [row["continued"] for row in rows if row["error"] == line["error"]]
        gains = [c[line["start"]][at] - c["kept"][at] for c in own if None not in (c[line["start"]][at], c["kept"][at])]
        assert line["gain"] == pytest.approx(fmean(gains), abs=1e-4) and line["prompts"] == len(gains)
        assert line["gain"] == pytest.approx(line["corrected"] - line["kept"], abs=1e-4)


def test_the_same_call_writes_the_same_file(root: Path, content: dict[str, Any]) -> None:
    again = json.loads((root / "probes" / run_stage(probe, root, probe_spec(code="again")) / "probe.json").read_text())
    assert {**again, "timings": None} == {**content, "timings": None}
    assert (root / "probes" / spec_digest(probe_spec()) / "probe.json").stat().st_size < 100_000
    assert ScrgConfig() == SCORES["kl_student_teacher"], "the printed reading is the first"
