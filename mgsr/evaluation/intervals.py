"""Resampling: how far a number would move with other prompts. Percentile bootstrap (Efron 1979); numpy alone, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
LEVEL, RESAMPLES = 0.95, 10_000


def percentile_bounds(draws: Numbers) -> Numbers:
    """Lower and upper bound of the central 95 % of `draws` [resamples, ...]: [2, ...]. NaN where a resample is NaN."""
    return np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


@lru_cache(maxsize=4)  # many numbers are summed up over the same rows, and drawing costs more than the sums
def resampling_weights(rows: int, resamples: int = RESAMPLES, seed: int = 0) -> Numbers:
    """How often each row is drawn, [resamples, rows]. Equal arguments draw the same rows: two systems on the same rows are then
    compared in pairs."""
    return np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), resamples).astype(np.float64)


def percentile_interval(resamples: Numbers) -> list[list[float] | None]:
    """The bounds by column of [resamples, columns]; null where a resample has no value."""
    low, high = percentile_bounds(resamples)
    return [[float(a), float(b)] if np.isfinite([a, b]).all() else None for a, b in zip(low, high, strict=True)]


def mean_interval(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Mean over rows with the bounds of its 95 % interval; None without rows, and no bounds for a single one."""
    if len(values) < 2:
        return (fmean(values) if values else None), None, None
    low, high = percentile_bounds(resampling_weights(len(values)) @ np.array(values, dtype=np.float64) / len(values))
    return fmean(values), float(low), float(high)
