"""ROUGE-L beside rouge-score: 10,000 predictions with 1 to 5 references, whose scores must be equal to the last bit.

Each round scores rows that neither side has seen; words come back, as they do in a set of answers.
"""

from __future__ import annotations

import random
from pydoc_data.topics import topics

from rouge_score.rouge_scorer import RougeScorer

from mgsr.rouge import rouge_l
from tests.bench.harness import Row, in_turn

ROWS, ROUNDS = 10_000, 10


def records() -> list[tuple[str, list[str]]]:
    """Pieces of Python's own documentation, and near copies of them."""
    draw = random.Random(0)
    words = " ".join(topics.values()).split()

    def near_copy(text: list[str]) -> str:
        return " ".join(draw.choice(words) if draw.random() < 0.4 else word for word in text if draw.random() < 0.8)

    result = []
    for _ in range(ROWS):
        start = draw.randrange(len(words) - 150)
        text = words[start : start + draw.randrange(20, 150)]
        result.append((near_copy(text), [near_copy(text) for _ in range(draw.randrange(1, 6))]))
    return result


def rows() -> list[Row]:
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    share = ROWS // ROUNDS
    made = records()
    parts = [made[start : start + share] for start in range(0, ROWS, share)]
    scores: dict[str, list[float]] = {"ours": [], "peer": []}

    def ours() -> float:
        part = parts[len(scores["ours"]) // share]
        scores["ours"] += [rouge_l(prediction, references) for prediction, references in part]
        return len(part)

    def peer() -> float:
        part = parts[len(scores["peer"]) // share]
        scores["peer"] += [
            100 * max(scorer.score(reference, prediction)["rougeL"].fmeasure for reference in references)
            for prediction, references in part
        ]
        return len(part)

    costs = in_turn(ours, peer, ROUNDS, uncounted=0)  # the first round meets new words
    assert scores["ours"] == scores["peer"], "the scores differ"
    return [Row(f"ROUGE-L, {ROWS:,} rows", "rouge-score", "ms/row", *costs, asked=20.0)]
