"""An objective from hidden states, in chunks over positions: no [positions, vocab] tensor of the whole batch exists.

Gradients are taken chunk by chunk within the forward pass, as Liger does it (Hsu et al. 2024), and equal the plain
computation's. Logits are computed under the caller's autocast, everything after them in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mgsr.errors import MgsrError
from mgsr.models.language_model import at_least_float32, log_probabilities
from mgsr.objectives.objective import Objective
from mgsr.objectives.view import View


@dataclass(frozen=True)
class _Positions:
    """The positions of a micro-batch that have a term, flattened in order, and the two output layers."""

    objective: Objective
    student_head: nn.Module
    teacher_hidden: Tensor | None
    teacher_head: nn.Module | None
    targets: Tensor
    token_weight: Tensor
    pair_weight: Tensor
    sft_weight: Tensor
    rollout: Tensor | None
    vocabulary: int
    chunk: int

    def __post_init__(self) -> None:
        n = len(self.targets)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor) and len(value) != n:
                raise MgsrError(f"chunked_loss: `{field.name}` has {len(value)} rows, `targets` has {n}")
        if n and self.pair_weight[-1] != 0:
            raise MgsrError("chunked_loss: the last position has a pair weight, but no position follows it")
        if self.teacher_hidden is not None and self.teacher_head is None:
            raise MgsrError("chunked_loss: the teacher's hidden states were given without its output layer")

    def chunks(self) -> Iterator[tuple[Tensor, int]]:
        """(rows, own): up to `chunk` rows of the flat batch, and the one after them if a pair reaches over the edge."""
        paired = self.pair_weight != 0
        needed = paired | (self.token_weight != 0) | (self.sft_weight != 0)
        needed[1:] |= paired[:-1]
        rows = needed.nonzero().squeeze(-1)  # both rows of a pair are kept, so they stay neighbours
        reaches_over = paired[rows].tolist()
        for start in range(0, len(rows), self.chunk):
            own = min(self.chunk, len(rows) - start)
            yield rows[start : start + own + reaches_over[start + own - 1]], own

    def view(self, hidden: Tensor, rows: Tensor, own: int) -> View:
        teacher_logp = None
        if self.teacher_hidden is not None and self.teacher_head is not None:
            with torch.no_grad():
                teacher_logp = log_probabilities(self.teacher_head, self.teacher_hidden[rows], self.vocabulary)
        student_logp = log_probabilities(self.student_head, hidden, self.vocabulary)
        weights = self.token_weight[rows], self.pair_weight[rows], self.sft_weight[rows]
        rollout = self.rollout[rows] if self.rollout is not None else None
        return View(student_logp, teacher_logp, self.targets[rows], *weights, own=own, rollout=rollout)

    def evaluate(self, hidden: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Loss, sums [terms], and where gradients are enabled those of hidden and parameters, accumulated in float32."""
        differentiate = torch.is_grad_enabled()
        sums = torch.zeros(len(self.objective.terms), device=hidden.device, dtype=at_least_float32(hidden))
        loss = sums.new_zeros(())
        gradients = [torch.zeros_like(x, dtype=at_least_float32(x)) for x in (hidden, *parameters)] if differentiate else []
        for rows, own in self.chunks():
            piece = hidden.detach()[rows].requires_grad_(differentiate)
            view = self.view(piece, rows, own)
            with torch.autocast(hidden.device.type, enabled=False):
                value, terms = self.objective(view)
            del view
            loss += value.detach()
            sums += torch.stack([terms[name] for name in self.objective.terms])
            if differentiate and value.requires_grad:
                of_piece, *of_parameters = torch.autograd.grad(value, (piece, *parameters), allow_unused=True)
                if of_piece is not None:
                    gradients[0].index_add_(0, rows, of_piece.to(gradients[0].dtype))
                for total, part in zip(gradients[1:], of_parameters, strict=True):
                    if part is not None:
                        total += part
        return loss, sums, gradients


class _ChunkedLoss(torch.autograd.Function):
    """Hidden states and parameters are inputs, so that their gradients pass through autograd, and through DDP's hooks."""

    @staticmethod
    def forward(ctx: Any, positions: _Positions, hidden: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            loss, sums, gradients = positions.evaluate(hidden, parameters)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [x.dtype for x in (hidden, *parameters)]
        ctx.mark_non_differentiable(sums)
        return loss, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return None, *((of_loss * g).to(dtype) for g, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True))


def chunked_loss(
    objective: Objective,
    student_hidden: Tensor,
    student_head: nn.Module,
    teacher_hidden: Tensor | None,
    teacher_head: nn.Module | None,
    targets: Tensor,
    token_weight: Tensor,
    pair_weight: Tensor,
    sft_weight: Tensor,
    vocabulary: int,
    chunk: int,
    rollout: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective of N positions, flattened in order: hidden states [N, width], rollout [N, 3], the rest [N] (see `View`).

    vocabulary: the classes that both models share; logits are cut to it. chunk: positions whose logits exist at one
    time (one more where a pair reaches over the edge); it changes no result. Positions without a weight cost nothing.

    Returns the loss, differentiable in the hidden states and in the parameters of the student's output layer and of the
    objective (each gets a gradient, be it zero, so that processes agree), and the objective's sums. Under `no_grad` it only
    evaluates.
    Raises MgsrError for rows that do not match, a pair without its second position, or a missing teacher.
    """
    weights = token_weight, pair_weight, sft_weight
    positions = _Positions(
        objective, student_head, teacher_hidden, teacher_head, targets, *weights, rollout, vocabulary=vocabulary, chunk=chunk
    )
    if torch.is_grad_enabled():
        owned = dict.fromkeys([*student_head.parameters(), *objective.parameters()])
        loss, sums = _ChunkedLoss.apply(positions, student_hidden, *(x for x in owned if x.requires_grad))  # type: ignore[no-untyped-call]
    else:
        loss, sums, _ = positions.evaluate(student_hidden, ())
    return loss, dict(zip(objective.terms, sums.unbind(), strict=True))
