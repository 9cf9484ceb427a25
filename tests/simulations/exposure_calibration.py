"""False alarms of "less exposure bias" where there is none: the percentile bootstrap over prompts against sign flips of the
jackknife's pseudo-values.

    python -m tests.simulations.exposure_calibration

KL by position is gamma-distributed with a heavy tail, grows on the student's own prefixes by the same factor for both
students, and depends on prompt and position; sequences end at random. `far`: the second student is twice as far from the
teacher everywhere and noisier, so its ExAccErr is the same and its R(l) is not. `R(l)`: that difference itself, of equal
students.
"""

from __future__ import annotations

import numpy as np

from mgsr.evaluation.accumulation import SOURCES, Divergences
from mgsr.tables.decisions import ALPHA, compare, pseudo_values
from tests.simulations.rouge_like import Floats

REPETITIONS, SAMPLES, LENGTHS, BIAS = 1_500, 2, (4, 8, 16), 0.4


def students(generator: np.random.Generator, prompts: int, far: bool) -> tuple[Divergences, Divergences]:
    """Two students of equal ExAccErr on the same prompts."""
    positions = max(LENGTHS)
    of_prompt = generator.gamma(2, 0.5, (prompts, 1))
    growth = 1 + BIAS * (1 - np.exp(-np.arange(positions) / 3))
    pair = []
    for factor, shape in ((1.0, 0.3), (2.0, 0.15) if far else (1.0, 0.3)):
        sums, counts = {}, {}
        for source in SOURCES:
            mean = of_prompt * (growth if source == "student" else 1.0) * factor
            values = mean * generator.gamma(shape, 1 / shape, (SAMPLES, prompts, positions))
            running = np.arange(positions) < generator.geometric(0.04, (SAMPLES, prompts, 1))
            sums[source], counts[source] = (values * running).sum(axis=0), running.sum(axis=0).astype(np.float64)
        pair.append(Divergences(tuple(map(str, range(prompts))), sums, counts))
    return pair[0], pair[1]


def alarms(generator: np.random.Generator, prompts: int, kind: str) -> Floats:
    """[methods, lengths]: whether each finds a difference."""
    pair = students(generator, prompts, kind == "far")

    def difference(weights: Floats) -> Floats:
        values = [
            s.accumulated("student", LENGTHS, weights) if kind == "R(l)" else s.excess_error(LENGTHS, weights) for s in pair
        ]
        return values[1] - values[0]

    draws = difference(generator.multinomial(prompts, np.full(prompts, 1 / prompts), 1_000).astype(np.float64))
    low, high = np.nanquantile(draws, [ALPHA / 2, 1 - ALPHA / 2], axis=0)
    p = np.array([compare([values[None]], resamples=1_000).p for values in pseudo_values(difference, prompts)])
    return np.stack([(low > 0) | (high < 0), p <= ALPHA])


def main() -> None:
    print(f"{REPETITIONS:,} repetitions, {SAMPLES} samples a prompt; per cent of false alarms at lengths {LENGTHS}")
    for prompts in (50, 200):
        for kind in ("equal", "far", "R(l)"):
            generator = np.random.default_rng(prompts)
            found = 100 * np.mean([alarms(generator, prompts, kind) for _ in range(REPETITIONS)], axis=0)
            for method, values in zip(("percentile bootstrap", "sign flips of pseudo-values"), found, strict=True):
                print(f"{prompts} prompts, {kind}: {method:28s} {' '.join(f'{value:5.1f}' for value in values)}", flush=True)


if __name__ == "__main__":
    main()
