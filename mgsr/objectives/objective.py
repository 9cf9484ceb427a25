"""Eq. 11: L = w_sft L_SFT + w_distillation L_distillation + w_span L_span."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgsr.config.loss_terms import CrossEntropy, Custom, DacKlConfig, ObjectiveConfig, PolicyGradientConfig
from mgsr.errors import MgsrError
from mgsr.objectives.custom import CustomLoss
from mgsr.objectives.dac_kl import Band, DacKl
from mgsr.objectives.divergences import divergence_from_config
from mgsr.objectives.policy_gradient import STATS, policy_gradient
from mgsr.objectives.positions import View
from mgsr.objectives.span_consistency import span_consistency


class Objective(nn.Module):
    """All terms of a method. Its parameters, if it has any, are those of DAC-KL's f or of a loss of the user's own.

    progress: the optimiser step as a share of all steps, set by the trainer before each step.
    """

    def __init__(self, config: ObjectiveConfig, vocabulary: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.progress = 0.0
        distillation = config.distillation if config.distillation_weight > 0 else None
        self.distillation = distillation
        self.dac_kl = DacKl(distillation, vocabulary, seed) if isinstance(distillation, DacKlConfig) else None
        self.custom = CustomLoss(distillation) if isinstance(distillation, Custom) else None
        self.weights = {
            name: weight
            for name, weight in (
                ("sft", config.sft_weight),
                ("distillation", config.distillation_weight if distillation is not None else 0.0),
                ("span", config.span_weight),
            )
            if weight > 0
        }

    @property
    def needs_teacher(self) -> bool:
        """Whether a forward pass of the teacher is needed. SeqKD's cross-entropy needs none."""
        distils = "distillation" in self.weights and not isinstance(self.distillation, CrossEntropy)
        return distils or "span" in self.weights

    @property
    def terms(self) -> tuple[str, ...]:
        """The keys of every result, whatever the view holds."""
        stats: list[str] = []
        if self.dac_kl is not None:
            stats = [f"band/{name}" for name in Band.__dataclass_fields__]
        elif isinstance(self.distillation, PolicyGradientConfig):
            stats = [f"policy_gradient/{name}" for name in STATS]
        return (*self.weights, *stats)

    def forward(self, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss, and without gradient each term's weighted sum before its weight in Eq. 11. Raises MgsrError
        where a teacher is needed and missing."""
        zero = view.student_logp.new_zeros(())
        sums, counted = dict.fromkeys(self.terms, zero), view.at[: view.counted]
        if "sft" in self.weights:
            sums["sft"] = _cross_entropy(view, counted.sft_weight)
        if "distillation" in self.weights and (rows := counted.token_weight.nonzero().squeeze(-1)).numel():
            sums |= self._distillation(view, rows)
        if "span" in self.weights and counted.pair_weight.any():
            sums["span"] = self._span(view, counted.pair_weight)
        loss = sum((weight * sums[name] for name, weight in self.weights.items()), zero)
        return loss, {name: value.detach() for name, value in sums.items()}

    def after_step(self, figures: Mapping[str, float]) -> None:
        """Give a loss of the user's own the step's value, unless the step distilled on nothing. To be called after every
        optimiser step, on every process, with the step's figures, which are sums over all processes."""
        if self.custom is not None and (value := figures.get("distillation", 0.0)) != 0:
            self.custom.after_step(value, self.progress)

    def _distillation(self, view: View, rows: Tensor) -> dict[str, Tensor]:
        if isinstance(self.distillation, CrossEntropy):
            return {"distillation": _cross_entropy(view, view.at.token_weight[: view.counted])}
        # A slice where all rows count, as they mostly do: indexing would copy [counted, vocab].
        pick: slice | Tensor = slice(0, view.counted) if len(rows) == view.counted else rows
        student, teacher, at = view.student_logp[pick], _teacher(view)[pick], view.at[pick]
        stats: dict[str, Tensor] = {}
        if self.dac_kl is not None:
            value, band = self.dac_kl(student, teacher)
            stats = {f"band/{name}": stat for name, stat in vars(band).items()}
        elif self.custom is not None:
            value = self.custom(student, teacher, self.progress)
        elif isinstance(self.distillation, PolicyGradientConfig):
            if at.rollout is None:
                raise MgsrError("policy_gradient needs the rollout's columns of each position, and none were given")
            value, figures = policy_gradient(self.distillation, student, teacher, at.targets, at.rollout)
            stats = {f"policy_gradient/{name}": stat for name, stat in figures.items()}
        else:
            assert self.distillation is not None and not isinstance(self.distillation, DacKlConfig | Custom)
            value = divergence_from_config(self.distillation)(student, teacher)
        return {name: (at.token_weight * x).sum() for name, x in {"distillation": value, **stats}.items()}

    def _span(self, view: View, weight: Tensor) -> Tensor:
        config = self.config.span
        if config.vectors == "full":
            return span_consistency(view.student_logp, _teacher(view), weight, config.norm)
        assert self.dac_kl is not None  # the configuration sees to it
        weight = F.pad(weight, (0, len(view.student_logp) - view.counted))
        paired = weight != 0
        rows = (paired | paired.roll(1)).nonzero().squeeze(-1)  # both rows of a pair, so they stay neighbours
        student, teacher = self.dac_kl.clipped(view.student_logp[rows], _teacher(view)[rows])
        return span_consistency(student, teacher, weight[rows], config.norm)


def _cross_entropy(view: View, weight: Tensor) -> Tensor:
    """The weighted sum over the first positions, one for each weight; where the weight is 0, the value may be infinite."""
    nll = -view.student_logp[: len(weight)].gather(-1, view.at.targets[: len(weight), None]).squeeze(-1)
    return (weight * torch.where(weight != 0, nll, 0)).sum()


def _teacher(view: View) -> Tensor:
    if view.teacher_logp is None:
        raise MgsrError("positions with a distillation or span weight need the teacher's hidden states, and none were given")
    return view.teacher_logp
