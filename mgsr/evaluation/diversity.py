"""How varied texts are: distinct-n (Li et al. 2016) and repetition. Words are lower-case runs between white space. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

ORDERS = (1, 2, 4)
REPEATED = 4  # length of the n-grams whose repetition is counted
MEASURES = (*(f"distinct_{n}" for n in ORDERS), "repetition", "words")


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """The n-grams of a text, in order; none where it has fewer than n words."""
    words = text.lower().split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def distinct(texts: Iterable[str], n: int) -> float | None:
    """Different n-grams over all n-grams of the texts together, 0 to 1; None where there are none.

    It falls as there are more texts, so only collections of equal size compare.
    """
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else None


def corpus_diversity(texts: Sequence[str]) -> dict[str, float | None]:
    """distinct-n over a whole collection of responses, by `distinct_<n>`."""
    return {f"distinct_{n}": distinct(texts, n) for n in ORDERS}


def response_diversity(text: str) -> dict[str, float | None]:
    """One response by itself: its distinct-n, `repetition` (share of its 4-grams that stood in it before), its length in words;
    None where it is too short to tell."""
    grams = ngrams(text, REPEATED)
    repetition = 1 - len(set(grams)) / len(grams) if grams else None
    return {**corpus_diversity([text]), "repetition": repetition, "words": float(len(text.split()))}
