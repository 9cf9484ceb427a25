"""DAC-KL, distribution-adaptive clipping (token level, Eq. 5-8): a KL over the classes that a learned band keeps.

Where the paper is open, `DacKlConfig` chooses. What its readings do:
- As printed (Eq. 7) the mask is so steep that the thresholds hardly get a gradient, and where they do, the loss falls as the
  band shrinks: merging classes never raises a KL. The log-space mask gives gradients; `mass_floor` asks for the smallest
  band that holds a share of the teacher's mass.
- With content `mask` both vectors hold the same mask values, which cancel: the target's term s_c log(s_c / t_c) is left, which
  can be negative, and f gets no gradient.
- With normalisation `residual`, content `mask_times_prob` and target `once` it is a coarse-grained KL: between 0 and
  the full KL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgsr.config.schema import DacKlConfig
from mgsr.objectives.divergences import relative_entropy


@dataclass(frozen=True)
class Band:
    """What the clipping did, per position [n] and without gradient."""

    log_width: Tensor  # log u - log l
    kept_mass: Tensor  # teacher mass under the mask, target included
    kept_classes: Tensor  # classes with mask above 0.5, target included
    collapsed: Tensor  # 1 where the target alone is kept
    penalty: Tensor  # what `mass_floor` adds to the loss; 0 otherwise


class DacKl(nn.Module):
    """The loss and its clipping network f, which is no part of the student."""

    def __init__(self, config: DacKlConfig, vocabulary: int, seed: int) -> None:
        super().__init__()
        self.config = config
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
        self.f = nn.Sequential(hidden, nn.GELU(), thresholds)

    def thresholds(self, s_logp: Tensor, t_logp: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 5-6: log u and log l [n, 1], l <= u. The student is an input only: else it would learn to steer f."""
        t, s = t_logp.exp(), s_logp.detach().exp()
        log_u, log_l = F.logsigmoid(self.f(torch.cat([t, descending(t), s], -1))).chunk(2, -1)
        return log_u, torch.minimum(log_l, log_u)

    def log_mask(self, t_logp: Tensor, log_u: Tensor, log_l: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 7: log m and log(1 - m) [n, vocab], m = sigmoid(above) sigmoid(below)."""
        if self.config.mask_space == "log":
            above, below = t_logp - log_l, log_u - t_logp
        else:
            above, below = t_logp.exp() - log_l.exp(), log_u.exp() - t_logp.exp()
        above, below = above / self.config.softness, below / self.config.softness
        inside = F.logsigmoid(above)
        return inside + F.logsigmoid(below), torch.logaddexp(F.logsigmoid(-above), inside + F.logsigmoid(-below))

    def clip(self, logp: Tensor, log_m: Tensor, log_rest: Tensor, target: Tensor) -> Tensor:
        """A model's new vector, in logs: the band [vocab], the target (in its place or once more), the rest where asked for."""
        band = log_m if self.config.content == "mask" else log_m + logp
        top = logp.gather(-1, target)
        slots = [band.scatter(-1, target, top)] if self.config.target == "once" else [band, top]
        if self.config.normalisation == "residual":
            slots.append(torch.logsumexp(log_rest.scatter(-1, target, -math.inf) + logp, -1, keepdim=True))
        return torch.cat(slots, -1)

    def forward(self, s_logp: Tensor, t_logp: Tensor) -> tuple[Tensor, Band]:
        """Log-probabilities [n, vocab], the teacher's without gradient -> loss [n] (penalty included) and the band."""
        log_u, log_l = self.thresholds(s_logp, t_logp)
        log_m, log_rest = self.log_mask(t_logp, log_u, log_l)
        target = t_logp.argmax(-1, keepdim=True)
        student, teacher = (self.clip(logp, log_m, log_rest, target) for logp in (s_logp, t_logp))
        loss = relative_entropy(student, teacher)  # Eq. 8: student || teacher
        if self.config.normalisation == "residual" and (self.config.content, self.config.target) == ("mask_times_prob", "once"):
            loss = loss.clamp(min=0)  # distributions: below 0 by rounding only
        kept = log_m.scatter(-1, target, 0.0)
        kept_mass = (kept + t_logp).exp().sum(-1)
        penalty = torch.zeros_like(kept_mass)
        if self.config.trained_by == "mass_floor":
            # It depends on f alone, so f alone is trained by it.
            penalty = self.config.mass_floor_weight * (self.config.mass_floor - kept_mass).clamp(min=0).square()
        classes = (kept > math.log(0.5)).sum(-1).to(loss.dtype)
        band = Band((log_u - log_l).squeeze(-1), kept_mass, classes, (classes <= 1).to(loss.dtype), penalty)
        return loss + penalty, Band(**{name: value.detach() for name, value in vars(band).items()})


def descending(t: Tensor) -> Tensor:
    """Each row [n, vocab] sorted, largest first, without gradient. numpy sorts on a CPU many times faster than torch."""
    if t.device.type == "cpu":
        return torch.from_numpy(np.sort(t.detach().numpy(), axis=-1)).flip(-1)
    return t.detach().sort(-1, descending=True).values
