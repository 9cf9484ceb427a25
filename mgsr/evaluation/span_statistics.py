"""What spans a response has under each prior, and how large the span term is on them (Eq. 9)."""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Any

from mgsr.config.loss_terms import SpanConfig
from mgsr.data.spans import token_spans
from mgsr.evaluation.trained_model import TrainedModel, response_log_probabilities
from mgsr.objectives.span_consistency import span_consistency, span_pair_weights
from mgsr.rollouts.sequence import Sequence

PRIORS = {
    "phrases": SpanConfig(),
    "fixed": SpanConfig(priors="fixed"),
    "sentences": SpanConfig(priors="sentences"),
}


def span_counts(
    sequences: Items[Sequence], student: TrainedModel, teacher: TrainedModel, batch: int
) -> list[dict[str, list[float | None]]]:
    """For each sequence, by prior: spans, their tokens, spans of one token, and the mean of Eq. 9 over its spans (None without
    spans; all other settings of `SpanConfig` at their defaults)."""
    counts: list[dict[str, list[float | None]]] = [{} for _ in sequences]
    for i, (student_logp, teacher_logp) in response_log_probabilities((student, teacher), sequences, batch):
        ids = sequences[i].response_ids
        for name, config in PRIORS.items():
            spans = token_spans(ids, student.tokenizer, config)
            lengths = [end - start for start, end in spans]
            weights = span_pair_weights([len(ids)], [spans], 1)[0].to(student_logp.device)
            term = float(span_consistency(student_logp, teacher_logp, weights)) if spans else None
            counts[i][name] = [len(spans), sum(lengths), lengths.count(1), term]
    return counts


def pooled(rows: Items[dict[str, Any]], prior: str) -> dict[str, float | None]:
    """Shares over rows of probe.json's `spans` together; null where the divisor is 0."""
    spans, covered, single = (sum(row["priors"][prior][field] for row in rows) for field in range(3))
    tokens = sum(row["tokens"] for row in rows)
    return {
        "spans_per_response": spans / len(rows),
        "tokens_per_span": covered / spans if spans else None,
        "covered": covered / tokens if tokens else None,
        "one_token": single / spans if spans else None,
    }
