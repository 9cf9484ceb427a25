"""DAC-KL's default reading with its gradient in closed form, worked out on the classes near the band alone.

The log-space mask m_k = sigmoid((log t_k - log l) / softness) sigmoid((log u - log t_k) / softness), 1 for the target, makes of
each distribution one over kept classes and a bucket for the rest. Log m cancels between the two models, so with
R_s = sum_k (1 - m_k) s_k and R_t likewise the coarse-grained KL is

    L = sum_k m_k s_k (log s_k - log t_k) + R_s (log R_s - log R_t).

Most classes of a vocabulary lie so far below the band that m_k < eps, the resolution of their type. Here they count as m_k = 0:
all they do is to add to R_s and R_t. To first order L moves by at most eps sum_k s_k |log (s_k / t_k) - log (R_s / R_t)| over
them. `DacKl` spells the same out slot by slot for every reading, and is the reference. A rest that has underflowed counts as
the smallest normal number.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class CoarseKl(torch.autograd.Function):
    """(log s, log t, log u, log l, target, softness) -> (L [n], kept teacher mass [n], kept classes [n], those of m_k > 0.5).

    Shapes: log s and log t [n, vocab], log u and log l [n, 1], target [n, 1]. L has a gradient in log s, log u and log l, the
    kept mass in log u and log l; log t has none.
    """

    @staticmethod
    def forward(
        ctx: Any, s_logp: Tensor, t_logp: Tensor, log_u: Tensor, log_l: Tensor, target: Tensor, softness: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, vocabulary = s_logp.shape
        info = torch.finfo(s_logp.dtype)
        near = (t_logp > log_l + math.log(info.eps) * softness).scatter_(-1, target, True)
        index = near.view(-1).nonzero().squeeze(-1)  # row by row
        starts = torch.arange(n + 1, device=index.device) * vocabulary
        counts = torch.searchsorted(index, starts).diff()

        def by_class(x: Tensor) -> Tensor:
            return x.view(n).repeat_interleave(counts, output_size=len(index))  # known, so a GPU need not be asked

        def by_row(x: Tensor) -> Tensor:
            return torch.segment_reduce(x.double(), "sum", lengths=counts).to(s_logp.dtype)

        floor = info.min / 4  # of logs: differences are finite where a probability is 0
        y, x = (logp.reshape(-1)[index].clamp_(min=floor) for logp in (s_logp, t_logp))
        s, t, ratio = y.exp(), x.exp(), y - x
        is_target = index == by_class(target.squeeze(-1) + starts[:-1])
        above = ((x - by_class(log_l)) / softness).sigmoid_().masked_fill_(is_target, 1)
        below = ((by_class(log_u) - x) / softness).sigmoid_().masked_fill_(is_target, 1)
        mask = above * below
        kept_s, kept_t = mask * s, mask * t
        mass, classes = by_row(kept_t), by_row(mask > 0.5)

        far_s, far_t = (logp.exp() for logp in (s_logp, t_logp))
        far_s.view(-1)[index] = far_t.view(-1)[index] = 0
        rest_s, rest_t = (
            (far_s.sum(-1) + by_row(s - kept_s)).clamp_(min=info.tiny),
            (far_t.sum(-1) + by_row(t - kept_t)).clamp_(min=info.tiny),
        )
        rest_ratio = rest_s.log() - rest_t.log()
        loss = by_row(kept_s * ratio) + rest_s * rest_ratio

        of_s_logp = far_s.mul_(rest_ratio[:, None] + 1)
        of_s_logp.view(-1)[index] = kept_s * ratio + (s - kept_s) * by_class(rest_ratio) + s
        of_mask = s * (ratio - by_class(rest_ratio) - 1) + t * by_class(rest_s / rest_t)
        mask_of_u, mask_of_l = mask * (1 - below) / softness, mask * (above - 1) / softness
        ctx.save_for_backward(of_s_logp, *(by_row(x * y) for x in (of_mask, t) for y in (mask_of_u, mask_of_l)))
        ctx.mark_non_differentiable(classes)
        return loss, mass, classes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor, of_mass: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        of_s_logp, loss_of_u, loss_of_l, mass_of_u, mass_of_l = ctx.saved_tensors
        of_u, of_l = of_loss * loss_of_u + of_mass * mass_of_u, of_loss * loss_of_l + of_mass * mass_of_l
        return of_s_logp * of_loss[:, None], None, of_u[:, None], of_l[:, None], None, None


class SplitLinear(torch.autograd.Function):
    """(weight [out, in], bias [out], inputs [n, in / k] k times) -> a linear layer of the inputs side by side [n, out].

    The side-by-side tensor would be several times the vocabulary wide; neither it nor a gradient of its kind exists here.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(weight, *inputs)
        result = bias.expand(len(inputs[0]), -1)
        for x, part in zip(inputs, weight.chunk(len(inputs), -1), strict=True):
            result = torch.addmm(result, x, part.t())
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_result: Tensor) -> tuple[Tensor | None, ...]:
        weight, *inputs = ctx.saved_tensors
        of_weight = torch.empty_like(weight)
        for x, part in zip(inputs, of_weight.chunk(len(inputs), -1), strict=True):
            torch.mm(of_result.t(), x, out=part)
        parts = zip(weight.chunk(len(inputs), -1), ctx.needs_input_grad[2:], strict=True)
        return of_weight, of_result.sum(0), *(of_result @ part if needed else None for part, needed in parts)
