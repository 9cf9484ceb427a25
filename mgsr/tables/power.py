"""What a design can decide: the smallest difference, and the prompts that a difference would take.

Both come from simulated repetitions of the comparisons at hand: new prompts and new training seeds are drawn from normal
distributions with the covariances that the data show, comparisons of one system with several others together, since they share
that system's noise. Each repetition is decided by the rule of `mgsr.tables.decisions`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mgsr.errors import MgsrError
from mgsr.evaluation.intervals import RESAMPLES, Numbers
from mgsr.tables.decisions import ALPHA, AgainstBest, Bounds, Decision, Key, decide
from mgsr.tables.seed_variance import SquaredErrors, satterthwaite
from mgsr.tables.statistics import check_parts, effect

POWER = 0.8
REPETITIONS = 4_000
MOST_PROMPTS = 1_000_000


@dataclass(frozen=True)
class Design:
    """k comparisons of one system on the same prompts and training seeds. Covariances are of the k effects, [k, k]: `seed` of a
    single training seed's, `prompt` and `residual` (seed and prompt together, of a single seed) at `prompts` prompts."""

    effects: Numbers
    prompts: int
    seeds: int
    degrees: float  # of the prompts' variance
    seed: Numbers
    prompt: Numbers
    residual: Numbers

    def margins(self, alpha: float, *, seeds: int | None = None, more: float = 1.0) -> tuple[Numbers, Numbers]:
        """Errors of the effects, and the half-widths that they must exceed to be decided, [repetitions, k] each. `seeds`: so
        many training seeds instead; `more`: times as many prompts."""
        count, generator = seeds or self.seeds, np.random.default_rng(0)
        if self.seeds == 1 < count:
            raise MgsrError("one training seed says nothing of what others would give; train two or more to plan with several")
        normal = generator.standard_normal((REPETITIONS, count + 1, len(self.effects)))
        degrees = max(1.0, (self.degrees + 1) * more - 1)
        spread = generator.chisquare(degrees, normal.shape[::2]) / degrees
        shared = normal[:, 0] @ _root(self.prompt / more)
        by_seed = normal[:, 1:] @ _root(self.seed + self.residual / more)
        errors = shared + by_seed.mean(axis=1)
        squares = np.diag(self.prompt + self.residual / count) / more * spread
        if count == 1:
            return errors, stats.t.isf(alpha / 2, degrees) * np.sqrt(squares)
        of_seeds = by_seed.var(axis=1, ddof=1) / count
        residual = np.broadcast_to(np.diag(self.residual) / count / more, squares.shape)
        return errors, SquaredErrors(of_seeds, squares, residual, np.full(squares.shape, degrees), count).half_width(alpha)

    def chance(self, effects: Numbers, alpha: float, *, seeds: int | None = None, more: float = 1.0) -> float:
        """That these true effects are decided: above all of the others, or below one of them."""
        errors, half = self.margins(alpha, seeds=seeds, more=more)
        _, wider = self.margins(alpha / len(effects), seeds=seeds, more=more)
        seen = effects + errors
        return float(np.mean((seen > half).all(axis=1) | (seen < -wider).any(axis=1)))


def design(comparisons: Sequence[Sequence[Numbers]]) -> Design | None:
    """From the parts of each comparison, as `mgsr.tables.decisions.compare` takes them. None where a set has one prompt, as
    nothing says how much its differences vary. Raises MgsrError where comparisons are not of the same prompts and seeds."""
    for parts in comparisons:
        check_parts(parts)
    shapes = [[part.shape for part in parts] for parts in comparisons]
    if not shapes or any(one != shapes[0] for one in shapes):
        raise MgsrError(f"power needs comparisons on the same prompts and the same training seeds, got {shapes}")
    if any(rows < 2 for _, rows in shapes[0]):
        return None
    stacked = [np.stack(parts) for parts in zip(*comparisons, strict=True)]  # by set: [k, seeds, prompts]
    sets, seeds = len(stacked), stacked[0].shape[1]
    prompt = residual = seed = np.zeros((len(comparisons),) * 2)
    for part in stacked:
        scale = 1 / (sets**2 * part.shape[2])
        means = part.mean(axis=1)
        prompt = prompt + np.atleast_2d(np.cov(means)) * scale
        if seeds > 1:
            noise = part - means[:, None] - part.mean(axis=2, keepdims=True) + part.mean(axis=(1, 2), keepdims=True)
            flat = noise.reshape(len(part), -1)
            residual = residual + flat @ flat.T / ((seeds - 1) * (part.shape[2] - 1)) * scale
    if seeds > 1:
        seed = np.atleast_2d(np.cov(np.mean([part.mean(axis=2) for part in stacked], axis=0))) - residual
    degrees = satterthwaite(
        [part.mean(axis=(0, 1)).var(ddof=1) / part.shape[2] for part in stacked], [part.shape[2] - 1 for part in stacked]
    )
    rows = sum(part.shape[2] for part in stacked)
    effects = np.array([effect(parts) for parts in comparisons])
    return Design(effects, rows, seeds, degrees, seed, prompt - residual / seeds, residual)


def _root(covariance: Numbers) -> Numbers:
    """Symmetric root of a covariance; directions whose estimate came out below 0 have none."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T)


def detectable(planned: Design | None, alpha: float = ALPHA, *, seeds: int | None = None, more: float = 1.0) -> float | None:
    """The smallest true difference to all k others at once that would be decided with a chance of 0.8 at this alpha, which is
    the family's alpha over the number of its questions (Holm's strictest).

    None where no difference would be: the prompts are too few for a p-value so small. None, too, without a design and where
    all answers are equal: then nothing says how much differences vary. Good to 0.03 of that chance from 30 prompts a set on.
    """
    if planned is None or max(2.0 ** (1 - planned.prompts * more), 1 / (RESAMPLES + 1)) > alpha:
        return None
    errors, half = planned.margins(alpha, seeds=seeds, more=more)
    return float(np.quantile((half - errors).max(axis=1), POWER)) or None


@dataclass(frozen=True)
class PromptsNeeded:
    """Prompts, in all sets together, that decide with a chance of 0.8: if the true differences are those seen, and from the
    largest to the smallest that their interval allows. None: no number does, the interval holds 0 or training seeds alone vary
    too much."""

    as_seen: int | None
    at_least: int
    at_most: int | None


def prompts_to_decide(planned: Design | None, interval: Bounds, alpha: float = ALPHA) -> PromptsNeeded | None:
    """`interval`: of the smallest of the effects (see `decisions.AgainstBest`). A claim of being above all of the others, or
    the opposite, of being below one of them, counts as decided. None where not even the largest difference that the interval
    allows would be decided by any number of prompts."""
    if planned is None:
        return None
    smallest = float(planned.effects.min())

    def needed(difference: float) -> int | None:
        return _prompts(planned, planned.effects + (difference - smallest), alpha) if difference else None

    ends = [needed(bound) for bound in interval if math.isfinite(bound)]
    known = [one for one in ends if one is not None]
    if not known:
        return None
    undecided = interval[0] <= 0 <= interval[1]
    return PromptsNeeded(needed(smallest), min(known), None if undecided or len(known) < len(ends) else max(known))


def _prompts(planned: Design, effects: Numbers, alpha: float) -> int | None:
    """By bisection on the logarithm of how many times as many prompts."""
    low, high = math.log(4 / planned.prompts), math.log(MOST_PROMPTS / planned.prompts)
    if planned.chance(effects, alpha, more=math.exp(high)) < POWER:
        return None
    while high - low > 0.005:
        middle = (low + high) / 2
        low, high = (low, middle) if planned.chance(effects, alpha, more=math.exp(middle)) >= POWER else (middle, high)
    return math.ceil(planned.prompts * math.exp(high))


# --- with a family's decisions ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict(Decision):
    """A decision, and the smallest difference that its question could have decided (see `detectable`)."""

    detectable: float | None


def verdicts(family: Mapping[Key, AgainstBest]) -> dict[Key, Verdict]:
    """`decide`, with what each question could have decided at Holm's strictest level."""
    return {
        key: Verdict(**vars(decision), detectable=detectable(design(family[key].parts), ALPHA / len(family)))
        for key, decision in decide(family).items()
    }
