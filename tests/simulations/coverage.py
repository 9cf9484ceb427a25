"""How often 95 % intervals hold the true difference, with few and many prompts.

    python -m tests.simulations.coverage [FOLDER OF EVALUATIONS]

Differences of two systems; of a system and 1.15 times another; and, as the most skewed that can be, a system's scores alone.
`percentile`: bootstrap; `bootstrap-t`: Efron and Tibshirani 1993, chapter 12; `t`: Student's; `sign flips`: the
inverted test of `mgsr.tables.decisions`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from mgsr.tables.decisions import sign_flips
from tests.simulations.rouge_like import Floats, Population, chosen_population

REPETITIONS, RESAMPLES = 2_000, 1_000
Bounds = tuple[float, float]


def percentile(values: Floats, draws: Floats) -> Bounds:
    low, high = np.quantile(draws.mean(axis=1), [0.025, 0.975])
    return low, high


def bootstrap_t(values: Floats, draws: Floats) -> Bounds:
    errors = draws.std(axis=1, ddof=1)
    ratios = np.divide(draws.mean(axis=1) - values.mean(), errors, out=np.zeros(len(draws)), where=errors > 0)
    low, high = np.quantile(ratios, [0.025, 0.975])
    error = values.std(ddof=1)
    return values.mean() - high * error, values.mean() - low * error


def student(values: Floats, draws: Floats) -> Bounds:
    half = stats.t.isf(0.025, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def flips(values: Floats, draws: Floats) -> Bounds:
    return sign_flips([values[None]], resamples=RESAMPLES).interval()


METHODS = {"percentile": percentile, "bootstrap-t": bootstrap_t, "t": student, "sign flips": flips}
DIFFERENCES: dict[str, Callable[[Floats], Floats]] = {
    "two systems": lambda scores: scores[0] - scores[1],
    "minus 1.15 times": lambda scores: scores[0] - 1.15 * scores[1],
    "one system's scores": lambda scores: scores[0],
}


def coverage(population: Population, difference: Callable[[Floats], Floats], rows: int) -> dict[str, tuple[float, float]]:
    """By method, the share of intervals below and above the truth."""
    generator = np.random.default_rng(rows)
    truth = np.mean([difference(population(generator, 1, 2, 20_000)[0]).mean() for _ in range(100)])
    missed = {name: np.zeros(2) for name in METHODS}
    for _ in range(REPETITIONS):
        values = difference(population(generator, 1, 2, rows)[0])
        draws = values[generator.integers(0, rows, (RESAMPLES, rows))]
        for name, method in METHODS.items():
            low, high = method(values, draws)
            missed[name] += high < truth, low > truth
    return {name: tuple(100 * counts / REPETITIONS) for name, counts in missed.items()}


def main() -> None:
    title, population = chosen_population()
    print(f"{title}, {REPETITIONS:,} repetitions; per cent of intervals below the truth + above it = missed (5 asked for)")
    for name, difference in DIFFERENCES.items():
        for rows in (12, 60, 500):
            found = coverage(population, difference, rows)
            texts = (f"{method} {low:.1f} + {high:.1f} = {low + high:.1f}" for method, (low, high) in found.items())
            print(f"{name}, {rows} prompts: {'; '.join(texts)}", flush=True)


if __name__ == "__main__":
    main()
