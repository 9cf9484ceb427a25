"""What an objective is given of response positions: the positions themselves, and what both models predict there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mgsr.errors import MgsrError


@dataclass(frozen=True)
class Positions:
    """n response positions in order: their tokens, and how much each counts in which term.

    The weights say which terms a position has, and hold every divisor of the step's means (over all micro-batches and
    processes). All terms are therefore sums, and positions of several forward passes simply add up.
    Raises MgsrError where the rows of two fields differ in number.
    """

    targets: Tensor  # [n] int64, the token that stands at the position
    token_weight: Tensor  # [n], of the distillation term
    pair_weight: Tensor  # [n], of the span term's pair (a, a + 1)
    sft_weight: Tensor  # [n], of the cross-entropy
    rollout: Tensor | None = None  # [n, 3], of a policy gradient's rollouts: log q_old(y_t), advantage, importance weight w_t

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and len(value) != len(self):
                raise MgsrError(f"positions: `{name}` has {len(value)} rows, `targets` has {len(self)}")

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, rows: Tensor | slice) -> Positions:
        """The positions at these indices, in this order."""
        return self._each(lambda field: field[rows])

    def to(self, device: torch.device) -> Positions:
        return self._each(lambda field: field.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Positions:
        return replace(self, **{name: change(value) for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class View:
    """What both models predict at n consecutive positions, of which the first `counted` count: a row after them only completes
    the pair (counted - 1, counted)."""

    student_logp: Tensor  # [n, vocab], with gradient
    teacher_logp: Tensor | None  # [n, vocab], without gradient; None where no position has a term that needs it
    at: Positions
    counted: int
