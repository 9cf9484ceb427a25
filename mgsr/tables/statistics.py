"""Means, deviations, differences and Holm's correction. Training seeds and decoding seeds are separate axes throughout.

Differences between two systems are arrays [training seeds, prompts], one for each test set; their effect is the mean over sets
of the mean over a set's prompts and over training seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mgsr.errors import MgsrError
from mgsr.evaluation.intervals import Numbers


@dataclass(frozen=True)
class Spread:
    """A mean with its two deviations; None where an axis has one seed only, so that nothing can be said about it."""

    mean: float
    training: float | None
    decoding: float | None


def mean_and_deviations(scores: ArrayLike) -> Spread:
    """The mean of `scores` [training seeds, decoding seeds], and two sample standard deviations (n - 1).

    `training` is the deviation of the means of each training seed; `decoding` is the deviation over decoding seeds, averaged
    over training seeds, and says nothing about training (pitfall 25).
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


def paired_differences(
    first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]], *, factor: float = 1.0
) -> Numbers:
    """[training seeds, prompts] from each seed's scores by prompt id, first - factor * second; ids in sorted order.

    A system with one training seed (a checkpoint) is set against every seed of the other. Ids must be the same: a row that one
    system lacks is an error, never cut off (pitfall 22).
    """
    if len(first) != len(second) and min(len(first), len(second)) != 1:
        raise MgsrError(f"{len(first)} training seeds cannot be paired with {len(second)}; train both with the same seeds")
    names = sorted(first[0])
    for scores in (*first, *second):
        if scores.keys() != first[0].keys():
            odd = sorted(scores.keys() ^ first[0].keys())
            raise MgsrError(f"{len(odd)} ids stand in one system's rows only, first {odd[0]}; evaluate both on the same rows")
    if not names:
        raise MgsrError("two systems without rows cannot be compared")
    table = [np.array([[scores[name] for name in names] for scores in system], dtype=np.float64) for system in (first, second)]
    return table[0] - factor * table[1]


def effect(parts: Sequence[Numbers]) -> float:
    """Mean over test sets of the mean difference."""
    return float(np.mean([part.mean() for part in parts]))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given; those at most alpha hold together at that level (Holm 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def check_parts(parts: Sequence[Numbers]) -> None:
    if not parts or any(part.ndim != 2 or not part.size or len(part) != len(parts[0]) for part in parts):
        shapes = ", ".join(str(part.shape) for part in parts) or "none"
        raise MgsrError(f"differences must be [training seeds, prompts] with the same seeds for each set, got {shapes}")
    if not all(np.isfinite(part).all() for part in parts):
        raise MgsrError("differences must be finite numbers; a score is not")
