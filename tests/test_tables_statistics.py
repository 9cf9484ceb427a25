from itertools import combinations
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from mgsr.errors import MgsrError
from mgsr.tables.statistics import check_parts, effect, holm, mean_and_deviations, paired_differences


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


def test_pitfall_22_rows_that_one_system_lacks_are_an_error() -> None:
    with pytest.raises(MgsrError, match="dolly-7"):
        paired_differences([{"dolly-3": 1.0, "dolly-7": 1.0}], [{"dolly-3": 1.0}])
    with pytest.raises(MgsrError):
        paired_differences([{}], [{}])


def test_sets_of_unequal_size_weigh_the_same() -> None:
    parts = [np.array([[1.0, 2.0, 3.0]]), np.array([[6.0]])]
    assert effect(parts) == 4.0


def test_holm_equals_statsmodels_and_closed_testing() -> None:
    generator = np.random.default_rng(7)
    for size in (1, 2, 5, 6):
        p = list(generator.uniform(0, 0.2, size) ** 2)
        p[-1] = p[0]  # ties
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
        families = [f for n in range(1, size + 1) for f in combinations(range(size), n)]
        closed = [max(min(1.0, len(f) * min(p[i] for i in f)) for f in families if one in f) for one in range(size)]
        assert holm(p) == pytest.approx(closed)
    assert holm([]) == [] and holm([0.7, 0.9]) == [1.0, 1.0]


def test_differences_pair_training_seeds_and_prompts() -> None:
    first = [{"a": 3.0, "b": 5.0}, {"b": 7.0, "a": 4.0}]
    assert paired_differences(first, [{"b": 1.0, "a": 1.0}, {"a": 2.0, "b": 2.0}]).tolist() == [[2.0, 4.0], [2.0, 5.0]]
    assert paired_differences(first, [{"a": 1.0, "b": 1.0}]).tolist() == [[2.0, 4.0], [3.0, 6.0]]
    assert paired_differences(first[:1], [{"a": 1.0, "b": 2.0}], factor=2.0).tolist() == [[1.0, 1.0]]
    with pytest.raises(MgsrError, match="same seeds"):
        paired_differences(first, [first[0]] * 3)
    for bad in ([], [np.zeros((1, 0))], [np.zeros((1, 3)), np.zeros((2, 3))], [np.full((1, 3), np.nan)]):
        with pytest.raises(MgsrError):
            check_parts(bad)
