"""Percentile bootstrap over rows (Efron 1979), for the numbers that an evaluation stage summarises itself. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
RESAMPLES = 10_000
_AT_ONCE = 1000  # so that memory stays small


def resampling_weights(rows: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Numbers]:
    """How often each row is drawn, [up to 1000, rows] at a time. Equal arguments draw the same rows: two systems on the same
    rows are then compared in pairs."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, _AT_ONCE):
        draws = generator.multinomial(rows, np.full(rows, 1 / rows), min(_AT_ONCE, resamples - start))
        yield draws.astype(np.float64)


def percentile_interval(resamples: Numbers, level: float = 0.95) -> list[list[float] | None]:
    """The bounds by column of [resamples, columns]; null where a resample has no value."""
    low, high = np.quantile(resamples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [[float(a), float(b)] if np.isfinite([a, b]).all() else None for a, b in zip(low, high, strict=True)]


def mean_interval(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Mean over rows with the bounds of its 95 % interval; None without rows, and no bounds for a single one."""
    if not values:
        return None, None, None
    column = np.array(values, dtype=np.float64)[:, None]
    if len(column) == 1:
        return float(column.mean()), None, None
    means = np.concatenate([weights @ column for weights in resampling_weights(len(column))]) / len(column)
    bounds = percentile_interval(means)[0]
    return float(column.mean()), *(bounds or (None, None))
