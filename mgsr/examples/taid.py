"""TAID, temporally adaptive interpolated distillation (Shing et al. 2025, arXiv 2501.16937; its code's rule for t).

The student learns from an intermediate teacher that moves from its own distribution to the teacher's as t rises.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mgsr.models.kl import forward_kl


class Taid(nn.Module):
    """KL(p_t || q), p_t = softmax((1 - t) log q + t log p), q held there.

    Log-probabilities stand for the logits, from which they differ by a constant of each row, which softmax drops. t starts at
    `start`, never falls, and rises at least linearly to `end` over the run; ahead of that line it gains
    `rate * sigmoid(m) * (1 - t)` a step, m a moving average (weight `momentum`) of the relative fall of the loss.
    """

    t: Tensor
    previous: Tensor
    average: Tensor

    def __init__(self, start: float = 0.4, end: float = 1.0, rate: float = 5e-4, momentum: float = 0.99) -> None:
        super().__init__()
        self.start, self.end, self.rate, self.momentum = start, end, rate, momentum
        # Buffers are checkpointed, so a resumed run goes on at its t.
        self.register_buffer("t", torch.tensor(start, dtype=torch.float64))
        self.register_buffer("previous", torch.tensor(float("inf"), dtype=torch.float64))
        self.register_buffer("average", torch.tensor(0.0, dtype=torch.float64))

    def forward(self, student_logp: Tensor, teacher_logp: Tensor, *, progress: float) -> Tensor:
        t = max(float(self.t), self._line(progress))
        between = (1 - t) * student_logp.detach() + t * teacher_logp
        return forward_kl(student_logp, between.log_softmax(-1))

    def after_step(self, distillation: float, progress: float) -> None:
        previous = float(self.previous)
        self.previous.fill_(distillation)
        if previous == float("inf"):
            return
        fall = (previous - distillation) / (previous + 1e-15)
        self.average.mul_(self.momentum).add_((1 - self.momentum) * fall)
        ahead = float(self.t) + self.rate * float(self.average.sigmoid()) * (1 - float(self.t))
        self.t.fill_(min(self.end, max(self._line(progress), ahead)))

    def _line(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress
