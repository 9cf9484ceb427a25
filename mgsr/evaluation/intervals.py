"""Resampling: how far a number would move with other prompts. Percentile bootstrap (Efron 1979); numpy alone, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
LEVEL, RESAMPLES = 0.95, 10_000
_ROWS_AT_ONCE = 1000  # resamples whose weights exist at one time, so that memory stays small


def percentile_bounds(draws: Numbers) -> Numbers:
    """Lower and upper bound of the central 95 % of `draws` [resamples, ...]: [2, ...]. NaN where a resample is NaN."""
    return np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


def resampling_weights(rows: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Numbers]:
    """How often each row is drawn, [up to 1000, rows] at a time. Equal arguments draw the same rows: two systems on the same
    rows are then compared in pairs."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, _ROWS_AT_ONCE):
        draws = generator.multinomial(rows, np.full(rows, 1 / rows), min(_ROWS_AT_ONCE, resamples - start))
        yield draws.astype(np.float64)


def percentile_interval(resamples: Numbers) -> list[list[float] | None]:
    """The bounds by column of [resamples, columns]; null where a resample has no value."""
    low, high = percentile_bounds(resamples)
    return [[float(a), float(b)] if np.isfinite([a, b]).all() else None for a, b in zip(low, high, strict=True)]


@lru_cache(maxsize=4)  # many numbers are summed up over the same rows, and drawing costs more than the sums
def _weights(rows: int) -> Numbers:
    return np.concatenate(list(resampling_weights(rows)))


def mean_interval(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Mean over rows with the bounds of its 95 % interval; None without rows, and no bounds for a single one."""
    if not values:
        return None, None, None
    mean = fmean(values)
    if len(values) == 1:
        return mean, None, None
    means = _weights(len(values)) @ np.array(values, dtype=np.float64) / len(values)
    bounds = percentile_interval(means[:, None])[0]
    return mean, *(bounds or (None, None))
