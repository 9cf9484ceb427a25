"""Metrics by name, what they may give, what is said where they fail; the examples against the libraries that they stand for."""

import math
import random
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from mgsr.errors import MgsrError
from mgsr.examples.word_metrics import answer_length, exact_match, rouge_1
from mgsr.metrics import load_metrics, score
from mgsr.rouge import rouge_l

WORDS = "the of and a in organization organizations ponies caresses news it's well-known U.S.A. 3.14 x1 \u4f60 ...".split()

MODULE = """
def overlap(answer, references):
    return sum(answer in reference for reference in references)

def long(answer, references, least=2):
    return len(answer) >= least

def no_references(answer):
    return 1.0

def fails(answer, references):
    return ratio(len(answer), 0)

def ratio(a, b):
    return a / b

def fails_elsewhere(answer, references):
    import json
    return json.loads(answer)

value = 3.0
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_metrics.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path)
    yield
    sys.modules.pop("own_metrics", None)


def test_metrics_are_found_by_name_and_keep_their_order(own: None) -> None:
    names = ["own_metrics:overlap", "rouge_l", "own_metrics:long"]
    metrics = load_metrics(names)
    assert list(metrics) == names and metrics["rouge_l"] is rouge_l
    scores = score(metrics, "a b", ["a b c", "b", "a b"], "here")
    assert scores == {"own_metrics:overlap": 2, "rouge_l": 100, "own_metrics:long": 1}
    assert all(type(value) is float for value in scores.values()) and list(scores) == names


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("rouge", "'rouge' is not of the form module:name"),
        ("absent:metric", "'absent:metric' could not be loaded"),
        ("own_metrics:absent", "'own_metrics:absent' could not be loaded"),
        ("own_metrics:no_references", r"'own_metrics:no_references' must be a function of \(answer, references\): too many"),
        ("own_metrics:value", r"'own_metrics:value' must be a function of .*: 3.0 is not a callable"),
    ],
)
def test_what_is_no_metric_is_refused_before_anything_is_scored(own: None, name: str, problem: str) -> None:
    with pytest.raises(MgsrError, match=problem):
        load_metrics(["rouge_l", name])


@pytest.mark.parametrize("value", [True, False, 0, -3, 2.5, 10**300, Fraction(1, 3), np.float32(0.1), np.int64(4)])
def test_a_finite_real_number_is_kept_as_it_is(value: Any) -> None:
    assert score({"m": lambda answer, references: value}, "a", ["b"], "here") == {"m": float(value)}


@pytest.mark.parametrize("value", [None, "1", math.nan, math.inf, -math.inf, 1j, [1.0], np.float32("nan"), np.ones(2)])
def test_what_is_no_finite_number_is_refused_by_metric_and_example(value: Any) -> None:
    with pytest.raises(MgsrError, match=r"metric 'm', set dolly, example dolly-7: it gave .*, which is no finite number"):
        score({"m": lambda answer, references: value}, "a", ["b"], "set dolly, example dolly-7")


def test_a_failure_is_told_with_example_file_and_line(own: None) -> None:
    lines = MODULE.splitlines()
    divided, decoded = lines.index("    return a / b") + 1, lines.index("    return json.loads(answer)") + 1
    fails, fails_elsewhere = load_metrics(["own_metrics:fails", "own_metrics:fails_elsewhere"]).values()
    for metric, problem in (
        (fails, rf"ZeroDivisionError: .* \(own_metrics.py, line {divided}\)$"),
        (fails_elsewhere, rf"JSONDecodeError: .* \(own_metrics.py, line {decoded}\)$"),
        (math.dist, "TypeError: .*"),  # no frame of its own
        (lambda answer, references: 10**400, "OverflowError: .* too large to convert to float$"),
    ):
        with pytest.raises(MgsrError, match=rf"metric 'm', here: {problem}"):
            score({"m": metric}, "{", ["b"], "here")


# --- the examples -----------------------------------------------------------------------------------------------------


def test_rouge_1_is_rouge_scores() -> None:
    draw, scorer, values = random.Random(0), RougeScorer(["rouge1", "rougeL"], use_stemmer=True), set()
    for _ in range(200):
        answer, *references = (" ".join(draw.choices(WORDS, k=draw.randrange(20))) for _ in range(draw.randrange(2, 5)))
        expected = [scorer.score(reference, answer) for reference in references]
        assert rouge_1(answer, references) == 100 * max(one["rouge1"].fmeasure for one in expected)
        assert rouge_1(answer, references) >= 100 * max(one["rougeL"].fmeasure for one in expected)  # order cannot help
        values.add(rouge_1(answer, references))
    assert len(values) > 100


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("The  Eiffel-Tower!", ["in Paris", "an eiffeltower"], 100),
        ("theory", ["ory"], 0),  # an article is a word
        ("a b", ["b a"], 100),
        ("b c", ["c b"], 0),
        ("the", ["!"], 100),
        ("42", ["4 2", "forty-two"], 0),
    ],
)
def test_exact_match_ignores_what_squad_ignores(answer: str, references: list[str], expected: int) -> None:
    assert exact_match(answer, references) == expected


def test_answer_length_counts_words() -> None:
    assert [answer_length(text, ["x y z"]) for text in ("", " \n", "one", "two  words\n", "it's 3.14 !")] == [0, 0, 1, 2, 3]
