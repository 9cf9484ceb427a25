"""ROUGE-L as the papers on this benchmark report it: rouge-score's `rougeL` with stemming, times 100, best reference.

The words are rouge-score's own, so only letters a-z and digits count. What is ours is the speed: a word is stemmed once, and
the longest common subsequence is found for all positions of the reference at a time, in the bits of one integer (Hyyrö 2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from nltk.stem.porter import PorterStemmer
from rouge_score.tokenize import tokenize


class _Stemmer:
    """nltk's stemmer with a memory; most words of a set come back."""

    stem = staticmethod(lru_cache(maxsize=1 << 18)(PorterStemmer().stem))


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length in words."""
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << index
    full = (1 << len(first)) - 1
    # bit i is 0 where first[: i + 1] has a longer common subsequence with the words read so far than first[:i]
    unmatched = full
    for word in second:
        hits = unmatched & places.get(word, 0)
        unmatched = ((unmatched + hits) | (unmatched - hits)) & full
    return len(first) - unmatched.bit_count()


def _f_measure(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """0..1, with rouge-score's order of operations, so that not even rounding differs."""
    common = longest_common_subsequence(reference, prediction)
    if not common:
        return 0.0
    precision, recall = common / len(prediction), common / len(reference)
    return 2 * precision * recall / (precision + recall)


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L of a prediction, 0..100: the maximum over its references, of which there is at least one."""
    if isinstance(references, str) or not references:
        raise ValueError("references must be a non-empty list of texts")
    words = tokenize(prediction, _Stemmer)
    return 100 * max(_f_measure(words, tokenize(reference, _Stemmer)) for reference in references)


def rouge_l_many(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """ROUGE-L of each prediction, 0..100. Lists of unequal length are an error: cutting the longer one hides lost rows."""
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} rows of references")
    return [rouge_l(prediction, row) for prediction, row in zip(predictions, references, strict=True)]
