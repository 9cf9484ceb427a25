"""Divergences between two distributions over the vocabulary, p the teacher's and q the student's.

All take log-probabilities `s_logp` (log q) and `t_logp` (log p), [..., vocab] in float32 or float64, and give [...] in nats.
All are 0 at p = q and never below; values and gradients are finite wherever the divergence is, zero probabilities (-inf)
included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mgsr.config.loss_terms import NamedDivergence
from mgsr.models.kl import forward_kl, kl, reverse_kl

Divergence = Callable[[Tensor, Tensor], Tensor]


def mixture(a_logp: Tensor, b_logp: Tensor, share: float) -> Tensor:
    """log(share a + (1 - share) b). Probabilities would underflow to log 0."""
    if share == 0:
        return b_logp
    floor = torch.finfo(a_logp.dtype).min / 4  # logaddexp's gradient is NaN where both are -inf
    return torch.logaddexp(a_logp.clamp(min=floor) + math.log(share), b_logp.clamp(min=floor) + math.log1p(-share))


def symmetric_kl(s_logp: Tensor, t_logp: Tensor, forward_share: float) -> Tensor:
    """forward_share KL(p || q) + (1 - forward_share) KL(q || p), 0 <= forward_share <= 1; the ends are the KLs themselves."""
    if forward_share == 0:  # 0 times a KL that is infinite would be NaN
        return reverse_kl(s_logp, t_logp)
    if forward_share == 1:
        return forward_kl(s_logp, t_logp)
    return forward_share * forward_kl(s_logp, t_logp) + (1 - forward_share) * reverse_kl(s_logp, t_logp)


def total_variation(s_logp: Tensor, t_logp: Tensor) -> Tensor:
    """Half the sum of |p - q|, between 0 and 1; a class of p = q has gradient 0."""
    return 0.5 * (t_logp.exp() - s_logp.exp()).abs().sum(-1)


def generalized_jsd(s_logp: Tensor, t_logp: Tensor, beta: float) -> Tensor:
    """beta KL(p || M) + (1 - beta) KL(q || M), M = beta p + (1 - beta) q (Agarwal et al. 2024), 0 < beta < 1.

    It shrinks towards 0 as beta nears 0 or 1: no end point is special-cased to a KL.
    """
    m_logp = mixture(t_logp, s_logp, beta)
    return beta * kl(t_logp, m_logp) + (1 - beta) * kl(s_logp, m_logp)


def skew_forward_kl(s_logp: Tensor, t_logp: Tensor, alpha: float) -> Tensor:
    """KL(p || alpha p + (1 - alpha) q) (Ko et al. 2024), 0 <= alpha < 1."""
    return kl(t_logp, mixture(t_logp, s_logp, alpha))


def skew_reverse_kl(s_logp: Tensor, t_logp: Tensor, alpha: float) -> Tensor:
    """KL(q || alpha q + (1 - alpha) p) (Ko et al. 2024), 0 <= alpha < 1."""
    return kl(s_logp, mixture(s_logp, t_logp, alpha))


DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "symmetric_kl": symmetric_kl,
    "total_variation": total_variation,
    "generalized_jsd": generalized_jsd,
    "skew_forward_kl": skew_forward_kl,
    "skew_reverse_kl": skew_reverse_kl,
}


def divergence_from_config(config: NamedDivergence) -> Divergence:
    """The function that the configuration names, its parameters filled in."""
    return partial(DIVERGENCES[config.name], **config.model_dump(exclude={"name"}))
