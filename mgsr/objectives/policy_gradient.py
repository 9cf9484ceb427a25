"""MiniLLM's reverse KL by policy gradient (Gu et al. 2024, Eq. 8; its code, `losses.py`)."""

from __future__ import annotations

import torch
from torch import Tensor

from mgsr.config.loss_terms import PolicyGradientConfig
from mgsr.models.kl import reverse_kl

STATS = ("single_step", "ratio", "clipped")


def policy_gradient(
    config: PolicyGradientConfig, student_logp: Tensor, teacher_logp: Tensor, targets: Tensor, rollout: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of each position, `max(-rho A, -clip(rho, 1 - c, 1 + c) A) + single_step_weight KL(q || p)`, where
    `rho = w q(y) / q_old(y)`; the KL is over the full vocabulary and, if `weighted_single_step`, times w.

    Args:
        student_logp, teacher_logp: [n, vocab] log-probabilities, q with gradient and p without.
        targets: [n], the sampled token y.
        rollout: [n, 3], log q_old(y), the advantage A, the importance weight w = q_old(y) / p~(y).

    Returns:
        The loss [n], and `STATS`, each [n] without gradient: the KL before any weight, rho, and 1 where the clipped branch
        is taken (it has no gradient, so the position learns nothing from its reward).
    """
    old_logp, advantage, weight = rollout.to(student_logp.dtype).unbind(-1)
    logp = student_logp.gather(-1, targets[:, None]).squeeze(-1)
    ratio = (logp - old_logp + weight.log()).exp()  # one exponential: a ratio that overflows alone may be fine with w
    free, clipped = -ratio * advantage, -ratio.clamp(1 - config.ratio_clip, 1 + config.ratio_clip) * advantage
    kl = reverse_kl(student_logp, teacher_logp)
    single_step = kl * weight if config.weighted_single_step else kl
    loss = torch.maximum(free, clipped) + config.single_step_weight * single_step
    stats = (kl, ratio, (clipped > free).to(kl.dtype))
    return loss, dict(zip(STATS, (x.detach() for x in stats), strict=True))
