from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from mgsr.errors import MgsrError
from mgsr.tables.statistics import mean_and_deviations, paired_bootstrap


def test_deviations_by_hand() -> None:
    spread = mean_and_deviations([[1.0, 3.0], [5.0, 9.0]])
    assert spread.mean == 4.5
    assert spread.training == pytest.approx(np.std([2.0, 7.0], ddof=1))
    assert spread.decoding == pytest.approx((np.sqrt(2) + np.sqrt(8)) / 2)


def test_pitfall_25_decoding_seeds_are_no_training_deviation() -> None:
    spread = mean_and_deviations([[20.0, 21.0, 22.0, 23.0, 24.0]])
    assert spread.training is None and spread.decoding == pytest.approx(np.sqrt(2.5))
    assert mean_and_deviations([[1.0], [2.0]]).decoding is None


def test_planted_axes_are_told_apart() -> None:
    generator = np.random.default_rng(1)
    table = 30 + 2.0 * generator.standard_normal((4000, 1)) + 0.3 * generator.standard_normal((4000, 40))
    spread = mean_and_deviations(table)
    assert spread.training == pytest.approx(2.0, rel=0.05) and spread.decoding == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("scores", [[], [[]], [1.0, 2.0], [[float("nan")]]])
def test_bad_scores(scores: Any) -> None:
    with pytest.raises(MgsrError):
        mean_and_deviations(scores)


def _systems(shift: float, rows: int = 200, seed: int = 0) -> tuple[dict[str, float], dict[str, float]]:
    generator = np.random.default_rng(seed)
    base, noise = generator.normal(30, 20, rows), generator.normal(shift, 4, rows)
    names = [f"dolly-{i}" for i in range(rows)]
    return dict(zip(names, base + noise, strict=True)), dict(zip(names, base, strict=True))


def test_bootstrap_equals_scipy() -> None:
    first, second = _systems(1.0)
    ours = paired_bootstrap(first, second)
    differences = np.array([first[name] - second[name] for name in first])
    theirs = stats.bootstrap((differences,), np.mean, method="percentile", n_resamples=10_000, rng=3).confidence_interval
    assert ours.difference == pytest.approx(differences.mean()) and ours.rows == 200
    assert ours.low == pytest.approx(theirs.low, abs=0.05) and ours.high == pytest.approx(theirs.high, abs=0.05)


def test_bootstrap_finds_a_planted_effect_and_covers_none() -> None:
    planted = paired_bootstrap(*_systems(2.0))
    assert planted.low > 0 and planted.excludes_zero and planted.low < 2.0 < planted.high
    covered = [not paired_bootstrap(*_systems(0.0, 60, seed), resamples=500).excludes_zero for seed in range(200)]
    assert 0.88 <= np.mean(covered) <= 0.99


def test_bootstrap_is_paired_and_does_not_depend_on_order() -> None:
    first, second = _systems(1.0)
    interval = paired_bootstrap(first, second)
    assert interval == paired_bootstrap(dict(reversed(first.items())), second)
    assert interval.high - interval.low < 1.5  # unpaired, the spread of 20 would give about 8


def test_pitfall_22_rows_that_one_system_lacks_are_an_error() -> None:
    first, second = _systems(1.0)
    second.pop("dolly-7")
    with pytest.raises(MgsrError, match="dolly-7"):
        paired_bootstrap(first, second)
    with pytest.raises(MgsrError):
        paired_bootstrap({}, {})
