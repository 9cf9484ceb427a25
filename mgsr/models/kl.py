"""The KL divergence between two distributions over the vocabulary. Objectives minimise it, and evaluation reports it.

Functions take log-probabilities, [..., vocabulary] in float32 or float64, and give [...] in nats. They are 0 where both
distributions are equal and never below; values and gradients are finite wherever the divergence is, zero probabilities (-inf)
included.
"""

from __future__ import annotations

import torch
from torch import Tensor


def relative_entropy(a_logp: Tensor, b_logp: Tensor) -> Tensor:
    """sum_k a_k (log a_k - log b_k) of non-negative vectors, 0 log 0 = 0. Where they do not sum to 1, it may be negative."""
    a = a_logp.exp()
    return (a * torch.where(a > 0, a_logp - b_logp, 0)).sum(-1)


def kl(a_logp: Tensor, b_logp: Tensor) -> Tensor:
    """KL(a || b) of distributions; rounding does not take it below 0."""
    return relative_entropy(a_logp, b_logp).clamp(min=0)


def forward_kl(s_logp: Tensor, t_logp: Tensor) -> Tensor:
    """KL(p || q), p the teacher's distribution and q the student's."""
    return kl(t_logp, s_logp)


def reverse_kl(s_logp: Tensor, t_logp: Tensor) -> Tensor:
    """KL(q || p), p the teacher's distribution and q the student's."""
    return kl(s_logp, t_logp)
