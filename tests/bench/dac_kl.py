"""DAC-KL, its clipping network included, beside generalised JSD: forward and backward on the same pair of models' logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mgsr.config.loss_terms import DacKlConfig
from mgsr.objectives.dac_kl import DacKl
from mgsr.objectives.divergences import generalized_jsd
from tests.bench.harness import Row, in_turn

POSITIONS, VOCABULARY, REPEATS, ROUNDS = 64, 49_152, 5, 7


def logits() -> tuple[Tensor, Tensor]:
    """A student's and a teacher's, as spread as SmolLM2-135M's: from 0 down to some 30 nats, half of the classes below 20."""
    generator = torch.Generator().manual_seed(0)
    common = 3.5 * torch.randn(POSITIONS, VOCABULARY, generator=generator)
    own = [torch.randn(POSITIONS, VOCABULARY, generator=generator) for _ in range(2)]
    peak = torch.zeros(POSITIONS, VOCABULARY).scatter_(-1, torch.randint(VOCABULARY, (POSITIONS, 8), generator=generator), 14.0)
    return common + own[0] + peak, common + own[1] + peak


def rows() -> list[Row]:
    student, teacher = logits()
    student.requires_grad_()
    t_logp = teacher.log_softmax(-1)
    dac = DacKl(DacKlConfig(name="dac_kl"), VOCABULARY, seed=1)

    def work(loss: Callable[[Tensor], Tensor]) -> Callable[[], float]:
        def step() -> float:
            for _ in range(REPEATS):
                student.grad = None
                dac.zero_grad()
                loss(student.log_softmax(-1)).sum().backward()
            return REPEATS

        return step

    ours, peer = work(lambda s_logp: dac(s_logp, t_logp)[0]), work(lambda s_logp: generalized_jsd(s_logp, t_logp, 0.1))
    name = f"DAC-KL, {POSITIONS} positions x {VOCABULARY:,}"
    return [Row(name, "generalised JSD", "ms", *in_turn(ours, peer, ROUNDS), asked=0.044 / 0.09)]
