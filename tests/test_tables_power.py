from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.power import TTestPower

from mgsr.errors import MgsrError
from mgsr.tables.power import POWER, Design, PromptsNeeded, design, detectable, prompts_to_decide
from tests.simulations import planted_effects


def _data(others: int, rows: int, likeness: float, seed: int = 0, deviation: float = 4.0) -> list[list[np.ndarray]]:
    """Comparisons whose paired differences are correlated by `likeness`, exactly."""
    raw = np.random.default_rng(seed).normal(size=(others, rows))
    raw -= raw.mean(axis=1, keepdims=True)
    white = np.linalg.solve(np.linalg.cholesky(np.cov(raw).reshape(others, others)), raw)
    wanted = np.linalg.cholesky(likeness + (1 - likeness + 1e-12) * np.eye(others))
    return [[row[None]] for row in deviation * wanted @ white]


def _normal_margin(others: int, likeness: float, alpha: float, rows: int, deviation: float = 4.0) -> float:
    """Closed form for many prompts: all of the correlated normal errors within one bound with a chance of 0.8."""
    covariance = likeness + (1 - likeness) * np.eye(others)
    joint = stats.multivariate_normal(np.zeros(others), covariance)
    bound = optimize.brentq(lambda x: joint.cdf(np.full(others, x)) - POWER, 0, 5, xtol=2e-3)
    return float((stats.norm.isf(alpha / 2) + bound) * deviation / np.sqrt(rows))


@pytest.mark.parametrize(("rows", "alpha"), [(20, 0.05), (60, 0.05), (400, 0.05), (400, 0.05 / 18)])
def test_one_comparison_equals_statsmodels(rows: int, alpha: float) -> None:
    theirs = TTestPower().solve_power(nobs=rows, alpha=alpha, power=POWER)
    assert detectable(design(_data(1, rows, 1.0)), alpha) == pytest.approx(4 * theirs, rel=0.02)


@pytest.mark.parametrize("likeness", [0.0, 0.5, 0.95])
def test_several_comparisons_equal_the_multivariate_normal(likeness: float) -> None:
    ours = detectable(design(_data(7, 1500, likeness)), 0.05)
    assert ours == pytest.approx(_normal_margin(7, likeness, 0.05, 1500), rel=0.02)


def test_sets_weigh_the_same_and_more_prompts_help() -> None:
    generator = np.random.default_rng(3)
    parts = [generator.normal(0, 4, (1, 300)), generator.normal(0, 9, (1, 90))]
    error = np.sqrt(parts[0].var(ddof=1) / 300 + parts[1].var(ddof=1) / 90) / 2
    planned = design([parts])
    assert detectable(planned) == pytest.approx(2.8 * error, rel=0.03)
    assert detectable(planned, more=4.0) == pytest.approx(1.4 * error, rel=0.03)


def test_seeds_without_noise_of_prompts_equal_the_t_test_over_seeds() -> None:
    effects = np.random.default_rng(4).normal(0, 2, 6)
    theirs = TTestPower().solve_power(nobs=6, alpha=0.05, power=POWER) * effects.std(ddof=1)
    planned = design([[np.repeat(effects[:, None], 20, axis=1)]])
    assert detectable(planned) == pytest.approx(theirs, rel=0.03)
    ten = TTestPower().solve_power(nobs=10, alpha=0.05, power=POWER) * effects.std(ddof=1)
    assert detectable(planned, seeds=10) == pytest.approx(ten, rel=0.03)


def test_too_few_prompts_or_equal_answers_decide_nothing() -> None:
    assert detectable(design([[np.zeros((1, 30))]])) is None
    assert detectable(design(_data(1, 5, 1.0)), 0.05) is None  # 2^-4 is the smallest p-value
    assert detectable(design(_data(1, 8, 1.0)), 0.05) is not None
    assert detectable(design(_data(1, 60, 1.0)), 0.05 / 1000) is None  # fewer than 10,000 patterns reach


@pytest.mark.parametrize(
    ("others", "sets", "seeds", "alpha", "count"),
    [(1, [40, 30], 1, 0.05, 1000), (5, [40, 30], 1, 0.05, 500), (1, [40, 30], 3, 0.05, 700), (3, [40, 30], 5, 0.05, 400)],
)
def test_planted_effects_are_found_four_times_in_five(
    others: int, sets: list[int], seeds: int, alpha: float, count: int
) -> None:
    generator = np.random.default_rng(others + seeds)
    known, more = planted_effects.pilot(generator, others, sets, seeds)
    difference = detectable(known, alpha, seeds=seeds, more=more)
    assert difference is not None
    decided = [planted_effects.decided(generator, others, difference, sets, seeds, alpha) for _ in range(count)]
    assert np.mean(decided) == pytest.approx(POWER, abs=0.03 + 2 * np.sqrt(0.16 / count))


# --- prompts that decide ----------------------------------------------------------------------------------------------


def _with_effects(planned: Design, *effects: float) -> Design:
    return replace(planned, effects=np.array(effects))


def test_prompts_to_decide_one_difference_equal_statsmodels() -> None:
    planned = _with_effects(design(_data(1, 200, 1.0)), 0.9)
    theirs = TTestPower().solve_power(effect_size=0.9 / 4, alpha=0.05, power=POWER)
    needed = prompts_to_decide(planned, (0.5, 1.3))
    assert needed is not None and needed.as_seen == pytest.approx(theirs, rel=0.03)
    for prompts, difference in ((needed.at_least, 1.3), (needed.at_most, 0.5)):
        theirs = TTestPower().solve_power(effect_size=difference / 4, alpha=0.05, power=POWER)
        assert prompts == pytest.approx(theirs, rel=0.03)


def test_prompts_to_be_above_all_have_joint_power() -> None:
    """The number for one of seven equally hard comparisons decides all of them in fewer than half of the cases."""
    planned = _with_effects(design(_data(7, 1500, 0.5)), *[1.0] * 7)
    needed = prompts_to_decide(planned, (1.0, 1.0))
    assert needed is not None and needed.as_seen is not None
    assert _normal_margin(7, 0.5, 0.05, needed.as_seen) == pytest.approx(1.0, rel=0.02)
    single = TTestPower().solve_power(effect_size=1 / 4, alpha=0.05, power=POWER)
    assert needed.as_seen > 1.5 * single
    assert planned.chance(planned.effects, 0.05, more=single / 1500) < 0.5


def test_below_one_of_several_is_decided_too() -> None:
    planned = _with_effects(design(_data(3, 400, 0.5)), 2.0, 2.0, -1.0)
    needed = prompts_to_decide(planned, (-1.5, -0.5))
    theirs = TTestPower().solve_power(effect_size=1 / 4, alpha=0.05 / 3, power=POWER)
    assert needed is not None and needed.as_seen == pytest.approx(theirs, rel=0.04)


def test_what_is_undecided_has_no_upper_end() -> None:
    planned = _with_effects(design(_data(1, 60, 1.0)), 0.4)
    needed = prompts_to_decide(planned, (-0.6, 1.4))
    assert needed is not None and needed.at_most is None
    assert needed.as_seen is not None and needed.at_least < 100 < needed.as_seen
    none = prompts_to_decide(_with_effects(planned, 0.0), (-0.5, 0.5))
    assert none is not None and none.as_seen is None


def test_no_number_where_training_seeds_vary_too_much() -> None:
    """Three seeds that differ by 5 points hide a difference of 1 however many prompts are answered."""
    seeds = np.array([-5.0, 0.0, 5.0])[:, None]
    planned = _with_effects(design([[seeds + np.random.default_rng(5).normal(0, 3, (3, 50))]]), 1.0)
    assert prompts_to_decide(planned, (-1.0, 2.0)) is None
    known = prompts_to_decide(planned, (-30.0, 40.0))
    assert isinstance(known, PromptsNeeded) and known.as_seen is None and known.at_most is None


def test_comparisons_share_prompts_and_seeds() -> None:
    for bad in ([], [[np.zeros((1, 9))], [np.zeros((1, 8))]], [[np.zeros((1, 9))], [np.zeros((3, 9))]]):
        with pytest.raises(MgsrError):
            design(bad)
    alone = design([[np.zeros((1, 9)), np.ones((1, 1))]])  # a set of one prompt
    assert alone is None and detectable(alone) is None and prompts_to_decide(alone, (-1.0, 1.0)) is None
    with pytest.raises(MgsrError, match="one training seed"):
        detectable(design(_data(1, 20, 1.0)), seeds=3)
