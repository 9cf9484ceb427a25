from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import mixedlm, ols
from statsmodels.stats.anova import anova_lm

from mgsr.errors import MgsrError
from mgsr.tables.seed_variance import (
    AXES,
    DECODING,
    PROMPTS,
    TRAINING,
    Components,
    satterthwaite,
    score_components,
    seed_test,
    variance_components,
)
from tests.simulations import training_seeds

TABLE = np.random.default_rng(2).normal(size=(4, 6, 3)) + np.random.default_rng(3).normal(0, 2, (4, 6, 1))


def _long(table: np.ndarray) -> pd.DataFrame:
    index = np.indices(table.shape).reshape(table.ndim, -1)
    return pd.DataFrame(dict(zip("tpd", index, strict=False)) | {"y": table.ravel()})


def _mean_squares(table: np.ndarray) -> dict[str, float]:
    names = "tpd"[: table.ndim]
    with np.errstate(all="ignore"):
        anova = anova_lm(ols("y ~ " + " * ".join(f"C({name})" for name in names), _long(table)).fit())
    return {name.replace("C(", "").replace(")", ""): one["sum_sq"] / one["df"] for name, one in anova.iterrows() if one["df"]}


# --- components -------------------------------------------------------------------------------------------------------


def test_components_equal_statsmodels_mixed_model() -> None:
    generator = np.random.default_rng(1)
    table = 2 * generator.normal(size=(6, 1)) + 3 * generator.normal(size=(1, 14)) + generator.normal(size=(6, 14))
    frame = _long(table).assign(one=1)
    fitted = mixedlm("y ~ 1", frame, groups="one", vc_formula={"t": "0 + C(t)", "p": "0 + C(p)"}).fit(reml=True)
    theirs = dict(zip(fitted.model.exog_vc.names, fitted.vcomp, strict=True)) | {"residual": fitted.scale}
    ours = variance_components(table, AXES[:2])
    assert ours[(TRAINING,)] == pytest.approx(theirs["t"], rel=1e-3)
    assert ours[(PROMPTS,)] == pytest.approx(theirs["p"], rel=1e-3)
    assert ours[(TRAINING, PROMPTS)] == pytest.approx(theirs["residual"], rel=1e-3)


def test_three_axes_equal_mean_squares_of_statsmodels() -> None:
    """Expected mean squares of three random axes, by hand: sigma_t = (MS_t - MS_tp - MS_td + MS_tpd) / (p d), and so on."""
    squares, ours = _mean_squares(TABLE), variance_components(TABLE, AXES)
    assert ours[AXES] == pytest.approx(squares["t:p:d"])
    assert ours[(TRAINING, PROMPTS)] == pytest.approx((squares["t:p"] - squares["t:p:d"]) / 3)
    assert ours[(PROMPTS, DECODING)] == pytest.approx((squares["p:d"] - squares["t:p:d"]) / 4)
    whole = squares["t"] - squares["t:p"] - squares["t:d"] + squares["t:p:d"]
    assert ours[(TRAINING,)] == pytest.approx(whole / 18) and len(ours) == 7


def test_components_are_unbiased_over_sets_of_unequal_size() -> None:
    """Planted: seeds move both sets together, the sets differ in the variance of prompts, decoding seeds do nothing alone."""
    generator, sizes, repetitions = np.random.default_rng(4), (8, 20), 600
    found = []
    for _ in range(repetitions):
        seed = generator.normal(0, 1, (3, 1, 1))
        parts = [seed + generator.normal(0, scale, (1, rows, 1)) + generator.normal(0, 1, (1, rows, 2))
                 + generator.normal(0, 2, (3, rows, 2)) for rows, scale in zip(sizes, (3, 1), strict=True)]  # fmt: skip
        found.append(list(score_components(parts).variances.values()))
    terms = list(score_components(parts).variances)
    weight = 28 / 4 * (1 / 8 + 1 / 20)  # what a variance equal in both sets counts
    prompts = 28 / 4 * (9 / 8 + 1 / 20)
    planted = {(TRAINING,): 1, (PROMPTS,): prompts, (PROMPTS, DECODING): weight, AXES: 4 * weight}
    error = np.std(found, axis=0) / np.sqrt(repetitions)
    for term, mean, standard in zip(terms, np.mean(found, axis=0), error, strict=True):
        assert mean == pytest.approx(planted.get(term, 0.0), abs=3.5 * standard), term
    assert np.min(found) < 0  # nothing is cut off at 0, which would bias it


def test_standard_error_is_that_of_the_mean() -> None:
    """With every axis random, the variance of a mean of balanced data is estimated without bias by its components."""
    generator = np.random.default_rng(5)
    tables = [generator.normal(0, 1, (4, 1, 1)) + generator.normal(0, 3, (1, 9, 1)) + generator.normal(0, 2, (4, 9, 2))
              for _ in range(400)]  # fmt: skip
    estimated = np.mean([score_components([table]).standard_error() ** 2 for table in tables])
    assert estimated == pytest.approx(np.var([table.mean() for table in tables]), rel=0.2)


def test_how_many_of_each_axis_are_needed() -> None:
    components = Components(0.0, {(TRAINING,): 2.0, (PROMPTS,): 90.0, AXES: 30.0}, {TRAINING: 3, PROMPTS: 100, DECODING: 2})
    assert components.standard_error() == pytest.approx(np.sqrt(2 / 3 + 90 / 100 + 30 / 600))
    for axis, target in ((TRAINING, 1.0), (PROMPTS, 1.0), (TRAINING, 1.2), (PROMPTS, 0.85)):
        needed = components.needed(axis, target)
        assert needed is not None and components.standard_error({axis: needed}) <= target * (1 + 1e-9)
        assert needed == 1 or components.standard_error({axis: needed - 1}) > target
    assert components.needed(TRAINING, 0.9) is None  # the prompts alone give more
    assert components.needed(DECODING, 1.0) is None and components.needed(PROMPTS, 0.8) is None


def test_an_axis_of_one_has_no_component() -> None:
    generator = np.random.default_rng(6)
    components = score_components([generator.normal(size=(1, 9, 2)), generator.normal(size=(1, 5, 2))])
    assert set(components.variances) == {(PROMPTS,), (DECODING,), (PROMPTS, DECODING)}
    for bad in ([], [np.zeros((2, 1, 1))], [np.zeros((2, 4, 1)), np.zeros((3, 4, 1))]):
        with pytest.raises(MgsrError):
            score_components(bad)


# --- test of a difference ---------------------------------------------------------------------------------------------


def test_seeds_alone_give_the_t_test_over_seeds() -> None:
    effects = np.array([1.0, 3.5, 2.0, 0.5])
    ours, theirs = seed_test([np.repeat(effects[:, None], 30, axis=1)]), stats.ttest_1samp(effects, 0)
    assert ours.p == pytest.approx(theirs.pvalue) and ours.degrees == pytest.approx(3)
    assert ours.interval(0.05) == pytest.approx(tuple(theirs.confidence_interval()))


def test_prompts_alone_give_the_t_test_over_prompts_and_welch_over_sets() -> None:
    generator = np.random.default_rng(7)
    first, second = generator.normal(1, 3, 30), generator.normal(0.5, 8, 12)
    assert seed_test([np.stack([first] * 3)]).p == pytest.approx(stats.ttest_1samp(first, 0).pvalue)
    ours, theirs = seed_test([np.stack([first] * 3), np.stack([second] * 3)]), stats.ttest_ind(first, -second, equal_var=False)
    assert ours.p == pytest.approx(theirs.pvalue) and ours.degrees == pytest.approx(theirs.df)
    assert ours.effect == pytest.approx((first.mean() + second.mean()) / 2)


def test_squared_error_is_the_quasi_f_of_statsmodels_mean_squares() -> None:
    """Clark's F' for a mean against 0: (MS_seeds + MS_prompts - MS_both) / (seeds prompts)."""
    generator = np.random.default_rng(8)
    table = generator.normal(0, 2, (4, 1)) + generator.normal(0, 3, 25) + generator.normal(0, 2, (4, 25))
    squares, ours = _mean_squares(table), seed_test([table])
    assert ours.standard_error**2 == pytest.approx((squares["t"] + squares["p"] - squares["t:p"]) / 100)
    parts = [squares["t"] / 100, squares["p"] / 100, squares["t:p"] / 100]
    assert 3 < ours.degrees < sum([parts[0], parts[1], -parts[2]]) ** 2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 24)


def test_satterthwaite_equals_welch() -> None:
    first, second = np.random.default_rng(9).normal(size=9), np.random.default_rng(10).normal(0, 4, 14)
    squares = [first.var(ddof=1) / 9, second.var(ddof=1) / 14]
    assert satterthwaite(squares, [8, 13]) == pytest.approx(stats.ttest_ind(first, second, equal_var=False).df)
    assert satterthwaite([0.0, 0.0], [8, 13]) == 21


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_p_value_and_interval_agree_at_every_level(seeds: int) -> None:
    generator = np.random.default_rng(seeds)
    for _ in range(20):
        test = seed_test([generator.normal(0.5, 1, (seeds, 1)) + generator.normal(0, 1, (seeds, rows)) for rows in (12, 30)])
        for factor in (0.99, 1.01):
            low, high = test.interval(test.p * factor)
            assert (low > 0 or high < 0) == (factor > 1)
    zero = seed_test([np.zeros((seeds, 9))])
    assert zero.p == 1.0 and zero.interval(0.05) == (0.0, 0.0)


@pytest.mark.parametrize(("seeds", "seed"), [(n, v) for n in (2, 3, 5, 10) for v in (0.0, 1.0, 10.0, 30.0)])
def test_false_alarms_stay_below_six_per_cent(seeds: int, seed: float) -> None:
    for both in (0.1, 1.0, 5.0):
        noise, errors = training_seeds.draws(np.random.default_rng(seeds), seeds, seed, both)
        alarms = np.mean(np.abs(noise) > errors.half_width(0.05))
        assert alarms < 0.06
        if seeds > 2:  # two seeds find p by bisection, held to the interval above
            assert np.mean(errors.p(noise) <= 0.05) == pytest.approx(alarms, abs=1e-3)


def test_noise_of_seed_and_prompt_counts_once_and_gives_power() -> None:
    """The sum that counts it twice finds a difference of three standard errors in fewer repetitions."""
    for seeds, gain in ((3, 1.1), (5, 1.05)):
        noise, errors = training_seeds.draws(np.random.default_rng(1), seeds, 0.3, 5.0)
        lead = 3 * np.sqrt((0.3 + 5) / seeds + 1)
        power = {name: np.mean(noise + lead > half) for name, half in training_seeds.half_widths(errors, 0.05).items()}
        assert power["ours"] > gain * power["before"]


def test_two_seeds_need_two_prompts_and_sets_the_same_seeds() -> None:
    for bad in ([np.zeros((1, 9))], [np.zeros((3, 1))], [np.zeros((2, 9)), np.zeros((3, 9))], []):
        with pytest.raises(MgsrError):
            seed_test(bad)
    assert [len(term) for term in variance_components(TABLE, AXES)] == [1, 1, 1, 2, 2, 2, 3]
    assert set(combinations(AXES, 2)) <= set(variance_components(TABLE, AXES))
