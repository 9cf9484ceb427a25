"""Open checks: planted effects stand in CSV, figure and sentences; what is undecided says so."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mgsr.errors import MgsrError
from mgsr.tables import open_checks
from mgsr.tables.checks.check import Line
from mgsr.tables.results import AVERAGE
from tests.tables_support import NOTE, PROBED, SETS, load, plan, plant, plant_probe, shown


def scores(level: float, seed: int, *, spread: float = 2.0, prompts: int = 80) -> dict[str, Any]:
    shared, own = np.random.default_rng(3), np.random.default_rng(seed)
    return {name: level + 6 * shared.standard_normal(prompts) + spread * own.standard_normal(prompts) for name in SETS}


def variants(root: Path, levels: dict[str, float], *, family: str = "tiny", **more: Any) -> list[dict[str, Any]]:
    return [
        plant(root, name, scores(level, place), family=family, title=name.replace("_", " "), **more)
        for place, (name, level) in enumerate(levels.items())
    ]


def answered(root: Path, name: str, rows: Any, **more: Any) -> tuple[pd.DataFrame, str]:
    """The CSV and the Markdown; the figure is parsed."""
    plan(root, shown(name, rows, **more))
    open_checks.write_check(root, name)
    folder = root / "open_checks"
    assert ET.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")
    frame = pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values=["n/a"])
    assert list(frame.columns) == list(Line.__dataclass_fields__)
    text = (folder / f"{name}.md").read_text()
    assert f"({name}.svg)" in text and NOTE in text
    sentences = open_checks.build_check(load(root, name)).sentences
    assert " ".join(sentences) == answer(text) and len(sentences) <= 3
    for sentence in sentences:
        assert len(sentence.split()) <= 50 and sentence[0].isupper() and sentence.endswith(".") and "{" not in sentence
    return frame, text


def answer(text: str) -> str:
    """The sentences, which stand before the figure."""
    return text.split("\n\n")[1]


def only(frame: pd.DataFrame, **where: Any) -> dict[Any, Any]:
    for column, value in where.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1, frame
    return dict(frame.to_dict("records")[0])


LEVELS = {"mgsr": 50.0, "mgsr_better": 53.0, "mgsr_worse": 46.0, "mgsr_same": 50.0}


def test_sensitivity_tells_planted_effects_from_none(tmp_path: Path) -> None:
    frame, text = answered(tmp_path, "sensitivity", variants(tmp_path, LEVELS))
    lines = {
        name: only(frame, measure="rouge_l_difference", subject=f"mgsr {name}", protocol="plain", scope=AVERAGE)
        for name in ("better", "worse", "same")
    }
    assert lines["better"]["low"] > 0 > lines["worse"]["high"] and lines["better"]["p"] < 0.05
    assert lines["same"]["low"] < 0 < lines["same"]["high"] and lines["same"]["p"] > 0.05
    assert lines["better"]["prompts"] == 160 and lines["better"]["against"] == "mgsr"
    assert "Of 3 variants, 1 are above MGSR, 1 below, 1 undecided" in answer(text)
    assert "mgsr worse -" in answer(text) and "held-out forward KL" in answer(text)
    seen = float(answer(text).split("can show about ")[1].split(" ")[0])
    spread = (
        np.sqrt(2) * 2.0 * np.sqrt(1 / 160)
    )  # of the average of two sets of 80 prompts, each difference of deviation 2 sqrt 2
    # power 0.8 (0.842) at Holm's strictest level for three variants: two-sided 0.05 / 3
    assert seen == pytest.approx((stats.norm.isf(0.05 / 6) + 0.842) * spread, rel=0.15)


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [plant(tmp_path, name, scores(level, 0), protocols=["plain"]) for name, level in LEVELS.items()]
    files = [tmp_path / "open_checks" / f"sensitivity.{kind}" for kind in ("csv", "md", "svg")]
    written = []
    for _ in range(2):
        answered(tmp_path, "sensitivity", rows)
        written.append([file.read_bytes() for file in files])
    assert written[0] == written[1]


def test_a_further_metric_adds_its_scores_alone(tmp_path: Path) -> None:
    rows = [plant(tmp_path, name, scores(level, 0), halved=["mine:half"]) for name, level in LEVELS.items()]
    ranking, text = answered(tmp_path, "sensitivity", rows)
    frame, both = answered(tmp_path, "sensitivity", rows, metrics=["rouge_l", "mine:half"])
    pd.testing.assert_frame_equal(frame[frame["measure"] != "mine:half"].reset_index(drop=True), ranking)
    scope = {"subject": "mgsr", "protocol": "plain", "scope": "dolly"}
    half, whole = (only(frame, measure=measure, **scope)["value"] for measure in ("mine:half", "rouge_l"))
    assert half == pytest.approx(whole / 2, abs=1e-3) and text == both


def test_the_average_agrees_with_a_t_test(tmp_path: Path) -> None:
    """One set only, so that the average is that set's mean."""
    rows = [plant(tmp_path, name, {"dolly": scores(level, i)["dolly"]}) for i, (name, level) in enumerate(LEVELS.items())]
    frame, _ = answered(tmp_path, "sensitivity", rows, test_sets={"dolly": "Dolly"})
    line = only(frame, measure="rouge_l_difference", subject="mgsr_better", protocol="plain", scope=AVERAGE)
    values = scores(53.0, 1)["dolly"] - scores(50.0, 0)["dolly"]
    expected = stats.ttest_1samp(values, 0.0).confidence_interval()
    assert (line["low"], line["high"]) == pytest.approx((expected.low, expected.high), abs=0.06)


def test_clipping_range_by_test_set_and_speed(tmp_path: Path) -> None:
    """The learned band is within 5 % of its best at step 20, the fixed ones at 10 and 40."""
    rises = {
        "mgsr": [(10, 20.0, 3.0), (20, 29.0, 2.0), (40, 30.0, 2.5)],
        "mgsr_fixed": [(10, 30.0, 1.0), (20, 29.0, 2.0), (40, 20.0, 3.0)],
        "mgsr_rank": [(10, 1.0, 3.0), (20, 2.0, 2.0), (40, 30.0, 1.0)],
    }
    rows = []
    for place, (name, curve) in enumerate(rises.items()):
        lines = [{"kind": "validation", "step": step, "rouge_l": score, "loss": loss} for step, score, loss in curve]
        planted = scores(50.0, place)
        planted["dolly"] = planted["dolly"] + (4.0 if name == "mgsr_fixed" else 0.0)
        rows.append(plant(tmp_path, name, planted, title=name.replace("_", " "), metrics=lines))
    frame, text = answered(tmp_path, "clipping_range", rows)
    reached = frame[frame["measure"] == "step_of_95_percent_of_best_rouge_l"].set_index("subject")["value"].to_dict()
    lowest = frame[frame["measure"] == "step_of_lowest_loss"].set_index("subject")["value"].to_dict()
    assert reached == {"mgsr": 20, "mgsr fixed": 10, "mgsr rank": 40}
    assert lowest == {"mgsr": 20, "mgsr fixed": 10, "mgsr rank": 40}
    assert "1 of 4 differences are decided (mgsr fixed on Dolly)" in answer(text)
    assert "ROUGE-L at step 20, the other ranges at steps 10 to 40" in answer(text)
    assert "Highest on average is mgsr fixed with +" in answer(text) and "| the learned band | 20 | 20 |" in text


def test_small_students_by_size(tmp_path: Path) -> None:
    rows = []
    for family, parameters, gain in (("large", 2_000_000, 1.0), ("small", 1_000, 6.0)):
        levels = {"sft": 40.0, "mgsr_without_scrg": 40.0, "mgsr": 40.0 + gain}
        rows += variants(tmp_path, levels, family=family, card={"parameters": parameters})
    frame, text = answered(tmp_path, "small_students", rows)
    line = only(frame, measure="rouge_l_difference", family="small", against="sft", protocol="plain")
    assert line["value"] == pytest.approx(6.0, abs=0.6) and line["low"] > 0
    assert "gain over sft is decided for 2 of 2 students: small (1,000 parameters) +" in answer(text)
    apart = answer(text).split("largest's: over sft ")[1].split("; ")[0]
    assert apart.startswith("+") and "undecided" not in apart
    assert text.index("| small | 1,000 |") < text.index("| large | 2,000,000 |")


def test_injected_errors(tmp_path: Path) -> None:
    frame, text = answered(tmp_path, "injected_errors", [], probes=plant_probe(tmp_path))
    planted = only(frame, measure="rate_minus_original_rate", subject="teacher_nll", scope="drift, at")
    values = np.array([float(i % 5 != 0) - float(i % 5 == 1) for i in range(PROBED)])
    half = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5  # normal approximation
    assert planted["value"] == pytest.approx(values.mean(), abs=1e-5) and planted["prompts"] == PROBED
    assert (planted["low"], planted["high"]) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    lost = only(frame, measure="rate_minus_original_rate", subject="kl_student_teacher", scope="drift, at")
    assert lost["low"] < 0 < lost["high"]
    gain = only(frame, measure="gain", subject="rouge_l", scope="repetition, at_error")
    assert gain["value"] == pytest.approx(np.mean([5 + i % 2 - i % 3 for i in range(PROBED)]), abs=1e-5)
    assert set(frame[frame["measure"] == "prompts_without_this_error"]["value"]) == {3}
    above = only(frame, measure="rate_above_random", subject="teacher_nll", scope="drift, at")
    assert above["value"] == pytest.approx(np.mean([float(i % 5 != 0) - float(i % 5 == 0) for i in range(PROBED)]), abs=1e-5)
    printed, best, helped = answer(text).split(". ")
    assert "for no kind of error; in points: " in printed and printed.count("0.0 (undecided)") == 3
    assert "teacher_nll (" in best and best.count("+60.0") == 3 and "undecided" not in best
    assert "ROUGE-L by +4.5 " in helped and "changes by +0.50 " in helped and "undecided" not in helped
    assert (
        "| drift | teacher_nll | +60.0 (" in text and text.count("+60.0 (") >= 6
    )  # beside the twin's and a random candidate's


def test_span_priors(tmp_path: Path) -> None:
    rows = variants(tmp_path, {"mgsr": 50.0, "mgsr_span_fixed": 45.0, "mgsr_span_sentences": 50.0})
    frame, text = answered(tmp_path, "span_priors", rows, probes=plant_probe(tmp_path))
    assert "Of 2 variants, 0 are above phrases, 1 below, 1 undecided" in answer(text)
    term = only(frame, measure="span_term", subject="phrases", scope="reference, poem")
    assert term["value"] == pytest.approx(np.mean([0.3 + 0.01 * (i % 7) for i in range(1, PROBED, 2)]), abs=1e-5)
    covered = only(frame, measure="covered", subject="fixed", scope="scrg, all")
    assert covered["value"] == 0.8
    assert "phrases 80 % (4.0 tokens a span)" in answer(text) and re.search(r"from 0\.1\d+ \(qa\) to 0\.3\d+ \(poem\)", text)
    assert "undecided" not in answer(text).rpartition("by category")[2]


def test_diversity(tmp_path: Path) -> None:
    """MGSR's answers say everything twice; the rollouts of the probe lose variety too."""
    varied = [f"a{i} b{i} c{i} d{i} e{i} f{i}" for i in range(11)]
    repeated = [f"{' '.join(text.split()[:5])} {' '.join(text.split()[:5])}" for text in varied]
    rows = [
        plant(tmp_path, "mgsr_without_scrg", scores(50.0, 0), title="unrevised", texts=varied),
        plant(tmp_path, "mgsr", scores(50.0, 1), title="MGSR", texts=repeated),
        plant(tmp_path, "mgsr_five_passes", scores(50.0, 2), title="five", texts=varied),
    ]
    frame, text = answered(tmp_path, "diversity", rows, probes=plant_probe(tmp_path))
    line = only(frame, measure="answers_repetition_difference", subject="MGSR", protocol="plain")
    assert line["value"] == pytest.approx(2 / 7, abs=1e-5)  # 7 four-grams, of which the last two came before
    assert only(frame, measure="answers_repetition_difference", subject="five", protocol="plain")["value"] == 0
    assert only(frame, measure="repetition_difference", subject="scrg")["low"] > 0.25
    assert "SCRG changes 1 of 5 measures" in answer(text) and "repetition +0.305" in answer(text)
    assert "| scrg minus student | 0.000 (0.000 to 0.000) |" in text
    assert "without SCRG in 5 of 10 comparisons" in answer(text) and "; ..." in answer(text)


def test_a_check_that_does_not_exist(tmp_path: Path) -> None:
    plan(tmp_path, shown("unknown", variants(tmp_path, {"mgsr": 1.0})))
    with pytest.raises(MgsrError, match="no open check 'unknown'"):
        open_checks.write_check(tmp_path, "unknown")


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    _, text = answered(tmp_path, "sensitivity", variants(tmp_path, {"mgsr": 50.0}))
    assert "No variant was compared" in answer(text)
