"""Span-level correlation consistency (Eq. 9-10): neighbouring tokens of a phrase go together as the teacher's do."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mgsr.errors import MgsrError


def span_consistency(s_logp: Tensor, t_logp: Tensor, pair_weight: Tensor, norm: Literal["l2", "l2_squared"] = "l2") -> Tensor:
    """sum_a w_a || s_a * s_{a+1} - t_a * t_{a+1} ||_2 (Eq. 9), `*` element-wise; with `l2_squared` the norm is squared. The
    gradient at 0 is 0 in both.

    s_logp, t_logp: logs of the vectors [n, slots], full distributions or DAC-KL's clipped ones; pair_weight [m], m < n or 0
    at its end: pair a is (a, a + 1). Returns a scalar.
    """
    a = pair_weight.nonzero().squeeze(-1)
    difference = (s_logp[a] + s_logp[a + 1]).exp() - (t_logp[a] + t_logp[a + 1]).exp()
    value: Tensor = torch.linalg.vector_norm(difference, dim=-1) if norm == "l2" else difference.square().sum(-1)
    return (pair_weight[a] * value).sum()


def span_pair_weights(
    lengths: list[int],
    spans: list[list[tuple[int, int]]],
    sequences_with_spans: int,
    divisor: Literal["tokens", "pairs"] = "tokens",
) -> list[Tensor]:
    """Weights [length] of each sequence's pairs: 1/n_i, mean over its spans, mean over the sequences that have one (Eq. 10).

    spans: half-open ranges of response positions; a span of one token counts, with value 0. sequences_with_spans: their number
    in the whole optimiser step, over all processes. divisor: n_i is the number of a span's tokens, or of its pairs, one fewer.
    Raises MgsrError for a span outside its sequence.
    """
    weights = [torch.zeros(length) for length in lengths]
    for row, (weight, row_spans) in enumerate(zip(weights, spans, strict=True)):
        for start, end in row_spans:
            if not 0 <= start < end <= len(weight):
                raise MgsrError(f"span ({start}, {end}) of sequence {row} lies outside its {len(weight)} response tokens")
            length = end - start - (divisor == "pairs")  # 0 where a single token has no pair to weigh
            weight[start : end - 1] += 1 / (max(1, length) * len(row_spans) * sequences_with_spans)
    return weights
