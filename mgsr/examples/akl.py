"""Adaptive KL (Wu et al. 2024, arXiv 2404.02657): forward and reverse KL, weighed by where the two models are apart."""

from __future__ import annotations

from torch import Tensor

from mgsr.models.kl import forward_kl, reverse_kl


def akl(student_logp: Tensor, teacher_logp: Tensor, *, progress: float, mu: float = 0.5) -> Tensor:
    """g_head / (g_head + g_tail) KL(p || q) + g_tail / (g_head + g_tail) KL(q || p), the weights without gradient.

    g is the sum of |p - q| over the teacher's head and tail. The head holds its largest classes while their mass is at most
    `mu`, and always the largest one (its code's rule). `progress` plays no part.
    """
    p, q = teacher_logp.exp(), student_logp.detach().exp()
    ordered, index = p.sort(-1, descending=True)
    # The gap is brought into the teacher's order: the head is defined there (docs/pitfalls.md, no. 13).
    gap = (p - q).abs().gather(-1, index)
    tail = ordered.cumsum(-1) > mu
    tail[..., 0] = False
    head_gap, tail_gap = gap.masked_fill(tail, 0).sum(-1), gap.masked_fill(~tail, 0).sum(-1)
    # Where p = q, both gaps are 0 and so are both KLs: any weight will do.
    share = head_gap / (head_gap + tail_gap).clamp(min=1e-12)
    return share * forward_kl(student_logp, teacher_logp) + (1 - share) * reverse_kl(student_logp, teacher_logp)
