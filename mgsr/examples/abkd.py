"""ABKD (Wang et al. 2025, arXiv 2505.04560): the alpha-beta divergence of Cichocki et al. (2011), p the teacher's."""

from __future__ import annotations

import math

from torch import Tensor


def ab_divergence(
    student_logp: Tensor, teacher_logp: Tensor, *, progress: float, alpha: float = 0.2, beta: float = 0.7
) -> Tensor:
    """-1/(ab) sum(p^a q^b - a/(a+b) p^(a+b) - b/(a+b) q^(a+b)), and its limits where a, b or a + b is 0.

    (1, 0) is KL(p || q), (0, 1) is KL(q || p), (1, 1) half the squared distance. `progress` plays no part.
    """
    # A class that both exclude adds nothing: with log 1 in both places no limit meets infinity minus infinity.
    excluded = (student_logp == -math.inf) & (teacher_logp == -math.inf)
    q, p = student_logp.masked_fill(excluded, 0), teacher_logp.masked_fill(excluded, 0)
    if alpha and beta and alpha + beta:
        total = alpha + beta
        terms = alpha / total * (total * p).exp() + beta / total * (total * q).exp() - (alpha * p + beta * q).exp()
        value = terms.sum(-1) / (alpha * beta)
    elif alpha and beta:
        value = _itakura_saito(alpha * (p - q)).sum(-1) / alpha**2
    elif alpha:
        value = _relative_entropy(alpha * p, alpha * q).sum(-1) / alpha**2
    elif beta:
        value = _relative_entropy(beta * q, beta * p).sum(-1) / beta**2
    else:
        value = (p - q).square().sum(-1) / 2
    return value.clamp(min=0)  # below 0 by rounding only


def _relative_entropy(a: Tensor, b: Tensor) -> Tensor:
    """A log(A / B) - A + B of A = exp(a) and B = exp(b), 0 log 0 = 0."""
    excluded = a == -math.inf
    return a.exp() * (a - b).masked_fill(excluded, 0) - a.exp() + b.exp()


def _itakura_saito(ratio: Tensor) -> Tensor:
    """exp(r) - r - 1, r = log(P / Q)."""
    return ratio.exp() - ratio - 1
