"""Numbers in; means, deviations and intervals out. Training seeds and decoding seeds are separate axes throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mgsr.errors import MgsrError


@dataclass(frozen=True)
class Spread:
    """A mean with its two deviations; None where an axis has one seed only, so that nothing can be said about it."""

    mean: float
    training: float | None
    decoding: float | None


def mean_and_deviations(scores: ArrayLike) -> Spread:
    """`scores` [training seeds, decoding seeds] -> mean over all, and two sample standard deviations (n - 1):

    `training`: of the per-training-seed means; `decoding`: over decoding seeds, averaged over training seeds. The second says
    nothing about training (pitfall 25).
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


def paired_bootstrap(
    first: Mapping[str, float], second: Mapping[str, float], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile interval of mean(first - second), prompts drawn with replacement (Efron 1979; Koehn 2004).

    Both map a prompt's id to a score (already averaged over seeds). Ids must be the same: a row that one system lacks is
    an error, never cut off (pitfall 22).
    """
    if first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        raise MgsrError(f"{len(odd)} ids stand in one system's rows only, first {odd[0]}; evaluate both on the same rows")
    if not first:
        raise MgsrError("two systems without rows cannot be compared")
    differences = np.array([first[name] - second[name] for name in sorted(first)], dtype=np.float64)
    generator, rows = np.random.default_rng(seed), len(differences)
    means = np.array([differences[generator.integers(0, rows, rows)].mean() for _ in range(resamples)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(differences.mean()), float(low), float(high), rows)
