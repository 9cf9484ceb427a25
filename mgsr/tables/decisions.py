"""What is decided: one rule for the verdicts, marks and intervals of every table, claim and open check.

A question is one difference. Its p-value is two-sided; its interval at level 1 - alpha holds exactly those differences whose
own p-value is above alpha (Lehmann and Romano 2005, section 3.5), so an interval and a verdict cannot disagree. Questions that
are read together are one family: Holm's correction keeps the chance of any false alarm among them, and each interval is shown
at the level that the correction left to its question.

Parts are arrays [training seeds, prompts], one for each test set, as in `mgsr.tables.statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from mgsr.evaluation.intervals import RESAMPLES, Numbers
from mgsr.tables.seed_variance import SeedTest, seed_test
from mgsr.tables.statistics import check_parts, holm

ALPHA = 0.05
ABOVE, BELOW, UNDECIDED = "above", "below", "undecided"
PATTERN_BITS = 250_000  # signs held at one time; small enough for a processor's cache
ROUNDING = 1e-12  # sums over subsets of prompts that are equal but for rounding must tie
Key = TypeVar("Key", bound=Hashable)
Bounds = tuple[float, float]


class Question(Protocol):
    """A difference with its p-value and its intervals. `prompts`: of all test sets together."""

    @property
    def effect(self) -> float: ...
    @property
    def prompts(self) -> int: ...
    @property
    def p(self) -> float: ...
    def interval(self, alpha: float = ALPHA) -> Bounds: ...


@dataclass(frozen=True)
class SignFlips:
    """Sign-flip test of a difference over prompts. `lows`, `highs` [patterns], ascending: the differences that each pattern of
    signs does not contradict lie between two bounds, infinite for the pattern of the data themselves."""

    effect: float
    prompts: int
    lows: Numbers
    highs: Numbers

    @property
    def p(self) -> float:
        """Two-sided, of a true difference of 0; at least 1 / patterns."""
        return min(int(np.sum(self.lows <= 0)), int(np.sum(self.highs >= 0))) / len(self.lows)

    def interval(self, alpha: float = ALPHA) -> Bounds:
        """Every difference whose p-value is above alpha; infinite where there are too few prompts for this alpha."""
        beyond = math.floor(alpha * len(self.lows))
        return float(self.lows[beyond]), float(self.highs[-1 - beyond])


def sign_flips(parts: Sequence[Numbers], *, resamples: int = RESAMPLES, seed: int = 0) -> SignFlips:
    """If a system's true lead is d, each prompt's difference less d could as well have the other sign (exact where differences
    are symmetric about d). All 2^prompts patterns where they are at most `resamples`, else random ones and the observed one
    (Phipson and Smyth 2010).

    A pattern that flips the prompts F has a sum as far from 0 as the observed one where d lies between the mean over F and the
    mean over the other prompts (Hartigan 1969), so the test of every d costs no more than the test of 0.
    """
    check_parts(parts)
    weights = np.concatenate([np.full(part.shape[1], 1 / (len(parts) * part.shape[1])) for part in parts])
    values = weights * np.concatenate([part.mean(axis=0) for part in parts])
    rows, effect, scale = len(weights), float(values.sum()), ROUNDING * float(np.abs(values).sum())
    flipped, share = _pattern_sums(np.stack([values, weights], axis=1), resamples, seed).T
    kept = effect - flipped
    flipped[np.abs(flipped) <= scale] = 0.0
    kept[np.abs(kept) <= scale] = 0.0
    whole = (share < ROUNDING) | (share > 1 - ROUNDING)  # no prompt or every prompt flipped: the data themselves
    share[whole] = 0.5
    means = np.stack([flipped / share, kept / (1 - share)])
    lows, highs = np.where(whole, -np.inf, means.min(axis=0)), np.where(whole, np.inf, means.max(axis=0))
    if 2**rows > resamples:
        lows, highs = np.append(lows, -np.inf), np.append(highs, np.inf)
    return SignFlips(effect, rows, np.sort(lows), np.sort(highs))


def _pattern_sums(columns: Numbers, resamples: int, seed: int) -> Numbers:
    """[prompts, columns] -> [patterns, columns]: sums over the prompts that each pattern flips."""
    rows = len(columns)
    if 2**rows <= resamples:
        return np.asarray(((np.arange(2**rows)[:, None] >> np.arange(rows)) & 1) @ columns)
    generator, size = np.random.default_rng([seed, 2]), max(1, PATTERN_BITS // rows)

    def drawn(count: int) -> Numbers:
        bits = np.unpackbits(np.frombuffer(generator.bytes(count * -(-rows // 8)), np.uint8).reshape(count, -1), axis=1)
        return np.asarray(bits[:, :rows].astype(np.float64) @ columns)

    return np.concatenate([drawn(min(size, resamples - start)) for start in range(0, resamples, size)])


@dataclass(frozen=True)
class Comparison:
    """One system minus another. `flips` speaks of other prompts and the trained models as they are, `seeds` of other prompts
    and other training seeds (None with one, which cannot tell). A difference is decided where both decide it. `parts`: the
    differences that it was made from."""

    flips: SignFlips
    seeds: SeedTest | None
    parts: tuple[Numbers, ...]

    @property
    def effect(self) -> float:
        return self.flips.effect

    @property
    def prompts(self) -> int:
        return self.flips.prompts

    @property
    def p(self) -> float:
        return max(self.flips.p, self.seeds.p) if self.seeds else self.flips.p

    def interval(self, alpha: float = ALPHA) -> Bounds:
        bounds = [test.interval(alpha) for test in (self.flips, self.seeds) if test]
        return min(low for low, _ in bounds), max(high for _, high in bounds)


def compare(parts: Sequence[Numbers], *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    flips = sign_flips(parts, resamples=resamples, seed=seed)
    return Comparison(flips, seed_test(parts) if len(parts[0]) > 1 else None, tuple(parts))


@dataclass(frozen=True)
class AgainstBest:
    """One system minus the best of several others, whichever of them that truly is.

    It is above the best where it is above each of them, so the largest p-value counts and none needs a correction
    (intersection-union test, Berger 1982). It is below the best where it is below one of them, and the data choose which, so
    the smallest p-value counts, times their number. Choosing the best by the scores shown does no harm in either direction.
    The effect is the difference to the highest score shown, which luck favours.
    """

    comparisons: tuple[Comparison, ...]

    @property
    def parts(self) -> list[tuple[Numbers, ...]]:
        return [one.parts for one in self.comparisons]

    @property
    def effect(self) -> float:
        return min(one.effect for one in self.comparisons)

    @property
    def prompts(self) -> int:
        return self.comparisons[0].prompts

    @property
    def p(self) -> float:
        if self.effect > 0:
            return max(one.p for one in self.comparisons)
        return min(1.0, len(self.comparisons) * min(one.p for one in self.comparisons if one.effect <= 0))

    def interval(self, alpha: float = ALPHA) -> Bounds:
        lows = [one.interval(alpha)[0] for one in self.comparisons]
        highs = [one.interval(alpha / len(self.comparisons))[1] for one in self.comparisons]
        return min(lows), min(highs)


@dataclass(frozen=True)
class Decision:
    """The answer to one question of a family. `p` is Holm's, over the family. The interval has level 1 - `alpha`: alpha is what
    the correction leaves to this question, so it excludes 0 exactly where p is at most the family's alpha."""

    effect: float
    low: float
    high: float
    p: float
    alpha: float
    prompts: int

    @property
    def outcome(self) -> str:
        return outcome(self.low, self.high)


def outcome(low: float, high: float) -> str:
    """What an interval says of its difference."""
    return ABOVE if low > 0 else BELOW if high < 0 else UNDECIDED


def decide(family: Mapping[Key, Question], *, alpha: float = ALPHA) -> dict[Key, Decision]:
    """Every question that is read together with the others, each with its decision; the chance of a false alarm among all of
    them is at most alpha (Holm 1979), whatever depends on what.

    With m questions, Holm holds the smallest p-value against alpha / m, the next against alpha / (m - 1), and stops at the
    first that is above; all that are left share the alpha of that step, which makes their intervals valid together
    (Strassburger and Bretz 2008).
    """
    p_values = {key: question.p for key, question in family.items()}
    adjusted = dict(zip(family, holm(list(p_values.values())), strict=True))
    place = {key: index for index, key in enumerate(sorted(family, key=p_values.__getitem__))}
    rejected = sum(p <= alpha for p in adjusted.values())
    decisions = {}
    for key, question in family.items():
        level = alpha / (len(family) - min(place[key], rejected))
        low, high = question.interval(level)
        decisions[key] = Decision(question.effect, low, high, adjusted[key], level, question.prompts)
    return decisions


def pseudo_values(statistic: Callable[[Numbers], Numbers], prompts: int) -> Numbers:
    """[..., prompts] numbers whose mean is a statistic's value, as `compare` wants them, for a statistic that is no mean over
    prompts (a ratio of sums, as ExAccErr). Its bias of order 1 / prompts is taken off (jackknife; Tukey 1958), but for a
    single prompt, which has its own value.

    `statistic`: weights [draws, prompts], how often each prompt counts -> values [draws, ...].
    """
    whole = statistic(np.ones((1, prompts)))
    if prompts == 1:
        return np.moveaxis(whole, 0, -1)
    without = statistic(1 - np.eye(prompts))
    return np.moveaxis(prompts * whole - (prompts - 1) * without, 0, -1)
