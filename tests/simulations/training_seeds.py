"""False alarms and power of the tests over training seeds and prompts, from their mean squares.

    python -m tests.simulations.training_seeds

Variances of the effect, the prompts' being 1: `seed` of one training seed, `both` of seed and prompt together, one seed.
`before`: the larger tail of a sum of normal (prompts) and Student's t (seeds), which counts `both` twice; `satterthwaite`: the
quasi-F with his degrees of freedom; `ours`: `mgsr.tables.seed_variance`. Then the same over a table: three rows against the
best of seven baselines, on five sets and their average, after Holm's correction.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from mgsr.tables.seed_variance import SquaredErrors
from tests.simulations.rouge_like import Floats

REPETITIONS, PROMPTS = 40_000, 500
HOLM = 0.05 / 18  # the first step of a family of 18


def draws(generator: np.random.Generator, seeds: int, seed: float, both: float) -> tuple[Floats, SquaredErrors]:
    """Errors of the effect, and its three squared standard errors."""

    def square(variance: float, degrees: int) -> Floats:
        return variance * generator.chisquare(degrees, REPETITIONS) / degrees

    errors = SquaredErrors(
        square((seed + both) / seeds, seeds - 1), square(1 + both / seeds, PROMPTS - 1),
        square(both / seeds, (seeds - 1) * (PROMPTS - 1)), np.full(REPETITIONS, PROMPTS - 1.0), seeds,
    )  # fmt: skip
    return generator.normal(0, np.sqrt((seed + both) / seeds + 1), REPETITIONS), errors


def half_widths(errors: SquaredErrors, alpha: float) -> dict[str, Floats]:
    seed, prompt, residual, degrees = errors.seed, errors.prompt, errors.residual, errors.seeds - 1
    ratios = np.geomspace(1e-3, 1e3, 40)
    generator = np.random.default_rng(0)
    normal, student = generator.standard_normal(200_000), generator.standard_t(degrees, 200_000)
    quantiles = [np.quantile(np.abs(normal + ratio * student), 1 - alpha) for ratio in ratios]
    before = np.interp(np.log(np.sqrt(seed / prompt)), np.log(ratios), quantiles) * np.sqrt(prompt)
    shares = seed**2 / degrees + prompt**2 / errors.degrees + residual**2 / (degrees * (PROMPTS - 1))
    freedom = np.where(seed > residual, errors.total**2 / shares, errors.degrees)
    satterthwaite = stats.t.isf(alpha / 2, freedom) * np.sqrt(errors.total)
    return {"before": before, "satterthwaite": satterthwaite, "ours": errors.half_width(alpha)}


def table_alarms(seeds: int, seed: float, tables: int = 4_000) -> dict[str, float]:
    """Per cent of tables without effects that tell a row apart. `seed`: as above, of the average over sets; `both` is 0.3."""
    generator = np.random.default_rng(seeds)
    rows, baselines, by_set, both = 3, 7, np.array([1, 2, 4, 0.4, 0.5]), 0.3
    average = by_set.sum() / 25
    scores = generator.normal(0, np.sqrt(seed * average / 2), (tables, rows + baselines, seeds, 1))
    scores = scores + generator.standard_normal((tables, rows + baselines, 1, 5)) * np.sqrt(by_set / 2)
    scores = scores + generator.standard_normal((tables, rows + baselines, seeds, 5)) * np.sqrt(both * by_set / 2)
    scores = np.concatenate([scores, scores.mean(axis=3, keepdims=True)], axis=3)
    differences = scores[:, :rows, None] - scores[:, None, rows:]
    effects, prompt = differences.mean(axis=3), np.broadcast_to([*by_set, average], (*differences.shape[:3], 6))
    errors = SquaredErrors(
        differences.var(axis=3, ddof=1) / seeds,
        prompt * (1 + both / seeds),
        prompt * both / seeds,
        np.full(prompt.shape, 1e6),
        seeds,
    )
    own = np.maximum(errors.total - errors.prompt, 0) > 0
    freedom = np.where(own, errors.total**2 / (errors.seed**2 / (seeds - 1)), 1e6)
    by_rule = {"satterthwaite": 2 * stats.t.sf(np.abs(effects) / np.sqrt(errors.total), freedom), "ours": errors.p(effects)}
    found = {}
    for name, p in by_rule.items():
        above = np.where((effects > 0).all(axis=2), p.max(axis=2), 1)
        below = baselines * np.where(effects < 0, p, 1).min(axis=2)
        found[name] = 100 * float(np.mean(np.minimum(above, below).min(axis=(1, 2)) <= HOLM))
    return found


def main() -> None:
    print(f"{REPETITIONS:,} repetitions, {PROMPTS} prompts; false alarms over alpha, then power in % at 3 standard errors")
    for seeds in (2, 3, 5, 10):
        for alpha in (0.05, HOLM):
            for both in (0.1, 1.0, 5.0):
                for seed in (0.0, 0.3, 1.0, 3.0, 10.0, 30.0):
                    noise, errors = draws(np.random.default_rng(1), seeds, seed, both)
                    lead = 3 * np.sqrt((seed + both) / seeds + 1)
                    found = {name: (np.mean(np.abs(noise) > half) / alpha, 100 * np.mean(noise + lead > half))
                             for name, half in half_widths(errors, alpha).items()}  # fmt: skip
                    texts = "".join(f"  {name} {size:5.2f} {power:5.1f}" for name, (size, power) in found.items())
                    print(f"{seeds:2d} seeds, alpha {alpha:.4f}, both {both:3.1f}, seed {seed:4.1f}:{texts}")
    print("tables without effects that tell a row apart, per cent")
    for seeds in (3, 5, 10):
        for seed in (1.0, 3.0, 10.0, 30.0):
            texts = "".join(f"  {name} {alarms:4.1f}" for name, alarms in table_alarms(seeds, seed).items())
            print(f"{seeds:2d} seeds, seed {seed:4.1f}:{texts}")


if __name__ == "__main__":
    main()
