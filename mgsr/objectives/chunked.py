"""An objective from hidden states, in chunks over positions: no [positions, vocab] tensor of the whole batch exists.

Gradients are taken chunk by chunk within the forward pass, as Liger does it (Hsu et al. 2024), and equal the plain
computation's. Logits are computed under the caller's autocast, everything after them in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mgsr.errors import MgsrError
from mgsr.models.language_model import HiddenStates, at_least_float32
from mgsr.objectives.objective import Objective
from mgsr.objectives.positions import Positions, View


def chunked_loss(
    objective: Objective, student: HiddenStates, teacher: HiddenStates | None, at: Positions, chunk: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective of N positions, flattened in order, at which both models have the hidden states [N, width].

    chunk: positions whose logits exist at one time (one more where a pair reaches over the edge); it changes no result.
    Positions without a weight cost nothing.

    Returns the loss, differentiable in the hidden states and in the parameters of the student's output layer and of the
    objective (each gets a gradient, be it zero, so that processes agree), and the objective's sums. Under `no_grad` it only
    evaluates.
    Raises MgsrError for rows that do not match, a pair without its second position, or a missing teacher.
    """
    for name, states in (("student", student), ("teacher", teacher)):
        if states is not None and len(states) != len(at):
            raise MgsrError(f"chunked_loss: the {name} has {len(states)} hidden states for {len(at)} positions")
    if len(at) and at.pair_weight[-1] != 0:
        raise MgsrError("chunked_loss: the last position has a pair weight, but no position follows it")
    evaluate = partial(_evaluate, objective, student, teacher, at, chunk)
    if torch.is_grad_enabled():
        parameters = dict.fromkeys([*student.head.parameters(), *objective.parameters()])
        loss, sums = _ChunkedLoss.apply(evaluate, student.values, *(x for x in parameters if x.requires_grad))  # type: ignore[no-untyped-call]
    else:
        loss, sums, _ = evaluate(())
    return loss, dict(zip(objective.terms, sums.unbind(), strict=True))


Evaluated = tuple[Tensor, Tensor, list[Tensor]]


class _ChunkedLoss(torch.autograd.Function):
    """Hidden states and parameters are inputs, so that their gradients pass through autograd, and through DDP's hooks."""

    @staticmethod
    def forward(
        ctx: Any, evaluate: Callable[[tuple[Tensor, ...]], Evaluated], hidden: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            loss, sums, gradients = evaluate(parameters)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [x.dtype for x in (hidden, *parameters)]
        ctx.mark_non_differentiable(sums)
        return loss, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return None, *((of_loss * g).to(dtype) for g, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True))


def _evaluate(
    objective: Objective,
    student: HiddenStates,
    teacher: HiddenStates | None,
    at: Positions,
    chunk: int,
    parameters: tuple[Tensor, ...],
) -> Evaluated:
    """Loss, sums [terms], and where gradients are enabled those of hidden states and parameters, accumulated in float32."""
    differentiate = torch.is_grad_enabled()
    hidden = student.values.detach()
    sums = torch.zeros(len(objective.terms), device=hidden.device, dtype=at_least_float32(hidden))
    loss = sums.new_zeros(())
    gradients = [torch.zeros_like(x, dtype=at_least_float32(x)) for x in (hidden, *parameters)] if differentiate else []
    for rows, counted in _chunks(at, chunk):
        piece = hidden[rows].requires_grad_(differentiate)
        with torch.no_grad():
            teacher_logp = teacher[rows].log_probabilities() if teacher is not None else None
        view = View(replace(student, values=piece).log_probabilities(), teacher_logp, at[rows], counted)
        with torch.autocast(hidden.device.type, enabled=False):
            value, terms = objective(view)
        del view, teacher_logp
        loss += value.detach()
        sums += torch.stack([terms[name] for name in objective.terms])
        if differentiate and value.requires_grad:
            of_piece, *of_parameters = torch.autograd.grad(value, (piece, *parameters), allow_unused=True)
            if of_piece is not None:
                gradients[0].index_add_(0, rows, of_piece.to(gradients[0].dtype))
            for total, part in zip(gradients[1:], of_parameters, strict=True):
                if part is not None:
                    total += part
    return loss, sums, gradients


def _chunks(at: Positions, chunk: int) -> Iterator[tuple[Tensor, int]]:
    """(rows, counted): up to `chunk` rows that have a weight, and the one after them if a pair reaches over the edge."""
    paired = at.pair_weight != 0
    needed = paired | (at.token_weight != 0) | (at.sft_weight != 0)
    needed[1:] |= paired[:-1]
    rows = needed.nonzero().squeeze(-1)  # both rows of a pair are kept, so they stay neighbours
    reaches_over = paired[rows].tolist()
    for start in range(0, len(rows), chunk):
        counted = min(chunk, len(rows) - start)
        yield rows[start : start + counted + reaches_over[start + counted - 1]], counted
