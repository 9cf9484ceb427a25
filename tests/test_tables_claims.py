"""Claims: planted effects are found, absent ones are not, and what was not run says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mgsr.config.base import SECOND_ROW
from mgsr.errors import MgsrError
from mgsr.tables import claims
from mgsr.tables.claims import FAILS, HOLDS, MET, NOT_ALL, NOT_MET, NOT_RUN, OF_THESE, UNDECIDED, Finding, Judgement
from mgsr.tables.decisions import compare
from tests.tables_support import SET_TITLES, SETS, edit_lines, plan_claims, plant, plant_evaluation, plant_exposure, shown

LEVELS = {"sft": 50.0, "kd": 50.0, "distillm": 53.0, "mgsr": 60.0}
REST = {"sft_continued": 50.0, "seqkd": 49.0, "imitkd": 48.0, "gkd": 51.0, "minillm": 52.0}


def scores(level: float, *, spread: float = 1.0, seed: int = 0, prompts: int = 60) -> dict[str, Any]:
    """Prompts of one difficulty for all systems, and each system's own deviation from it."""
    shared, own = np.random.default_rng(7), np.random.default_rng([seed, int(level * 100)])
    return {name: level + 5 * shared.standard_normal(prompts) + spread * own.standard_normal(prompts) for name in SETS}


def judged(root: Path, **tables: Any) -> pd.DataFrame:
    """claims.csv; `tables`: rows or specs by name."""
    values = [value if isinstance(value, dict) else shown(name, value) for name, value in tables.items()]
    plan_claims(root, *values, note="A note.")
    claims.write_claims(root, "claims")
    return pd.read_csv(root / "tables/claims.csv", keep_default_na=False)


def text_of(root: Path) -> str:
    return (root / "tables/claims.md").read_text()


def hardest(frame: pd.DataFrame, claim: str, protocol: str = "plain", method: str = "") -> dict[Any, Any]:
    chosen = frame[(frame["claim"] == claim) & (frame["protocol"] == protocol) & frame["hardest"]]
    chosen = chosen[chosen["method"] == method] if method else chosen
    assert len(chosen) == 1
    return dict(chosen.to_dict("records")[0])


def table1(
    root: Path, levels: Mapping[str, float] = LEVELS, spread: float = 1.0, seeds: Sequence[int] = (10,)
) -> list[dict[str, Any]]:
    return [
        plant(root, name, scores(level, spread=spread, seed=seed - 10), title=name.upper(), seed=seed)
        for name, level in levels.items()
        for seed in seeds
    ]


def test_a_planted_effect_is_found_against_the_best_of_the_baselines(tmp_path: Path) -> None:
    line = hardest(judged(tmp_path, table1=table1(tmp_path, LEVELS | REST)), "above_baselines")
    assert line["verdict"] == HOLDS + OF_THESE and line["against"] == "distillm"
    assert (line["compared"], line["expected"], line["training_seeds"]) == (8, 8, 1)
    ours, theirs = (np.mean([values.mean() for values in scores(LEVELS[name]).values()]) for name in ("mgsr", "distillm"))
    assert float(line["effect"]) == pytest.approx(ours - theirs, abs=1e-3)
    assert float(line["gain_percent"]) == pytest.approx(100 * (ours / theirs - 1), abs=1e-2)
    differences = [a - b for a, b in zip(scores(60.0).values(), scores(53.0).values(), strict=True)]
    error = np.sqrt(sum(part.var() / len(part) for part in differences)) / 2
    assert float(line["high"]) - float(line["low"]) == pytest.approx(2 * 1.96 * error, rel=0.05)
    text = text_of(tmp_path)
    assert "DISTILLM (8 of 8 compared)" in text and "A note." in text
    assert r"\begin{table}" in (tmp_path / "tables/claims.tex").read_text()


def test_below_one_baseline_is_enough_to_fail(tmp_path: Path) -> None:
    line = hardest(judged(tmp_path, table1=table1(tmp_path, LEVELS | {"distillm": 63.0})), "above_baselines")
    assert line["verdict"] == FAILS + OF_THESE and float(line["high"]) < 0


def test_three_training_seeds_speak_of_methods(tmp_path: Path) -> None:
    for seeds, expected in (((10, 20), HOLDS + OF_THESE), ((10, 20, 30), HOLDS)):
        rows = table1(tmp_path, LEVELS | REST | {"mgsr": 90.0}, seeds=seeds)
        line = hardest(judged(tmp_path, table1=rows), "above_baselines")
        assert (line["verdict"], line["training_seeds"]) == (expected, len(seeds))


def test_a_claim_does_not_hold_before_all_methods_are_compared(tmp_path: Path) -> None:
    assert hardest(judged(tmp_path, table1=table1(tmp_path)), "above_baselines")["verdict"] == NOT_ALL
    assert "DISTILLM (3 of 8 compared)" in text_of(tmp_path)


def test_the_control_must_be_beaten_too(tmp_path: Path) -> None:
    """Three points above MGSR, which is above every baseline."""
    line = hardest(judged(tmp_path, table1=table1(tmp_path, LEVELS | REST | {"sft_continued": 63.0})), "above_baselines")
    assert line["verdict"] == FAILS + OF_THESE and line["against"] == "sft_continued"


@pytest.mark.parametrize(
    ("teacher", "floor", "cut", "warning", "reason"),
    [
        (80.0, 20.0, 0.1, [], MET),
        (80.0, 20.0, 0.1, [{"name": "scrg_hurts", "message": ""}], MET),  # a result, no failure
        (50.0, 20.0, 0.1, [], "TEACHER is not above SFT"),
        (80.0, 50.0, 0.1, [], "SFT is not above the floor"),
        (80.0, 20.0, 0.1, [{"name": "band_collapsed", "message": ""}], "MGSR: band_collapsed"),
        (80.0, 20.0, 0.2, [], "references are cut: Dolly, Self-Instruct"),
    ],
)
def test_preconditions(teacher: float, floor: float, cut: float, warning: list[Any], reason: str, tmp_path: Path) -> None:
    rows = table1(tmp_path, {name: level for name, level in (LEVELS | REST).items() if name != "mgsr"})
    rows.append(plant(tmp_path, "teacher", scores(teacher, seed=1), role="teacher", title="TEACHER"))
    rows.append(plant(tmp_path, "mgsr", scores(60.0), title="MGSR", card={"warnings": warning}))
    plant_evaluation(tmp_path, "floor", "floor", scores(floor, seed=2), protocols=["plain"], cut=cut)
    line = hardest(judged(tmp_path, table1=rows), "above_baselines")
    assert line["precondition"] == reason
    assert line["verdict"] == (HOLDS + OF_THESE if reason == MET else NOT_MET)


def test_both_readings_of_mgsr_are_judged_where_both_are_rows(tmp_path: Path) -> None:
    """As printed it is below a baseline, and no verdict of the other reading covers that."""
    frame = judged(tmp_path, table1=table1(tmp_path, LEVELS | REST | {"mgsr_as_printed": 48.0}))
    assert hardest(frame, "above_baselines", method="mgsr")["verdict"] == HOLDS + OF_THESE
    printed = hardest(frame, "above_baselines", method="mgsr_as_printed")
    assert printed["verdict"] == FAILS + OF_THESE and "MGSR as printed is above every baseline" in text_of(tmp_path)
    assert {line["method"] for line in frame[frame["claim"] == "gain_over_sft"].to_dict("records")} == {
        "mgsr",
        "mgsr_as_printed",
    }


def test_no_difference_is_undecided_and_says_what_would_decide(tmp_path: Path) -> None:
    frame = judged(tmp_path, table1=table1(tmp_path, {"sft": 50.0, "mgsr": 50.05}, spread=4.0))
    line = hardest(frame, "above_baselines")
    assert line["verdict"] == UNDECIDED and float(line["low"]) < 0 < float(line["high"])
    assert line["prompts_at_most"] == "n/a" and float(line["detectable"]) > 0
    assert f"| at least {int(float(line['prompts_at_least'])):,} |" in text_of(tmp_path)


def test_equal_answers_are_not_above(tmp_path: Path) -> None:
    same = scores(50.0)
    rows = [plant(tmp_path, name, same) for name in ("mgsr", "mgsr_three_passes")]
    assert hardest(judged(tmp_path, table4c=rows), "three_passes_add")["verdict"] == FAILS + OF_THESE


@pytest.mark.parametrize(("level", "expected"), [(60.0, HOLDS + OF_THESE), (57.5, UNDECIDED), (55.0, FAILS + OF_THESE)])
def test_fifteen_per_cent_is_the_bar_over_sft(tmp_path: Path, level: float, expected: str) -> None:
    """Scores proportional to SFT's but for a little noise: 1.15 times 50 is 57.5."""
    base = {name: 50.0 + np.linspace(-9, 9, 40) for name in SETS}
    noise = np.resize([0.4, -0.4], 40)
    rows = [plant(tmp_path, "sft", base), plant(tmp_path, "mgsr", {n: v * level / 50 + noise for n, v in base.items()})]
    line = hardest(judged(tmp_path, table1=rows), "gain_over_sft")
    assert line["verdict"] == expected
    assert float(line["effect"]) == pytest.approx(level - 57.5, abs=1e-3)
    assert float(line["gain_percent"]) == pytest.approx(100 * (level / 50 - 1), abs=1e-3)


def test_what_was_not_run_says_so(tmp_path: Path) -> None:
    rows = [plant(tmp_path, "mgsr_without_scrg", scores(50.0)), plant(tmp_path, "mgsr", scores(52.0))]
    frame = judged(tmp_path, table1=table1(tmp_path), table4c=rows)
    for claim in ("above_losses", "above_generation", "three_passes_add", "five_passes_add", "span_adds"):
        assert hardest(frame, claim)["verdict"] == NOT_RUN
    assert hardest(frame, "less_exposure_bias", "plain sampling")["verdict"] == NOT_RUN
    assert {claim.key for claim in claims.CLAIMS} | {claims.EXPOSURE.key} == set(frame["claim"])


def test_components_are_judged_on_the_sets_of_their_table(tmp_path: Path) -> None:
    """Another set does not enter: there, span consistency would do great harm."""
    rows = []
    for name, level in {"mgsr_without_span": 50.0, "mgsr": 52.0}.items():
        harm = -20.0 if name == "mgsr" else 0.0
        rows.append(plant(tmp_path, name, scores(level) | {"unni": 50 + harm + np.linspace(-1, 1, 40)}))
    frame = judged(tmp_path, table2=shown("table2", rows, test_sets={**SET_TITLES, "unni": "UnNI"}))
    line = hardest(frame, "span_adds")
    assert line["verdict"] == HOLDS + OF_THESE and line["sets"] == "dolly, self_instruct"


def test_training_seeds_widen_the_interval(tmp_path: Path) -> None:
    """A gain that one seed has and another has not is no gain of the method."""
    rows = []
    for seed, gain in ((10, 6.0), (20, -2.0), (30, 0.0)):
        rows.append(plant(tmp_path, "sft", scores(50.0, seed=seed), seed=seed))
        rows.append(plant(tmp_path, "mgsr", scores(50.0 + gain, seed=seed), seed=seed))
    line = hardest(judged(tmp_path, table1=rows), "above_baselines")
    assert line["verdict"] == UNDECIDED and line["training_seeds"] == 3


def test_verdicts_are_wrong_at_their_nominal_rate_only() -> None:
    """No difference anywhere, eight comparisons that share one side, as a claim's do; and one alone."""
    generator, trials, several, alone = np.random.default_rng(0), 600, claims.CLAIMS[0], claims.CLAIMS[1]
    wrong, single = ({HOLDS: 0, FAILS: 0, UNDECIDED: 0} for _ in range(2))
    for _ in range(trials):
        ours, theirs = generator.standard_normal(30), generator.standard_normal((len(several.against), 30))
        findings = [
            Finding(name, name, "", compare([(ours - other)[None]], resamples=1000))
            for name, other in zip(several.against, theirs, strict=True)
        ]
        wrong[Judgement(several, "plain", "tiny", "MGSR", tuple(findings), 3, MET).verdict] += 1
        single[Judgement(alone, "plain", "tiny", "MGSR", tuple(findings[:1]), 3, MET).verdict] += 1
    bound = {tail: stats.binom.ppf(0.999, trials, tail) for tail in (0.025, 0.05)}
    assert wrong[HOLDS] <= bound[0.025] and wrong[FAILS] <= bound[0.05]
    assert max(single[HOLDS], single[FAILS]) <= bound[0.025]
    assert min(single[HOLDS], single[FAILS]) > 0  # the rate is not 0 either


def test_exposure_bias_by_brute_force(tmp_path: Path) -> None:
    generator, prompts, lengths = np.random.default_rng(1), 50, [2, 4]
    teacher = 1 + generator.random((prompts, 4))
    own = {"minillm": 1.3 * teacher, "distillm": 1.5 * teacher, "mgsr": 1.2 * teacher + 0.05 * generator.random((prompts, 4))}
    rows = []
    for name, student in own.items():
        digest = plant_exposure(tmp_path, f"tiny-{name}-10", lengths=lengths, student=student, teacher=teacher)
        rows.append(plant(tmp_path, name, scores(50.0), title=name, exposure=digest))
    frame = judged(tmp_path, table4a=rows)
    lines = frame[frame["claim"] == "less_exposure_bias"]
    assert len(lines) == 4 and set(lines["verdict"]) == {HOLDS + OF_THESE}
    for line in lines.to_dict("records"):
        length = int(line["sets"].rpartition(" ")[2])
        excess = {name: sum(own[name][:, i].mean() for i in range(length)) for name in own}
        expected = sum(teacher[:, i].mean() for i in range(length))
        gap = 100 * (excess[line["against"]] - excess["mgsr"]) / expected
        assert float(line["effect"]) == pytest.approx(gap, abs=0.05)  # the jackknife takes its bias off
        assert float(line["low"]) < gap < float(line["high"])
    assert hardest(frame, "less_exposure_bias", "plain sampling")["against"] == "minillm"


def test_a_student_that_is_farther_from_the_teacher_everywhere_has_not_less_exposure_bias(tmp_path: Path) -> None:
    """Its ExAccErr is lower, but only because it is as far from the teacher on the teacher's own prefixes."""
    generator, rows = np.random.default_rng(1), []
    teacher = 1 + generator.random((50, 4))
    for name, (factor, excess) in {"minillm": (1.0, 1.5), "distillm": (1.0, 1.5), "mgsr": (2.0, 1.2)}.items():
        values = {"teacher": factor * teacher, "student": factor * excess * teacher + 0.01 * generator.random((50, 4))}
        digest = plant_exposure(tmp_path, f"tiny-{name}-10", lengths=[2, 4], **values)
        rows.append(plant(tmp_path, name, scores(50.0), title=name, exposure=digest))
    line = hardest(judged(tmp_path, table4a=rows), "less_exposure_bias", "plain sampling")
    assert line["verdict"] == FAILS + OF_THESE
    assert float(line["claim_low"]) > 0 > float(line["accumulated_effect"]) and float(line["accumulated_p"]) < 0.05


def _without_fourth(line: dict[str, Any]) -> dict[str, Any]:
    line["student"]["counts"][3] = 0
    return line


def test_a_length_that_no_sample_reaches_takes_no_part(tmp_path: Path) -> None:
    teacher, rows = 1 + np.random.default_rng(1).random((50, 4)), []
    for name, factor in {"minillm": 1.5, "mgsr": 1.2}.items():
        run = f"tiny-{name}-10"
        digest = plant_exposure(tmp_path, run, lengths=[2, 4], student=factor * teacher, teacher=teacher)
        edit_lines(tmp_path / f"exposure/{digest}/prompts.jsonl", _without_fourth)
        rows.append(plant(tmp_path, name, scores(50.0), exposure=digest))
    frame = judged(tmp_path, table4a=rows)
    line = hardest(frame, "less_exposure_bias", "plain sampling")
    assert line["verdict"] == NOT_ALL and line["sets"] == "Dolly, length 2"
    undefined = frame[(frame["claim"] == "less_exposure_bias") & ~frame["hardest"]].to_dict("records")
    assert [(other["sets"], other["effect"]) for other in undefined] == [("Dolly, length 4", "n/a")]


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    files = [tmp_path / "tables" / f"claims.{kind}" for kind in ("csv", "md", "tex")]
    written = []
    for _ in range(2):
        judged(tmp_path, table1=table1(tmp_path))
        written.append([file.read_bytes() for file in files])
    assert written[0] == written[1]


def test_claims_need_a_table(tmp_path: Path) -> None:
    with pytest.raises(MgsrError, match="no table to judge"):
        judged(tmp_path)


def test_sets_of_ones_own_leave_the_papers_claims_not_run(tmp_path: Path) -> None:
    rows = [plant(tmp_path, name, {"mine": scores(50.0)["dolly"]}) for name in ("mgsr", "mgsr_without_span")]
    assert (
        hardest(judged(tmp_path, table2=shown("table2", rows, test_sets={"mine": "Mine"})), "span_adds")["verdict"] == NOT_RUN
    )


def test_a_baselines_second_row_is_a_baseline(tmp_path: Path) -> None:
    """KD of SFT weight 0 is above MGSR, KD of weight 1 is not."""
    levels = {**LEVELS, f"kd{SECOND_ROW}": 65.0, f"mgsr{SECOND_ROW}": 70.0}
    line = hardest(judged(tmp_path, table1=table1(tmp_path, levels)), "above_baselines")
    assert line["verdict"] == FAILS + OF_THESE and line["against"] == f"kd{SECOND_ROW}"
    assert (line["compared"], line["expected"]) == (3, 8)
