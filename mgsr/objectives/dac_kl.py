"""DAC-KL, distribution-adaptive clipping (token level, Eq. 5-8): a KL over the classes that a band keeps.

Where the paper can be read in several ways, `DacKlConfig` has a setting. What the settings do:
- As printed (Eq. 7) the mask is so steep that the thresholds hardly get a gradient, and where they do, the loss falls as the
  band shrinks: merging classes never raises a KL. The log-space mask gives gradients; `mass_floor` asks for the smallest
  band that holds a share of the teacher's mass.
- With content `mask` both vectors hold the same mask values, which cancel: the target's term s_c log(s_c / t_c) is left, which
  can be negative, and f gets no gradient.
- With normalisation `residual` and content `mask_times_prob` (and the target counted once) it is a coarse-grained KL: between 0
  and the full KL. With `kept` it is a KL of conditional distributions: not below 0, and above the full KL at times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgsr.config.loss_terms import DacKlConfig
from mgsr.models.kl import relative_entropy
from mgsr.objectives.coarse_kl import CoarseKl, SplitLinear


@dataclass(frozen=True)
class Band:
    """What the clipping did, per position [n] and without gradient. The target counts as kept, in `dense_only` too."""

    log_width: Tensor  # log u - log l
    kept_mass: Tensor  # teacher mass under the mask, target included
    kept_classes: Tensor  # classes with mask above 0.5, target included
    collapsed: Tensor  # 1 where the target alone is kept
    penalty: Tensor  # what `mass_floor` adds to the loss; 0 otherwise


@dataclass(frozen=True)
class Mask:
    """Which classes of each position are kept, from the teacher (and, through f, the student)."""

    log_in: Tensor  # [n, vocab], log m
    log_out: Tensor  # [n, vocab], log(1 - m)
    target: Tensor  # [n, 1], the teacher's largest class
    log_width: Tensor  # [n], log u - log l


class DacKl(nn.Module):
    """The loss and its clipping network f, which is no part of the student.

    f is None where it would change nothing: where thresholds are not learned, where there is no band, or where f is `detached`
    and so stays at its start, a constant.
    """

    def __init__(self, config: DacKlConfig, vocabulary: int, seed: int) -> None:
        super().__init__()
        self.config = config
        learns = config.thresholds == "learned" and config.trained_by != "detached" and config.parts != "target_only"
        self.f = _clipping_network(config, vocabulary, seed) if learns else None

    @property
    def is_default(self) -> bool:
        """Whether Eq. 7 and 8 are read as by default, whatever the thresholds are."""
        default = DacKlConfig(name="dac_kl")
        names = "direction", "content", "target", "normalisation", "mask_space", "parts"
        return self.config.thresholds != "mass" and all(getattr(self.config, x) == getattr(default, x) for x in names)

    def thresholds(self, s_logp: Tensor, t_logp: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 5-6: log u and log l [n, 1], l <= u. The student is a mere input of f, unless it is `attached`: then it can
        learn to steer f."""
        if self.f is not None:
            t, s = t_logp.exp(), s_logp.exp()
            if self.config.student_input == "detached":
                s = s.detach()
            first, *rest = self.f
            hidden = SplitLinear.apply(first.weight, first.bias, t, descending(t), s)  # type: ignore[no-untyped-call]
            log_u, log_l = F.logsigmoid(nn.Sequential(*rest)(hidden)).chunk(2, -1)
        elif self.config.thresholds == "rank":
            log_u, log_l = quantiles(t_logp.exp(), (self.config.start_upper, self.config.start_lower))
        else:
            start = (self.config.start_upper, self.config.start_lower)
            log_u, log_l = (t_logp.new_full((len(t_logp), 1), math.log(value)) for value in start)
        return log_u, torch.minimum(log_l, log_u)

    def mask(self, s_logp: Tensor, t_logp: Tensor) -> Mask:
        """Eq. 7: m = sigmoid(above) sigmoid(below) of the teacher's probabilities; `mass` keeps a class or drops it."""
        target = t_logp.argmax(-1, keepdim=True)
        if self.config.parts == "target_only":
            return _hard(torch.zeros_like(t_logp, dtype=torch.bool), target, t_logp.new_zeros(len(t_logp)))
        log_u, log_l = self.thresholds(s_logp, t_logp)
        log_width = (log_u - log_l).squeeze(-1)
        if self.config.thresholds == "mass":
            # No edge to soften: near the largest class all masses are near u, and a soft edge would halve their classes.
            mass = mass_not_above(t_logp.exp())
            return _hard((mass >= log_l.exp()) & (mass <= log_u.exp()), target, log_width)
        if self.config.mask_space == "log":
            above, below = t_logp - log_l, log_u - t_logp
        else:
            above, below = t_logp.exp() - log_l.exp(), log_u.exp() - t_logp.exp()
        above, below = above / self.config.softness, below / self.config.softness
        inside = F.logsigmoid(above)
        log_out = torch.logaddexp(F.logsigmoid(-above), inside + F.logsigmoid(-below))
        return Mask(inside + F.logsigmoid(below), log_out, target, log_width)

    def clip(self, logp: Tensor, mask: Mask) -> Tensor:
        """A model's clipped vector in logs [n, slots]: the band [vocab], the target in its place or in a slot of its own, and
        the rest under normalisation `residual`."""
        band = mask.log_in if self.config.content == "mask" else mask.log_in + logp
        if self.config.parts == "dense_only":
            # target_out: log of the share of the target that goes to the rest, here all of it
            slots, target_out = [band.scatter(-1, mask.target, -math.inf)], 0.0
        else:
            top = logp.gather(-1, mask.target)
            slots = [band.scatter(-1, mask.target, top)] if self.config.target == "once" else [band, top]
            target_out = -math.inf
        if self.config.normalisation == "residual":
            slots.append(_log_total(mask.log_out.scatter(-1, mask.target, target_out) + logp))
        vector = torch.cat(slots, -1)
        if self.config.normalisation == "kept":
            vector = vector - _log_total(vector)  # an empty one, -inf in each slot, stays one, and its KL is 0
        return vector

    def clipped(self, s_logp: Tensor, t_logp: Tensor) -> tuple[Tensor, Tensor]:
        """Both models' clipped vectors in logs [n, slots], for the span term. The mask is held: DAC-KL alone trains f."""
        with torch.no_grad():
            mask = self.mask(s_logp, t_logp)
        return self.clip(s_logp, mask), self.clip(t_logp, mask)

    def forward(self, s_logp: Tensor, t_logp: Tensor) -> tuple[Tensor, Band]:
        """Log-probabilities [n, vocab], the teacher's without gradient -> loss [n] (penalty included) and the band."""
        config = self.config
        loss, log_width, kept_mass, classes = self._coarse(s_logp, t_logp) if self.is_default else self._slots(s_logp, t_logp)
        coarse = config.normalisation == "residual" and (config.content, config.target) == ("mask_times_prob", "once")
        if coarse or config.normalisation == "kept":
            loss = loss.clamp(min=0)  # distributions: below 0 by rounding only
        penalty = torch.zeros_like(kept_mass)
        if self.f is not None and config.trained_by == "mass_floor":
            # Of what is trained it depends on f alone (an `attached` student aside), so f alone is trained by it.
            penalty = config.mass_floor_weight * (config.mass_floor - kept_mass).clamp(min=0).square()
        band = Band(log_width, kept_mass, classes, (classes <= 1).to(loss.dtype), penalty)
        return loss + penalty, Band(**{name: value.detach() for name, value in vars(band).items()})

    def _coarse(self, s_logp: Tensor, t_logp: Tensor) -> tuple[Tensor, ...]:
        """Loss, log width, kept teacher mass and kept classes, each [n], of the default reading."""
        log_u, log_l = self.thresholds(s_logp, t_logp)
        target = t_logp.max(-1, keepdim=True).indices
        loss, mass, classes = CoarseKl.apply(s_logp, t_logp, log_u, log_l, target, self.config.softness)  # type: ignore[no-untyped-call]
        return loss, (log_u - log_l).squeeze(-1), mass, classes

    def _slots(self, s_logp: Tensor, t_logp: Tensor) -> tuple[Tensor, ...]:
        """The same of any reading, slot by slot."""
        mask = self.mask(s_logp, t_logp)
        student, teacher = self.clip(s_logp, mask), self.clip(t_logp, mask)
        loss = relative_entropy(student, teacher) if self.config.direction == "reverse" else relative_entropy(teacher, student)
        kept = mask.log_in.scatter(-1, mask.target, 0.0)
        classes = (kept > math.log(0.5)).sum(-1).to(loss.dtype)
        return loss, mask.log_width, (kept + t_logp).exp().sum(-1), classes


def _log_total(x: Tensor) -> Tensor:
    """The log [n, 1] of a row's sum. logsumexp's gradient is NaN where the whole row is -inf; here it is 0."""
    return torch.logsumexp(x.clamp(min=torch.finfo(x.dtype).min / 4), -1, keepdim=True)


def _hard(kept: Tensor, target: Tensor, log_width: Tensor) -> Mask:
    zero = torch.zeros(kept.shape, device=kept.device, dtype=log_width.dtype)
    return Mask(zero.masked_fill(~kept, -math.inf), zero.masked_fill(kept, -math.inf), target, log_width)


def _clipping_network(config: DacKlConfig, vocabulary: int, seed: int) -> nn.Sequential:
    """f: [n, 3 vocab] -> [n, 2], logits of u and l; at its start a constant."""
    # Built on `meta`, the layers draw nothing: a run's other random numbers do not depend on its objective.
    hidden = nn.Linear(3 * vocabulary, config.hidden_width, device="meta").to_empty(device="cpu")
    thresholds = nn.Linear(config.hidden_width, 2, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(3 * vocabulary)  # nn.Linear's own
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        hidden.weight.uniform_(-bound, bound, generator=generator)
        hidden.bias.uniform_(-bound, bound, generator=generator)
        thresholds.weight.zero_()
        thresholds.bias.copy_(torch.logit(torch.tensor([config.start_upper, config.start_lower], dtype=torch.float64)))
    return nn.Sequential(hidden, nn.GELU(), thresholds)


def quantiles(t: Tensor, levels: tuple[float, ...]) -> tuple[Tensor, ...]:
    """Logs [n, 1] of the probabilities at `levels` of each row's ascending sort, interpolated at level * (vocab - 1)."""
    ordered = descending(t).flip(-1)
    logs = []
    for level in levels:
        at = level * (t.shape[-1] - 1)
        low = math.floor(at)
        below, above = ordered[:, low, None], ordered[:, min(low + 1, t.shape[-1] - 1), None]
        value = below + (at - low) * (above - below)
        logs.append(value.clamp(min=torch.finfo(t.dtype).tiny).log())  # finite where probabilities have underflowed to 0
    return tuple(logs)


def mass_not_above(t: Tensor) -> Tensor:
    """1 - sum of t_j with t_j > t_k for each class k [n, vocab], without gradient: 1 at the largest class.

    Summed from the smallest class upwards, which keeps the tail's digits.
    """
    t = t.detach()
    order = torch.from_numpy(np.argsort(t.numpy(), axis=-1)) if t.device.type == "cpu" else t.argsort(-1)
    ordered = t.gather(-1, order)
    # Equal classes have the same mass: the sum up to the last of them.
    last = torch.arange(t.shape[-1], device=t.device).expand_as(order)
    last = last.masked_fill(F.pad(ordered[:, 1:] == ordered[:, :-1], (0, 1)), t.shape[-1])
    mass = ordered.cumsum(-1).gather(-1, last.flip(-1).cummin(-1).values.flip(-1))
    return torch.empty_like(t).scatter_(-1, order, mass / mass[:, -1:])


def descending(t: Tensor) -> Tensor:
    """Each row [n, vocab] sorted, largest first, without gradient. numpy sorts on a CPU many times faster than torch."""
    if t.device.type == "cpu":
        return torch.from_numpy(np.sort(t.detach().neg().numpy(), axis=-1)).neg_()
    return t.detach().sort(-1, descending=True).values
