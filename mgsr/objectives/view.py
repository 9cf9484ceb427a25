"""What an objective looks at: some consecutive response positions of both models."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class View:
    """n positions, of which the first `own` are counted; a row after them only completes the pair (own - 1, own).

    The weights say which terms a position has, and hold every divisor of the step's means (over all micro-batches and
    processes). All terms are therefore sums, and views simply add up.
    """

    student_logp: Tensor  # [n, vocab], with gradient
    teacher_logp: Tensor | None  # [n, vocab], without; None where no position has a term that needs it
    targets: Tensor  # [n], the token that stands at the position
    token_weight: Tensor  # [n], of the distillation term
    pair_weight: Tensor  # [n], of the span term's pair (a, a + 1)
    sft_weight: Tensor  # [n], of the cross-entropy
    own: int
    rollout: Tensor | None = None  # [n, 3], of a policy gradient's rollouts: log q_old(y_t), advantage, importance weight w_t
