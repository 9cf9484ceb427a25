"""Planted effects: is what `mgsr.tables.power` calls detectable found four times in five, and do its prompts decide?

    python -m tests.simulations.planted_effects

`known`: variances and correlations from sixty times as many prompts, or many seeds; `estimated`: each repetition's own data say
what is detectable, new data are then drawn with that effect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from mgsr.tables.decisions import AgainstBest, compare
from mgsr.tables.power import Design, design, detectable, prompts_to_decide
from mgsr.tables.statistics import effect
from tests.simulations.rouge_like import SMALL_SETS, Floats, synthetic

SETS, HOLM = list(SMALL_SETS.values()), 0.05 / 18
SEED_DEVIATION = 0.7  # points, of one system's scores by training seed
PILOT = 60


def comparisons(
    generator: np.random.Generator, others: int, lead: float, sets: Sequence[int], seeds: int
) -> list[list[Floats]]:
    """One system minus each of the others, better than them by `lead` on each set."""
    shifts = generator.normal(0, SEED_DEVIATION if seeds > 1 else 0, (others + 1, seeds, 1))
    parts: list[list[Floats]] = [[] for _ in range(others)]
    for rows in sets:
        scores = synthetic(generator, 1, (others + 1) * (seeds + 1), rows).reshape(others + 1, seeds + 1, rows)
        scores = (scores[:, 1:] + scores[:, :1]) / 2 if seeds > 1 else scores[:, :1]
        scores = scores + shifts
        for other in range(others):
            parts[other].append(scores[0] - scores[other + 1] + lead)
    return parts


def decided(generator: np.random.Generator, others: int, lead: float, sets: Sequence[int], seeds: int, alpha: float) -> bool:
    results = [
        compare(parts, resamples=2_000 if alpha > 0.01 else 10_000)
        for parts in comparisons(generator, others, lead, sets, seeds)
    ]
    answer = AgainstBest(tuple(results))
    return answer.effect > 0 and answer.p <= alpha


def pilot(generator: np.random.Generator, others: int, sets: Sequence[int], seeds: int) -> tuple[Design, float]:
    """A design with known variances, and how many times as many prompts the wanted one has."""
    if seeds == 1:
        return design(comparisons(generator, others, 0, [rows * PILOT for rows in sets], 1)), 1 / PILOT
    return design(comparisons(generator, others, 0, [rows * 4 for rows in sets], 4 * PILOT)), 1 / 4


DESIGNS = (  # others, sets, seeds, alpha, repetitions
    (1, [12], 1, 0.05, 2000), (1, [30], 1, 0.05, 2000), (1, SETS, 1, 0.05, 1500), (1, SETS, 1, HOLM, 700),
    (7, [12], 1, 0.05, 500), (7, [30], 1, 0.05, 500), (7, SETS, 1, 0.05, 500), (7, SETS, 1, HOLM, 300),
    (1, SETS, 2, 0.05, 600), (1, SETS, 3, 0.05, 600), (1, SETS, 5, 0.05, 600), (7, SETS, 3, 0.05, 300), (7, SETS, 5, 0.05, 300),
)  # fmt: skip


def smallest_differences() -> None:
    print("smallest detectable difference: how often it was decided (0.80 asked for)")
    for others, sets, seeds, alpha, count in DESIGNS:
        generator = np.random.default_rng(0)
        known, more = pilot(generator, others, sets, seeds)
        difference = detectable(known, alpha, seeds=seeds, more=more)
        assert difference is not None
        share = np.mean([decided(generator, others, difference, sets, seeds, alpha) for _ in range(count)])
        own = [detectable(design(comparisons(generator, others, 0, sets, seeds)), alpha) for _ in range(count // 5)]
        again = np.mean([decided(generator, others, one, sets, seeds, alpha) for one in own if one is not None])
        low, high = np.quantile([one for one in own if one is not None], [0.1, 0.9])
        print(
            f"{others} others, sets {sets}, {seeds} seeds, alpha {alpha:.4f}: known {difference:.2f}, found {share:.3f}; "
            f"estimated {low:.2f} to {high:.2f}, found {again:.3f}",
            flush=True,
        )


def single_formula(data: Sequence[Sequence[Floats]]) -> int:
    """Prompts for the hardest of several comparisons, each by itself, by the normal approximation (before)."""

    def rows(parts: Sequence[Floats]) -> int:
        variance = sum(part.mean(axis=0).var() / part.shape[1] for part in parts) / len(parts) ** 2
        prompts, z = sum(part.shape[1] for part in parts), stats.norm.isf(0.025) + stats.norm.isf(0.2)
        return math.ceil(prompts * variance * (z / effect(parts)) ** 2)

    return max(map(rows, data))


def scaled(prompts: int) -> list[int]:
    return [round(rows * prompts / sum(SETS)) for rows in SETS]


def enough_prompts() -> None:
    print("prompts that decide a lead of 4 points: how often they did; and ranges from 100 observed effects")
    for others, alpha in ((1, 0.05), (7, 0.05), (7, HOLM)):
        generator = np.random.default_rng(1)
        known, _ = pilot(generator, others, SETS, 1)
        known = replace(known, effects=np.full(others, 4.0))
        needed = prompts_to_decide(known, (4.0, 4.0), alpha)
        assert needed is not None and needed.as_seen is not None
        truth, formula = needed.as_seen, single_formula(comparisons(generator, others, 4.0, [r * PILOT for r in SETS], 1))
        share, joint = (
            np.mean([decided(generator, others, 4.0, scaled(prompts), 1, alpha) for _ in range(count)])
            for prompts, count in ((truth, 700 if alpha == 0.05 else 300), (formula, 200))
        )
        ranges, before = [], []
        for _ in range(100):
            data = comparisons(generator, others, 4.0, SETS, 1)
            interval = AgainstBest(tuple(compare(parts, resamples=2_000) for parts in data)).interval()
            ranges.append(prompts_to_decide(design(data), interval, alpha))
            before.append(single_formula(data))
        held = np.mean([one is not None and one.at_least <= truth <= (one.at_most or np.inf) for one in ranges])
        least = np.quantile([one.at_least for one in ranges if one], [0.05, 0.5, 0.95]).round()
        print(
            f"{others} others, alpha {alpha:.4f}: {truth} prompts, decided {share:.3f}; ranges hold that {held:.3f}, at least "
            f"{least}; before: {formula} prompts, decided {joint:.3f}; {np.quantile(before, [0.05, 0.5, 0.95]).round()}",
            flush=True,
        )


if __name__ == "__main__":
    smallest_differences()
    enough_prompts()
