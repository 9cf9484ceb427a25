"""Numbers in; means, deviations, intervals and p-values out. Training seeds and decoding seeds are separate axes throughout.

Differences between two systems are arrays [training seeds, prompts], one for each test set; their effect is the mean over sets
of the mean over a set's prompts and over training seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from mgsr.errors import MgsrError
from mgsr.evaluation.intervals import (
    LEVEL,
    RESAMPLES,
    Numbers,
    in_chunks,
    percentile_bounds,
    prompt_bootstrap,
    two_sided_tail,
)

POWER = 0.8  # chance to show an effect that is there


@dataclass(frozen=True)
class Spread:
    """A mean with its two deviations; None where an axis has one seed only, so that nothing can be said about it."""

    mean: float
    training: float | None
    decoding: float | None


def mean_and_deviations(scores: ArrayLike) -> Spread:
    """The mean of `scores` [training seeds, decoding seeds], and two sample standard deviations (n - 1).

    `training` is the deviation of the means of each training seed; `decoding` is the deviation over decoding seeds, averaged
    over training seeds, and says nothing about training (pitfall 25).
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise MgsrError(f"scores must be finite numbers [training seeds, decoding seeds], got shape {table.shape}")
    training_seeds, decoding_seeds = table.shape
    return Spread(
        mean=float(table.mean()),
        training=float(table.mean(axis=1).std(ddof=1)) if training_seeds > 1 else None,
        decoding=float(table.std(axis=1, ddof=1).mean()) if decoding_seeds > 1 else None,
    )


@dataclass(frozen=True)
class Interval:
    """A mean difference over `rows` prompts, with the bounds of its interval."""

    difference: float
    low: float
    high: float
    rows: int

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """One system minus another.

    The interval `prompts` is over other prompts and speaks of the trained models as they are; `training` is over other prompts
    and other training seeds and speaks of the methods (None with one training seed, which cannot tell). `p` is the two-sided
    p-value of no difference. `rows_to_decide` counts the prompts that would show an effect of this size; None where the effect
    is 0.
    """

    prompts: Interval
    training: Interval | None
    p: float
    rows_to_decide: int | None

    @property
    def interval(self) -> Interval:
        """The interval that speaks of the methods where there are several training seeds, else of the trained models."""
        return self.training or self.prompts


def paired_differences(
    first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]], *, factor: float = 1.0
) -> Numbers:
    """[training seeds, prompts] from each seed's scores by prompt id, first - factor * second; ids in sorted order.

    A system with one training seed (a checkpoint) is set against every seed of the other. Ids must be the same: a row that one
    system lacks is an error, never cut off (pitfall 22).
    """
    if len(first) != len(second) and min(len(first), len(second)) != 1:
        raise MgsrError(f"{len(first)} training seeds cannot be paired with {len(second)}; train both with the same seeds")
    names = sorted(first[0])
    for scores in (*first, *second):
        if scores.keys() != first[0].keys():
            odd = sorted(scores.keys() ^ first[0].keys())
            raise MgsrError(f"{len(odd)} ids stand in one system's rows only, first {odd[0]}; evaluate both on the same rows")
    if not names:
        raise MgsrError("two systems without rows cannot be compared")
    table = [np.array([[scores[name] for name in names] for scores in system], dtype=np.float64) for system in (first, second)]
    return table[0] - factor * table[1]


def effect(parts: Sequence[Numbers]) -> float:
    """Mean over test sets of the mean difference."""
    return float(np.mean([part.mean() for part in parts]))


def compare(parts: Sequence[Numbers], *, resamples: int = RESAMPLES) -> Comparison:
    """Differences [training seeds, prompts] of each test set -> intervals and a p-value.

    The p-value is a sign-flip test over prompts, not a bootstrap's: where neither system is better, its false alarms are at
    the nominal rate at any number of prompts (exactly so for symmetric differences), while a percentile bootstrap's are above
    it for few (10 % at 12 prompts). With several training seeds it is the larger of that and of the tail of the draws over
    prompts and seeds, so that a lucky seed is not taken for a better method.
    """
    check_parts(parts)
    prompts, p = prompt_bootstrap(parts, resamples), sign_flip_p(parts, resamples=resamples)
    training = None
    if len(parts[0]) > 1:
        draws = prompts + seed_deviations(parts, resamples)
        training = _interval(parts, draws)
        p = max(p, two_sided_tail(draws))
    return Comparison(_interval(parts, prompts), training, p, rows_to_decide(spread_of(parts), effect(parts)))


def paired_bootstrap(first: Mapping[str, float], second: Mapping[str, float], *, resamples: int = RESAMPLES) -> Interval:
    """Percentile interval of mean(first - second), prompts drawn with replacement (Efron 1979; Koehn 2004).

    Both map a prompt's id to a score (already averaged over seeds), under the conditions of `paired_differences`.
    """
    parts = [paired_differences([first], [second])]
    return _interval(parts, prompt_bootstrap(parts, resamples))


def seed_deviations(parts: Sequence[Numbers], resamples: int) -> Numbers:
    """[resamples] deviations of the effect because of training seeds: Student's t with seeds - 1 degrees of freedom times the
    standard error over seeds.

    Seeds are not resampled as prompts are: three seeds have ten different resamples, and an interval from those is too narrow
    (17 % false alarms with two seeds and 12 % with three, where 5 % were asked for).
    """
    effects = np.mean([part.mean(axis=1) for part in parts], axis=0)
    seeds = len(effects)
    generator = np.random.default_rng([0, 1])
    return np.asarray(generator.standard_t(seeds - 1, resamples) * effects.std(ddof=1) / math.sqrt(seeds))


def sign_flip_p(parts: Sequence[Numbers], *, resamples: int = RESAMPLES) -> float:
    """Two-sided p-value of no difference between two systems, in which case each prompt's difference could as well have the
    other sign.

    It is over all 2^prompts sign patterns where they are at most `resamples`, else over random ones and the observed one
    (Phipson and Smyth 2010).
    """
    rows = sum(part.shape[1] for part in parts)
    weighted = np.concatenate([part.mean(axis=0) / (len(parts) * part.shape[1]) for part in parts])
    observed = abs(weighted.sum()) * (1 - 1e-9) - 1e-12  # equal sums must not differ by rounding
    if 2**rows <= resamples:
        bits = (np.arange(2**rows)[:, None] >> np.arange(rows)) & 1
        return float(np.mean(np.abs(weighted.sum() - 2 * bits @ weighted) >= observed))
    generator = np.random.default_rng([0, 2])

    def flipped(count: int) -> Numbers:
        bits = np.unpackbits(np.frombuffer(generator.bytes(count * -(-rows // 8)), np.uint8).reshape(count, -1), axis=1)
        return np.asarray(weighted.sum() - 2 * bits[:, :rows].astype(np.float64) @ weighted)

    beyond = int(np.sum(np.abs(in_chunks(flipped, rows, resamples)) >= observed))
    return (beyond + 1) / (resamples + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given; those at most alpha hold together at that level (Holm 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def spread_of(parts: Sequence[Numbers]) -> Numbers:
    """[prompts] numbers whose mean is the effect and whose standard error is the effect's, whatever the sets' sizes."""
    rows = sum(part.shape[1] for part in parts)
    means = [part.mean(axis=0) for part in parts]
    scaled = [(mean - mean.mean()) * rows / (len(parts) * len(mean)) for mean in means]
    return np.concatenate(scaled) + effect(parts)


def rows_to_decide(differences: ArrayLike, effect: float) -> int | None:
    """How many prompts would show `effect` with `POWER`: ((z_level + z_power) deviation / effect)^2, by the normal
    approximation, with the deviation of the paired `differences` [prompts]. None where no number of prompts would, or where
    fewer than two are known."""
    values = np.asarray(differences, dtype=np.float64)
    if effect == 0 or values.size < 2:
        return None
    normal = NormalDist()
    z = normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)
    return max(2, math.ceil((z * float(values.std(ddof=1)) / effect) ** 2))


def check_parts(parts: Sequence[Numbers]) -> None:
    if not parts or any(part.ndim != 2 or not part.size or len(part) != len(parts[0]) for part in parts):
        shapes = ", ".join(str(part.shape) for part in parts) or "none"
        raise MgsrError(f"differences must be [training seeds, prompts] with the same seeds for each set, got {shapes}")
    if not all(np.isfinite(part).all() for part in parts):
        raise MgsrError("differences must be finite numbers; a score is not")


def _interval(parts: Sequence[Numbers], draws: Numbers) -> Interval:
    low, high = percentile_bounds(draws)
    return Interval(effect(parts), float(low), float(high), sum(part.shape[1] for part in parts))
