"""Metrics over words, as the configuration names them: `metrics: [rouge_l, "mgsr.examples.word_metrics:exact_match"]`."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from rouge_score.rouge_scorer import RougeScorer

_SCORER = RougeScorer(["rouge1"], use_stemmer=True)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def rouge_1(answer: str, references: Sequence[str]) -> float:
    """ROUGE-1 in percent: the F measure of words in common, stemmed, with the best reference."""
    return 100 * max(float(_SCORER.score(reference, answer)["rouge1"].fmeasure) for reference in references)


def exact_match(answer: str, references: Sequence[str]) -> int:
    """100 where the answer is one of the references, up to what SQuAD's evaluation ignores (Rajpurkar et al. 2016), else 0."""
    return 100 * any(_normalised(answer) == _normalised(reference) for reference in references)


def answer_length(answer: str, references: Sequence[str]) -> int:
    """Words between white space. No score: it shows whether another metric rises with the length alone."""
    return len(answer.split())


def _normalised(text: str) -> list[str]:
    """Words in lower case, without punctuation and articles."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split()
