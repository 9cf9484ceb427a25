"""Variance by training seed, prompt and decoding seed: how sure a difference of methods is, and what more of each would give.

Random effects, crossed: every training seed answers every prompt. Variance components are unbiased (method of moments), so one
that is near 0 may come out below it. Several test sets weigh the same in an effect, whatever their sizes; "prompts" are then
those of all sets together, in the sets' proportions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from mgsr.errors import MgsrError
from mgsr.evaluation.intervals import Numbers
from mgsr.tables.statistics import check_parts, effect

TRAINING, PROMPTS, DECODING = AXES = ("training seed", "prompt", "decoding seed")
Term = tuple[str, ...]  # axes that vary together, in the order of AXES


def variance_components(table: Numbers, axes: Sequence[str]) -> dict[Term, float]:
    """Variance of each axis and of each interaction in a full table with one number a cell; that of all axes is the residual.

    An axis of length 1 has none: what varies along it is part of the others. Expected mean squares of a crossed design with
    random effects (Searle, Casella and McCulloch 1992, chapter 4): a term's mean square holds each component that it is part
    of, times the cells that share it.
    """
    kept = [axis for axis, size in zip(axes, table.shape, strict=True) if size > 1]
    cells = table.reshape([size for size in table.shape if size > 1])
    terms = [term for count in range(1, len(kept) + 1) for term in combinations(range(len(kept)), count)]
    squares = {term: _mean_square(cells, term) for term in terms}
    return {
        tuple(kept[i] for i in term): sum((-1) ** (len(o) - len(term)) * squares[o] for o in terms if set(term) <= set(o))
        / math.prod(size for i, size in enumerate(cells.shape) if i not in term)
        for term in terms
    }


def _mean_square(cells: Numbers, term: Sequence[int]) -> float:
    deviations: Any = 0.0
    for count in range(len(term) + 1):
        for inner in combinations(term, count):
            others = tuple(i for i in range(cells.ndim) if i not in inner)
            deviations = deviations + (-1) ** (len(term) - count) * cells.mean(axis=others, keepdims=True)
    sizes = [cells.shape[i] for i in term]
    return float(cells.size / math.prod(sizes) * (deviations**2).sum() / math.prod(size - 1 for size in sizes))


@dataclass(frozen=True)
class Components:
    """Variance of a score, or of a difference of two, by term. `sizes`: how many of each axis it was measured on."""

    mean: float
    variances: Mapping[Term, float]
    sizes: Mapping[str, int]

    def standard_error(self, sizes: Mapping[str, int] | None = None) -> float:
        """Of a mean over so many of each axis, drawn anew (default: as many as measured). A variance below 0 counts as 0."""
        counts = {**self.sizes, **(sizes or {})}
        shares = [max(variance, 0.0) / math.prod(counts[axis] for axis in term) for term, variance in self.variances.items()]
        return math.sqrt(sum(shares))

    def needed(self, axis: str, standard_error: float) -> int | None:
        """How many of one axis reach a standard error, the others staying as they are; None where no number does."""
        whole = self.standard_error({axis: 1}) ** 2
        part = sum(
            max(variance, 0.0) / math.prod(self.sizes[other] for other in term if other != axis)
            for term, variance in self.variances.items()
            if axis in term
        )
        room = standard_error**2 - (whole - part)
        return None if room <= 0 else max(1, math.ceil(part / room * (1 - 1e-9)))


def score_components(parts: Sequence[Numbers]) -> Components:
    """Scores or differences [training seeds, prompts, decoding seeds] of each test set -> the components of their average.

    A component with prompts is the sets' own, weighted so that dividing by all prompts gives its share in the average. One
    without is that of the average over sets, since a seed may move sets together.
    """
    if not parts or any(part.ndim != 3 or part.shape[::2] != parts[0].shape[::2] or part.shape[1] < 2 for part in parts):
        shapes = ", ".join(str(part.shape) for part in parts) or "none"
        raise MgsrError(f"scores must be [training seeds, prompts, decoding seeds], two prompts or more, got {shapes}")
    rows = sum(part.shape[1] for part in parts)
    variances: dict[Term, float] = {}
    for part in parts:
        for term, variance in variance_components(part, AXES).items():
            if PROMPTS in term:
                variances[term] = variances.get(term, 0.0) + variance * rows / (len(parts) ** 2 * part.shape[1])
    means = np.mean([part.mean(axis=1) for part in parts], axis=0)
    for term, variance in variance_components(means, (TRAINING, DECODING)).items():
        with_prompts = tuple(axis for axis in AXES if axis in (*term, PROMPTS))
        variances[term] = variance - variances[with_prompts] / rows
    ordered = dict(sorted(variances.items(), key=lambda one: (len(one[0]), [AXES.index(axis) for axis in one[0]])))
    sizes = {TRAINING: parts[0].shape[0], PROMPTS: rows, DECODING: parts[0].shape[2]}
    return Components(float(means.mean()), ordered, sizes)


# --- test of a difference ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SquaredErrors:
    """Three squared standard errors of an effect, each from its own mean square.

    `seed`: from the effects by training seed, with `seeds` - 1 degrees of freedom; `prompt`: from the prompts' means, with
    `degrees`. Both hold the noise of seed and prompt together, so `residual`, that noise alone, is once too much in their sum.
    """

    seed: Numbers
    prompt: Numbers
    residual: Numbers
    degrees: Numbers
    seeds: int

    def half_width(self, alpha: float | Numbers) -> Numbers:
        """Half the width of the interval of level 1 - alpha, which is also what a decided effect exceeds."""
        prompt_quantile, own = stats.t.isf(alpha / 2, self.degrees), np.maximum(self.prompt - self.residual, 0)
        if self.seeds == 2:
            squares = stats.t.isf(alpha / 2, 1) ** 2 * self.seed + prompt_quantile**2 * own
            return np.asarray(np.sqrt(np.maximum(squares, prompt_quantile**2 * self.prompt)))
        return np.asarray(stats.t.isf(alpha / 2, self.effective_degrees) * np.sqrt(self.total))

    @property
    def total(self) -> Numbers:
        """Unbiased but for its floor: seeds cannot make an effect surer than prompts alone."""
        return np.asarray(np.maximum(self.seed + self.prompt - self.residual, self.prompt))

    @property
    def effective_degrees(self) -> Numbers:
        own = np.maximum(self.prompt - self.residual, 0)
        share = np.divide(self.seed, self.seed + own, out=np.zeros_like(self.seed), where=self.seed + own > 0)
        return np.asarray(1 / (share / (self.seeds - 1) + (1 - share) / self.degrees))

    def p(self, effects: Numbers) -> Numbers:
        """Two-sided, of no effect: the smallest alpha whose half-width the effect exceeds, down to e^-100."""
        if self.seeds > 2:
            error = np.sqrt(self.total)
            ratio = np.divide(np.abs(effects), error, out=np.where(effects == 0, 0.0, np.inf), where=error > 0)
            return np.asarray(2 * stats.t.sf(ratio, self.effective_degrees))
        low, high = np.full(np.shape(effects), -100.0), np.zeros(np.shape(effects))
        for _ in range(60):
            middle = (low + high) / 2
            beyond = np.abs(effects) > self.half_width(np.exp(middle))
            low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
        return np.asarray(np.exp(high))


@dataclass(frozen=True)
class SeedTest:
    """Test of no difference between two methods, over other prompts and other training seeds.

    From three seeds on: Student's t. The squared standard error is the quasi-F of crossed random effects (Clark 1973;
    Raaijmakers et al. 1999), which counts the noise of seed and prompt once. Its degrees of freedom d are the mean, 1 / d, over
    seeds and prompts, weighted by their shares of the variance. Satterthwaite (1946) weights by the squares of the shares. With
    so few seeds the shares are themselves too unsure for that: his rule gave up to 1.6 times the false alarms asked for at 5 %
    and 8 times those at the levels that Holm's correction leaves (three seeds); this one 1.15 times at 5 %.

    Two seeds: each part has its own quantile and the squared half-widths add up (Howe 1974), which is conservative.
    """

    effect: float
    errors: SquaredErrors

    @property
    def standard_error(self) -> float:
        return float(np.sqrt(self.errors.total))

    @property
    def degrees(self) -> float:
        return float(self.errors.effective_degrees)

    @property
    def p(self) -> float:
        """Two-sided, of a true difference of 0."""
        return float(self.errors.p(np.asarray(self.effect)))

    def interval(self, alpha: float) -> tuple[float, float]:
        half = float(self.errors.half_width(alpha))
        return self.effect - half, self.effect + half


def seed_test(parts: Sequence[Numbers]) -> SeedTest:
    """Differences [training seeds, prompts] of each test set, two seeds or more and two prompts or more."""
    check_parts(parts)
    seeds = len(parts[0])
    if seeds < 2 or any(part.shape[1] < 2 for part in parts):
        raise MgsrError(
            f"{seeds} training seeds, or a test set of one prompt, have no variance; train more seeds or add prompts"
        )
    scale = [1 / (len(parts) ** 2 * part.shape[1]) for part in parts]
    by_seed = np.mean([part.mean(axis=1) for part in parts], axis=0)
    prompt = [part.mean(axis=0).var(ddof=1) * one for part, one in zip(parts, scale, strict=True)]
    residual = [_mean_square(part, (0, 1)) * one / seeds for part, one in zip(parts, scale, strict=True)]
    errors = SquaredErrors(
        seed=np.asarray(by_seed.var(ddof=1) / seeds),
        prompt=np.asarray(sum(prompt)),
        residual=np.asarray(sum(residual)),
        degrees=np.asarray(satterthwaite(prompt, [part.shape[1] - 1 for part in parts])),
        seeds=seeds,
    )
    return SeedTest(effect(parts), errors)


def satterthwaite(squares: Sequence[float], degrees: Sequence[int]) -> float:
    """Degrees of freedom of a sum of independent squared standard errors, each with its own (Satterthwaite 1946)."""
    whole = sum(square**2 / one for square, one in zip(squares, degrees, strict=True))
    return sum(squares) ** 2 / whole if whole else float(sum(degrees))
