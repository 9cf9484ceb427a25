from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from mgsr.config.base import SECOND_ROW
from mgsr.errors import MgsrError
from mgsr.storage import seal_folder
from mgsr.tables import main_table, paper, scores
from mgsr.tables.decisions import Comparison, compare
from mgsr.tables.registry import write_table
from mgsr.tables.render import Block, Bold, Document, csv_text, latex, markdown, number
from mgsr.tables.statistics import Spread, mean_and_deviations
from tests.tables_support import (
    ENTRIES,
    FLOOR_LEVEL,
    METHODS,
    PROMPTS,
    SETS,
    document,
    edit,
    edit_lines,
    frame,
    load,
    plan,
    plant_table,
)


def test_table1_numbers(planted: Path) -> None:
    table = frame(planted)
    assert list(table.index.unique("protocol")) == ["published", "plain"] and set(table["metric"]) == {"rouge_l"}
    assert list(table.loc["plain"].index) == ["teacher", "sft", "distillm", "mgsr", "floor"]
    mgsr = table.loc["plain", "mgsr"]
    assert mgsr["dolly_mean"] == mgsr["average_mean"] == 55.0
    assert mgsr["dolly_training_deviation"] == pytest.approx(2**0.5, abs=1e-4)  # 54 and 56
    assert mgsr["dolly_decoding_deviation"] == pytest.approx(0.5**0.5, abs=1e-4)
    assert mgsr["training_seconds"] == 25.0 and list(table.columns[-2:]) == ["training_seconds", "evaluation_seconds"]
    assert pd.isna(table.loc["plain", "teacher"]["dolly_training_deviation"])
    floor = table.loc["published", "floor"]
    assert floor["dolly_mean"] == FLOOR_LEVEL and floor["training_seeds"] == 0
    printed = [name for name in table.columns if name.endswith(("_paper", "_difference"))]
    assert len(printed) == 2 * 3 and table.loc["plain", "floor"][printed].isna().all()
    assert "n/a" in (planted / "tables/table1.csv").read_text()


def test_table1_markdown(planted: Path) -> None:
    write_table(planted, "table1")
    text = (planted / "tables/table1.md").read_text()
    assert "preset smoke" in text and "Tiny models rank no methods." in text
    assert "| MGSR | **55.00 ± 0.71 (1.41)** | **55.00 ± 0.71 (1.41)** | **55.00 ± 0.71 (1.41)** | 0.50 |" in text
    assert text.count("**") == 2 * 3 * 2 and "[" not in text
    assert "| Teacher | 80.00 ± 0.71 (n/a)" in text
    assert "| DistiLLM † |" in text and scores.MARK_NOTE in text
    assert "| answers borrowed from other rows of the same kind | 20.00" in text
    first = "tiny, plain: teacher − SFT, with 95 % intervals: Dolly 30.00 (17.29 to 42.71; above; 40 prompts); Self-Instruct 30"
    assert first in text and "limits cut" not in text
    assert "tiny, plain: teacher − floor, with 95 % intervals: Dolly 60.00" in text
    assert "DistiLLM − SFT: -0.2000 nats a token, interval -0.2000 to -0.2000 (0.7000 against 0.9000; lower, Holm" in text


def test_heldout_divergences_are_undecided_where_prompts_disagree(tmp_path: Path) -> None:
    """Ratios of sums over prompts: the interval is about that of Student's t on the ratio's residuals."""
    plant_table(tmp_path, seeds=(10,))
    generator = np.random.default_rng(3)
    tokens, noise = generator.integers(3, 20, 60), generator.normal(0, 0.3, 60)
    for name, level in (("sft", 1.0), ("distillm", 1.0 + 0.05 + noise), ("mgsr", 0.5 + noise)):
        table = np.stack([level * tokens, tokens, tokens], axis=1).tolist()
        (tmp_path / f"evaluations/e-tiny-{name}-10/heldout.json").write_text(json.dumps(dict(enumerate(table))))
        seal_folder(tmp_path / f"evaluations/e-tiny-{name}-10")
    checks = [check for check in main_table.checks(load(tmp_path)) if "held-out" in check]
    assert "DistiLLM" in checks[0] and "undecided, Holm over 2" in checks[0] and "lower, Holm" in checks[1]
    weighted = (noise + 0.05) * tokens / tokens.mean()
    residuals = (noise + 0.05 - weighted.mean()) * tokens / tokens.mean()
    half = stats.t.isf(0.025, 59) * residuals.std(ddof=1) / 60**0.5
    low, high = map(float, re.findall(r"interval (\S+) to (\S+) ", checks[0])[0])
    assert (low, high) == pytest.approx((weighted.mean() - half, weighted.mean() + half), abs=0.15 * half)


def test_a_further_metric_is_shown_and_judges_nothing(tmp_path: Path) -> None:
    plant_table(tmp_path / "one")
    plant_table(tmp_path, halved=["my_metrics:exact (match)"])
    rouge, other = (part for _, part in frame(tmp_path).groupby("metric", sort=False))
    pd.testing.assert_frame_equal(rouge, frame(tmp_path / "one"))
    assert set(other["metric"]) == {"my_metrics:exact (match)"} and list(other.index) == list(rouge.index)
    for name in ("dolly_mean", "average_mean", "dolly_training_deviation", "dolly_decoding_deviation"):
        assert other[name].to_numpy() == pytest.approx(rouge[name].to_numpy() / 2, abs=1e-4, nan_ok=True)
    assert other.filter(regex="_best_baseline|_paper$").isna().all(axis=None)
    assert not other.filter(regex="_bold$").any(axis=None)
    text = (tmp_path / "tables/table1.md").read_text()
    head, block = text.split("## protocol plain, exact (match)\n")
    assert (
        "| MGSR | 27.50 ± 0.35 (0.71) |" in block
        and "**" not in block.split("\n- ")[0]
        and "## " not in block.split("## protocol published: answers")[0]
    )
    assert "ROUGE-L and exact (match): `mean" in text and scores.METRICS_NOTE.split("{")[0] in text and "exact (match)" in head


def test_table1_bytes_do_not_depend_on_timings(planted: Path) -> None:
    first, texts = frame(planted), {kind: (planted / f"tables/table1.{kind}").read_bytes() for kind in ("md", "tex")}
    for card in planted.glob("runs/*/card.json"):
        edit(card, lambda value: value["timings"].update(total=99.9))
    second = frame(planted)
    assert texts == {kind: (planted / f"tables/table1.{kind}").read_bytes() for kind in texts}
    timed = [name for name in first.columns if name.endswith("_seconds")]
    assert not first.equals(second)
    pd.testing.assert_frame_equal(first.drop(columns=timed), second.drop(columns=timed))


def test_paper_numbers_stand_beside_the_families_it_names(tmp_path: Path) -> None:
    plant_table(tmp_path, family="GPT2", preset="paper")
    table = frame(tmp_path)
    mgsr = table.loc["plain", "mgsr"]
    assert mgsr["dolly_paper"] == 26.5614 and mgsr["dolly_difference"] == pytest.approx(55 - 26.5614)
    assert table.loc[("plain", "teacher"), "average_paper"] == 22.5575
    assert pd.isna(table.loc[("plain", "floor"), "dolly_paper"])
    text = markdown(document(tmp_path))
    assert "[26.56; 28.44]" in text and "probably a slip" in text and "28.7513" in text
    assert set(table["paper_family"]) == {"GPT2"} and scores.OTHER_PAIR_NOTE not in text


def test_other_families_have_the_papers_smallest_pair_apart(planted: Path) -> None:
    mgsr = frame(planted).loc["plain", "mgsr"]
    assert mgsr["paper_family"] == "GPT2" and mgsr["dolly_paper"] == 26.5614
    assert mgsr["dolly_difference"] == pytest.approx(55 - 26.5614)
    page = document(planted)
    (block,) = (block for block in page.shown if block.heading.startswith("protocol plain: the paper's numbers of GPT2"))
    assert block.rows[-1][:2] == ("MGSR", "26.56; 28.44") and len(block.rows) == 4  # all but the floor
    text = markdown(page)
    assert "[" not in text.replace(scores.PAPER_NOTE, "") and scores.OTHER_PAIR_NOTE in text and "probably a slip" in text


def test_a_table_of_ones_own_has_no_number_of_the_paper(planted: Path) -> None:
    plan(planted, {**plant_table(planted, family="GPT2"), "name": "mine", "title": "My table", "other_groups": True})
    table = frame(planted, "mine")
    assert table.filter(regex="_paper$|_difference$|paper_family").isna().all(axis=None)
    text = (planted / "tables/mine.md").read_text()
    assert text.startswith("# My table (preset") and "[" not in text and "paper" not in text.lower()


def test_differences_to_the_best_baseline(planted: Path) -> None:
    """DistiLLM is the best baseline everywhere; MGSR and the other baseline are compared with it, the teacher is not."""
    table = frame(planted).loc["plain"]
    assert set(table["dolly_best_baseline"]) == set(table["average_best_baseline"]) == {"distillm"}
    for name in (*SETS, "average"):
        column = f"{name}_minus_best_baseline"
        assert table.loc["mgsr", column] == pytest.approx(3.0) and table.loc["sft", column] == pytest.approx(-2.0)
        assert table.loc[["teacher", "distillm", "floor"], column].isna().all()
        assert table.loc["mgsr", f"{column}_low"] == pytest.approx(3.0)  # the same on every prompt and seed
        # MGSR and the bold mark in three columns are six questions; all but one in 10,001 sign patterns are below
        assert table.loc["mgsr", f"{column}_p"] == pytest.approx(6 / 10_001, abs=1e-4)
        assert table.loc["sft", [f"{column}_{part}" for part in ("low", "high", "p", "detectable")]].isna().all()
    text = markdown(document(planted))
    assert "| best baseline | DistiLLM | DistiLLM | DistiLLM |" in text
    assert (
        "| MGSR | 3.00 (3.00 to 3.00; p < 0.001; detectable n/a) |" in text
        and "| SFT | -2.00 | -2.00 |" in text
        and "| Teacher | 25" not in text
    )


def _noisy(shift: float) -> dict[str, dict[str, Any]]:
    """MGSR above DistiLLM by `shift` on average, though not on each prompt."""
    return METHODS | {"mgsr": {**METHODS["mgsr"], "level": METHODS["distillm"]["level"] + shift, "spread": 2.0}}


def test_ties_are_marked_and_never_bold(tmp_path: Path) -> None:
    plant_table(tmp_path, methods=_noisy(0.2), seeds=(10,))
    table = frame(tmp_path).loc["plain"]
    assert not table.filter(regex="_bold$").any(axis=None)
    assert table.loc["mgsr", "dolly_minus_best_baseline_p"] > 0.05
    slope = 3 * np.linspace(-1, 1, PROMPTS)  # normal approximation, six questions
    seen = (stats.norm.isf(0.025 / 6) + stats.norm.isf(0.2)) * slope.std(ddof=1) / np.sqrt(PROMPTS)
    assert table.loc["mgsr", "dolly_minus_best_baseline_detectable"] == pytest.approx(seen, rel=0.1)
    text = markdown(document(tmp_path))
    assert "**" not in text and "| MGSR | 51.20 ± 0.71 (n/a) |" in text and scores.ONE_SEED_NOTE in text
    assert re.search(r"\| MGSR \| 0.20 \(.*; p 1\.000; detectable \d\.\d\d\) = \|", text)


def set_means(scores: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """Make a summary's scores the means of the rows."""
    for score in scores:
        part = [row for row in rows if all(row[key] == score[key] for key in ("set", "protocol", "decoding_seed"))]
        score["metrics"]["rouge_l"] = float(np.mean([row["scores"]["rouge_l"] for row in part]))


def test_differences_equal_pandas_scipy_and_statsmodels(tmp_path: Path) -> None:
    """From rows.jsonl alone, without this package: MGSR minus DistiLLM by set, with uneven noise."""
    plant_table(tmp_path, methods=_noisy(1.2), seeds=(10,))
    generator = np.random.default_rng(5)
    shift = {"dolly": 0.0, "self_instruct": 0.4}
    for rows in sorted(tmp_path.glob("evaluations/*/rows.jsonl")):
        edit_lines(
            rows,
            lambda row: row | {"scores": {"rouge_l": row["scores"]["rouge_l"] + shift[row["set"]] + generator.normal(0, 4)}},
        )
        lines = [json.loads(line) for line in rows.read_text().splitlines()]
        edit(rows.with_name("summary.json"), lambda summary, lines=lines: set_means(summary["scores"], lines))
    line = frame(tmp_path).loc["plain", "mgsr"]
    by_row: list[Any] = []
    for name in ("mgsr", "distillm"):
        rows_frame = pd.read_json(tmp_path / f"evaluations/e-tiny-{name}-10/rows.jsonl", lines=True)
        rows_frame["score"] = [value["rouge_l"] for value in rows_frame["scores"]]
        by_row.append(rows_frame.query("protocol == 'plain'").groupby(["set", "id"])["score"].mean())
    p = []
    for name in SETS:
        values = (by_row[0] - by_row[1])[name].to_numpy()
        assert line[f"{name}_minus_best_baseline"] == pytest.approx(values.mean(), abs=1e-4)
        alpha = line[f"{name}_minus_best_baseline_alpha"]
        low, _ = stats.ttest_1samp(values, 0).confidence_interval(1 - alpha)
        _, high = stats.ttest_1samp(values, 0).confidence_interval(1 - alpha / 2)  # below one of two
        assert line[f"{name}_minus_best_baseline_low"] == pytest.approx(low, abs=0.2)
        assert line[f"{name}_minus_best_baseline_high"] == pytest.approx(high, abs=0.2)
        p.append(values)
    p.append(np.concatenate(p))  # sets of one size: the average
    found = [stats.permutation_test((v,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1).pvalue for v in p]
    holms = multipletests(2 * found, method="holm")[1]  # and once more for the bold mark
    assert [line[f"{name}_minus_best_baseline_p"] for name in (*SETS, "average")] == pytest.approx(holms[:3], abs=0.03)
    assert 0.001 < max(found) < 0.5  # so that Holm's correction shows


class _Scores:
    """A method as far as `judge` needs one: a score a prompt."""

    role = "student"

    def __init__(self, method: str, rows: Any) -> None:
        self.method, self.rows = method, rows

    def spreads(self, metric: str, sets: tuple[str, ...], protocol: str) -> dict[str, Spread]:
        return {"dolly": mean_and_deviations([[self.rows.mean()]])}

    def compare(self, other: _Scores, metric: str, sets: tuple[str, ...], protocol: str) -> Comparison:
        return compare([(self.rows - other.rows)[None]], resamples=400)


def test_no_effect_is_bold_as_often_as_the_level_says(planted: Path) -> None:
    """Six equal rows, many times over: the highest is rarely above every other."""
    generator, results = np.random.default_rng(1), load(planted)

    def bold(*levels: float) -> list[str]:
        methods: Any = [_Scores(str(i), generator.normal(level, 5, 60)) for i, level in enumerate(levels)]
        judged = scores.judge_rows(methods, lambda name: False, ("dolly",), results, "plain")
        return [method.method for method in judged.bold.values()]

    assert sum(map(len, (bold(*[30.0] * 6) for _ in range(200)))) <= 0.05 * 200
    assert bold(30, 30, 34, 30, 30, 30) == ["2"] and bold(30) == []


def test_a_checkpoint_is_compared_and_never_bold(tmp_path: Path) -> None:
    released = {"title": "released", "role": "checkpoint", "level": 70.0, "policy": "dataset", "share": None}
    plant_table(tmp_path, methods={**METHODS, "released": released}, seeds=(10,))
    edit(tmp_path / "runs/tiny-released-10/card.json", lambda card: card.update(validation={"loss": None, "rouge_l": None}))
    table = frame(tmp_path).loc["plain"]
    assert table.loc["released", "dolly_mean"] == 69.0 and not table.loc["released", "dolly_bold"]
    assert table.loc["mgsr", "dolly_bold"] and table.loc["released", "dolly_minus_best_baseline"] == pytest.approx(18)


def test_answers_are_shown_beside_their_scores(tmp_path: Path) -> None:
    """Their length, the share that a limit cut, and what their ROUGE-L is made of; for every row and set, the floor's too."""
    plant_table(tmp_path)
    for name in ("e-tiny-mgsr-10", "floor"):
        edit(
            tmp_path / "evaluations" / name / "summary.json",
            lambda summary: [part["answers"].update(length=5.0, cut=0.5) for part in summary["scores"]],
        )
    table = frame(tmp_path).loc["plain"]
    columns = [f"dolly_{name}" for name in ("length", "cut", "precision", "recall")]
    assert table.loc["mgsr", columns].tolist() == [4.0, 0.25, 60.0, 40.0]  # one of two training seeds
    assert table.loc["floor", columns].tolist() == [5.0, 0.5, 60.0, 40.0]
    assert "| MGSR | 4.0; 25 %; 60.0, 40.0 |" in (tmp_path / "tables/table1.md").read_text()


def test_long_prompts_that_the_floor_kept_are_left_out_row_may_be_the_best_baseline(tmp_path: Path) -> None:
    methods = {**METHODS, f"sft{SECOND_ROW}": {**METHODS["sft"], "title": "second", "level": 54.0}}
    methods[f"mgsr{SECOND_ROW}"] = {**METHODS["mgsr"], "title": "MGSR, SFT weight 0", "level": 60.0}
    plant_table(tmp_path, methods=methods)
    table = frame(tmp_path).loc["plain"]
    assert table.loc["mgsr", "dolly_best_baseline"] == f"sft{SECOND_ROW}"
    assert table.loc[f"mgsr{SECOND_ROW}", "dolly_minus_best_baseline"] == pytest.approx(6)
    assert "| best baseline | second | second | second |" in markdown(document(tmp_path))


def test_learning_rates_chosen_from_a_grid_stand_below_the_table(planted: Path) -> None:
    assert "learning rate" not in markdown(document(planted))
    grid = [{"learning_rate": rate} for rate in (1e-4, 2e-4, 4e-4)]
    for run, rate in (("sft-10", 1e-4), ("sft-20", 2e-4), ("mgsr-10", 2e-4), ("mgsr-20", 2e-4)):
        edit(planted / f"runs/tiny-{run}/card.json", lambda card, rate=rate: card.update(learning_rate=rate, candidates=grid))
    text = (
        "tiny: validation chose the learning rate from 0.0001, 0.0002, 0.0004: SFT 0.0001, 0.0002; MGSR 0.0002. 1 of 4 runs "
        "were given an end of the grid, beyond which a better rate may lie."
    )
    assert text in markdown(document(planted))
    rates = frame(planted).loc["plain"].loc[["sft", "distillm", "mgsr"], "learning_rate"]
    assert list(rates) == ["0.0001, 0.0002", "0.001", "0.0002"]


@pytest.mark.parametrize(("family", "asked", "there"), [("GPT2", True, True), ("tiny", True, False), ("GPT2", False, False)])
def test_other_groups_numbers_on_request(family: str, asked: bool, there: bool, tmp_path: Path) -> None:
    plant_table(tmp_path, family=family, other_groups=asked)
    text = markdown(document(tmp_path))
    assert ("| MiniLLM Table 1 | GPT2 | 1.5B → 0.1B | MiniLLM | 24.60 | 13.20 |" in text) == there
    assert ("other groups' numbers" in text) == there and "loss only" not in text


def _without(name: str, path: Path) -> None:
    edit_lines(path, lambda row: None if row["id"] == name else row)


def test_sets_whose_references_do_not_fit_are_named(planted: Path) -> None:
    """The floor's answers are references, cut as answers are."""
    shares = {"dolly": 0.91, "self_instruct": 0.1}
    edit(
        planted / "evaluations/floor/summary.json",
        lambda summary: [part["answers"].update(cut=shares[part["set"]]) for part in summary["scores"]],
    )
    assert "tiny: the length limits cut more than a tenth of the references: Dolly 91 %." in main_table.checks(load(planted))


def test_pitfall_22_uneven_rows_are_an_error(planted: Path) -> None:
    _without("dolly-3", planted / "evaluations/e-tiny-teacher-10/rows.jsonl")
    with pytest.raises(MgsrError, match="dolly-3"):  # SFT answered it
        main_table.checks(load(planted))
    rows = planted / "evaluations/e-tiny-sft-10/rows.jsonl"
    rows.write_text("\n".join(rows.read_text().splitlines()[1:]) + "\n")
    with pytest.raises(MgsrError, match=r"e-tiny-sft-10 is damaged: rows\.jsonl has other contents"):
        load(planted)
    seal_folder(rows.parent)
    with pytest.raises(MgsrError, match="equally often"):
        main_table.checks(load(planted))


def test_faults_are_named(planted: Path) -> None:
    card = planted / "runs/tiny-sft-10/card.json"
    edit(card, lambda value: value.update(run="other"))
    with pytest.raises(MgsrError, match="belongs to run other"):
        load(planted)
    edit(card, lambda value: value.update(schema=0))
    with pytest.raises(MgsrError, match="schema 1"):
        load(planted)
    with pytest.raises(MgsrError, match="does not exist"):
        load(planted, "table2")
    edit(planted / "plan/table1.json", lambda value: value.update(rows=[]))
    with pytest.raises(MgsrError, match="table1 names no run"):
        load(planted)
    edit(planted / "plan/table1.json", lambda value: value.pop("note"))
    with pytest.raises(MgsrError, match=r"table1.json.*note"):
        load(planted)


def test_missing_score_and_uneven_decoding_seeds(planted: Path) -> None:
    summary = planted / "evaluations/e-tiny-mgsr-20/summary.json"
    edit(summary, lambda value: value.update(scores=value["scores"][1:]))
    with pytest.raises(MgsrError, match="decoding seeds"):
        document(planted)
    edit(summary, lambda value: value.update(scores=[]))
    with pytest.raises(MgsrError, match="no rouge_l of set dolly"):
        document(planted)
    edit(planted / "plan/table1.json", lambda value: value.update(metrics=["rouge_l", "other"]))
    with pytest.raises(MgsrError, match="no other of set dolly"):
        load(planted).methods[0].spreads("other", SETS, "plain")


# --- text -------------------------------------------------------------------------------------------------------------


def test_latex_is_escaped(planted: Path) -> None:
    text = latex(document(planted), "table1")
    assert r"$\pm$" in text and r"DistiLLM $^\dagger$" in text and "±" not in text and "%" not in text.replace(r"\%", "")[1:]
    assert r"& \textbf{55.00 $\pm$ 0.71 (1.41)} &" in text and "**" not in text
    assert text.count(r"\begin{tabular}") == 8 and not re.search(r"(?<!\\)_", text)


@pytest.mark.parametrize(("families", "header"), [(("a", "a"), "| method |"), (("a", "b"), "| family | method |")])
def test_a_document_of_one_family_does_not_name_it(families: tuple[str, str], header: str) -> None:
    blocks = tuple(Block(f"block of {name}", ("family", "method"), ((name, "m"),)) for name in families)
    text = markdown(Document("t", (*blocks, Block("other", ("source",), (("x",),))), ()))
    assert text.count(header) == 2 and "| source |" in text


def test_csv_has_one_spelling_for_each_value() -> None:
    lines = [
        {"a": None, "b": 1.0, "c": True, "d": "x, y", "e": 3},
        {"a": float("nan"), "b": -0.00001, "c": False, "d": "", "e": 0},
    ]
    assert csv_text(lines) == 'a,b,c,d,e\nn/a,1.0000,True,"x, y",3\nn/a,-0.0000,False,,0\n'
    assert csv_text([{"a": 1234567.0}], "%.6g") == "a\n1.23457e+06\n"


def test_bold_text_is_text() -> None:
    assert Bold("1.0") == "1.0" and f"{Bold('1.0')} =" == "1.0 ="


def test_numbers() -> None:
    assert number(-0.0001) == "0.00" and number(None) == "n/a" and number(1.005, 1) == "1.0"


def test_paper_tables() -> None:
    table = paper.printed("table1")
    assert set(table) == set(paper.FAMILIES) and all(len(methods) == 9 for methods in table.values())
    assert paper.FILES.keys() == ENTRIES.keys(), "one file for each table, by its name"
    assert (paper.FOLDER / "README.md").is_file() and all(paper.notes(name) for name in paper.FILES)


def test_tables_import_nothing_heavy() -> None:
    code = (
        "import sys, mgsr.tables.registry, mgsr.tables.tracking;"
        "heavy = {'torch', 'transformers', 'mlflow', 'matplotlib', 'datasets', 'pandas'};"
        "sys.exit(' '.join(heavy & sys.modules.keys()) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
