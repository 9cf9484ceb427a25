"""Eq. 11: L = w_sft L_SFT + w_distillation L_distillation + w_span L_span."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mgsr.config.schema import DacKlConfig, ObjectiveConfig
from mgsr.errors import MgsrError
from mgsr.objectives.dac_kl import Band, DacKl
from mgsr.objectives.divergences import Divergence, divergence_from_config
from mgsr.objectives.span import span_consistency
from mgsr.objectives.view import View


class Objective(nn.Module):
    """All terms of a method. Its parameters, if it has any, are those of DAC-KL's f."""

    def __init__(self, config: ObjectiveConfig, vocabulary: int, seed: int) -> None:
        super().__init__()
        self.config = config
        distillation = config.distillation if config.distillation_weight > 0 else None
        self.dac_kl: DacKl | None = None
        self.divergence: Divergence | None = None
        if isinstance(distillation, DacKlConfig):
            self.dac_kl = DacKl(distillation, vocabulary, seed)
        elif distillation is not None:
            self.divergence = divergence_from_config(distillation)
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
        return "distillation" in self.weights or "span" in self.weights

    @property
    def terms(self) -> tuple[str, ...]:
        """The keys of every result, whatever the view holds."""
        band = [f"band/{name}" for name in Band.__dataclass_fields__] if self.dac_kl is not None else []
        return (*self.weights, *band)

    def forward(self, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss, and without gradient each term's weighted sum before its weight in Eq. 11. Raises MgsrError
        where a teacher is needed and missing."""
        zero = view.student_logp.new_zeros(())
        sums = dict.fromkeys(self.terms, zero)
        if "sft" in self.weights:
            sums["sft"] = self._cross_entropy(view)
        if "distillation" in self.weights and (rows := view.token_weight[: view.own].nonzero().squeeze(-1)).numel():
            sums |= self._distillation(view, rows)
        if "span" in self.weights and view.pair_weight[: view.own].any():
            sums["span"] = span_consistency(view.student_logp, _teacher(view), view.pair_weight[: view.own])
        loss = sum((weight * sums[name] for name, weight in self.weights.items()), zero)
        return loss, {name: value.detach() for name, value in sums.items()}

    def _cross_entropy(self, view: View) -> Tensor:
        weight = view.sft_weight[: view.own]
        nll = -view.student_logp[: view.own].gather(-1, view.targets[: view.own, None]).squeeze(-1)
        return (weight * torch.where(weight != 0, nll, 0)).sum()

    def _distillation(self, view: View, rows: Tensor) -> dict[str, Tensor]:
        # A slice where all rows count, as they mostly do: indexing would copy [own, vocab].
        pick: slice | Tensor = slice(0, view.own) if len(rows) == view.own else rows
        student, teacher, weight = view.student_logp[pick], _teacher(view)[pick], view.token_weight[pick]
        if self.dac_kl is None:
            assert self.divergence is not None
            return {"distillation": (weight * self.divergence(student, teacher)).sum()}
        value, band = self.dac_kl(student, teacher)
        stats = {f"band/{name}": (weight * stat).sum() for name, stat in vars(band).items()}
        return {"distillation": (weight * value).sum(), **stats}


def _teacher(view: View) -> Tensor:
    if view.teacher_logp is None:
        raise MgsrError("positions with a distillation or span weight need the teacher's hidden states, and none were given")
    return view.teacher_logp
