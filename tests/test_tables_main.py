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
from mgsr.tables import main_table, paper, registry, scores
from mgsr.tables.render import Bold, latex, markdown, number
from mgsr.tables.results import load_cells
from mgsr.tables.statistics import Comparison, Spread, compare, mean_and_deviations
from tests import results_tree


@pytest.fixture
def cells_path(tmp_path: Path) -> Path:
    return results_tree.build(tmp_path / "results")


def _edit(path: Path, change: Any) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_table1_numbers(cells_path: Path, tmp_path: Path) -> None:
    registry.write(cells_path, tmp_path / "tables")
    frame: Any = pd.read_csv(tmp_path / "tables/table1.csv").set_index(["protocol", "method"])
    assert list(frame.index.unique("protocol")) == ["published", "plain"]
    assert list(frame.loc["plain"].index) == ["teacher", "sft", "distillm", "mgsr", "floor"]
    mgsr = frame.loc["plain", "mgsr"]
    assert mgsr["dolly_mean"] == mgsr["average_mean"] == 55.0
    assert mgsr["dolly_training_deviation"] == pytest.approx(2**0.5, abs=1e-4)  # 54 and 56
    assert mgsr["dolly_decoding_deviation"] == pytest.approx(0.5**0.5, abs=1e-4)
    assert mgsr["training_seconds"] == 25.0 and list(frame.columns[-2:]) == ["training_seconds", "evaluation_seconds"]
    assert pd.isna(frame.loc["plain", "teacher"]["dolly_training_deviation"])
    assert frame.loc["published", "floor"]["dolly_mean"] == results_tree.FLOOR_LEVEL
    printed = [name for name in frame.columns if name.endswith(("_paper", "_difference"))]
    assert len(printed) == 2 * 3 and frame.loc["plain", "floor"][printed].isna().all()
    assert "n/a" in (tmp_path / "tables/table1.csv").read_text()


def test_table1_markdown(cells_path: Path, tmp_path: Path) -> None:
    registry.write(cells_path, tmp_path)
    text = (tmp_path / "table1.md").read_text()
    assert "preset smoke" in text and "Tiny models rank no methods." in text
    assert "| MGSR | **55.00 ± 0.71 (1.41)** | **55.00 ± 0.71 (1.41)** | **55.00 ± 0.71 (1.41)** | 0.50 |" in text
    assert text.count("**") == 2 * 3 * 2 and "[" not in text
    assert "| Teacher | 80.00 ± 0.71 (n/a)" in text
    assert "| DistiLLM † |" in text and scores.MARK_NOTE in text
    assert f"| {main_table.FLOOR_TITLE} | 20.00" in text
    assert "tiny, plain: teacher − SFT on Dolly 30.00, 95 % interval 30.00 to 30.00 (excludes 0;" in text
    assert "tiny, plain: teacher − floor on Dolly 60.00" in text
    assert "DistiLLM − SFT: -0.2000 nats a token (0.7000 against 0.9000; lower)" in text


def test_table1_bytes_do_not_depend_on_timings(cells_path: Path, tmp_path: Path) -> None:
    registry.write(cells_path, tmp_path / "first")
    for card in cells_path.parent.glob("runs/*/card.json"):
        _edit(card, lambda value: value["timings"].update(total=99.9))
    registry.write(cells_path, tmp_path / "second")
    for name in ("table1.md", "table1.tex"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    frames: Any = [pd.read_csv(tmp_path / folder / "table1.csv") for folder in ("first", "second")]
    timed = [name for name in frames[0].columns if name.endswith("_seconds")]
    assert not frames[0].equals(frames[1])
    pd.testing.assert_frame_equal(*(frame.drop(columns=timed) for frame in frames))


def test_paper_numbers_stand_beside_the_families_it_names(tmp_path: Path) -> None:
    cells = load_cells(results_tree.build(tmp_path, preset="paper", family="GPT2"))
    frame: Any = main_table.build(cells).set_index(["protocol", "method"])
    mgsr = frame.loc[("plain", "mgsr")]
    assert mgsr["dolly_paper"] == 26.5614 and mgsr["dolly_difference"] == pytest.approx(55 - 26.5614)
    assert frame.loc[("plain", "teacher"), "average_paper"] == 22.5575
    assert pd.isna(frame.loc[("plain", "floor"), "dolly_paper"])
    text = markdown(registry.document(cells))
    assert "[26.56; 28.44]" in text and "probably a slip" in text and "28.7513" in text
    assert set(frame["paper_family"]) == {"GPT2"} and scores.OTHER_PAIR_NOTE not in text


def test_other_families_have_the_papers_smallest_pair_apart(cells_path: Path) -> None:
    cells = load_cells(cells_path)
    frame: Any = main_table.build(cells).set_index(["protocol", "method"])
    mgsr = frame.loc[("plain", "mgsr")]
    assert mgsr["paper_family"] == "GPT2" and mgsr["dolly_paper"] == 26.5614
    assert mgsr["dolly_difference"] == pytest.approx(55 - 26.5614)
    document = registry.document(cells)
    (block,) = (block for block in document.blocks if block.heading.startswith("protocol plain: the paper's numbers of GPT2"))
    assert block.rows[-1][:2] == ("MGSR", "26.56; 28.44") and len(block.rows) == 4  # all but the floor
    text = markdown(document)
    assert "[" not in text.replace(scores.PAPER_NOTE, "") and scores.OTHER_PAIR_NOTE in text and "probably a slip" in text


def test_differences_to_the_best_baseline(cells_path: Path) -> None:
    """DistiLLM is the best baseline everywhere; MGSR and the other baseline are compared with it, the teacher is not."""
    frame: Any = main_table.build(load_cells(cells_path)).set_index(["protocol", "method"]).loc["plain"]
    assert set(frame["dolly_best_baseline"]) == set(frame["average_best_baseline"]) == {"distillm"}
    for name in ("dolly", "self_instruct", "average"):
        column = f"{name}_minus_best_baseline"
        assert frame.loc["mgsr", column] == pytest.approx(3.0) and frame.loc["sft", column] == pytest.approx(-2.0)
        assert frame.loc[["teacher", "distillm", "floor"], column].isna().all()
        assert frame.loc["mgsr", f"{column}_low"] == pytest.approx(3.0)  # the same on every prompt and seed
        assert frame.loc["mgsr", f"{column}_p"] < 0.001
    single, holms = (frame.loc["mgsr", f"{name}_minus_best_baseline_p"] for name in ("average", "dolly"))
    assert holms == pytest.approx(2 * single, rel=1e-6)  # two sets; all but one in 10,000 sign patterns are below
    text = markdown(registry.document(load_cells(cells_path)))
    assert "| best baseline | DistiLLM | DistiLLM | DistiLLM |" in text
    assert "| MGSR | 3.00 (3.00 to 3.00; p < 0.001) |" in text and "| Teacher | 25" not in text


def _noisy(shift: float) -> dict[str, dict[str, Any]]:
    """MGSR above DistiLLM by `shift` on average, though not on each prompt."""
    methods = {name: dict(facts) for name, facts in results_tree.METHODS.items()}
    methods["mgsr"] |= {"level": methods["distillm"]["level"] + shift, "spread": 2.0}
    return methods


def test_ties_are_marked_and_never_bold(tmp_path: Path) -> None:
    cells = load_cells(results_tree.build(tmp_path, methods=_noisy(0.2), seeds=(10,)))
    frame: Any = main_table.build(cells).set_index(["protocol", "method"]).loc["plain"]
    assert frame.loc["mgsr", "dolly_mark"] == frame.loc["distillm", "dolly_mark"] == "tie"
    assert frame.loc["sft", "dolly_mark"] == "" == frame.loc["teacher", "dolly_mark"]
    assert frame.loc["mgsr", "dolly_minus_best_baseline_p"] > 0.05
    decide = frame.loc["mgsr", "dolly_minus_best_baseline_rows_to_decide"]
    slope = 3 * np.linspace(-1, 1, results_tree.PROMPTS)
    assert decide == pytest.approx((2.8016 * slope.std(ddof=1) / 0.2) ** 2, rel=0.01)
    text = markdown(registry.document(cells))
    assert "**" not in text and "| MGSR | 51.20 ± 0.71 (n/a) = |" in text and scores.ONE_SEED_NOTE in text
    assert re.search(r"\| MGSR \| 0.20 \(.*; p 0\.\d+\) = \|", text)


def test_differences_equal_pandas_scipy_and_statsmodels(tmp_path: Path) -> None:
    """From rows.jsonl alone, without this package: MGSR minus DistiLLM by set, with uneven noise."""
    path = results_tree.build(tmp_path, methods=_noisy(1.2), seeds=(10,))
    generator = np.random.default_rng(4)
    for rows in tmp_path.glob("evaluations/*/rows.jsonl"):
        lines = [json.loads(line) for line in rows.read_text().splitlines()]
        shift = {"dolly": 0.0, "self_instruct": 0.4}
        lines = [line | {"score": line["score"] + shift[line["set"]] + generator.normal(0, 4)} for line in lines]
        rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    frame: Any = main_table.build(load_cells(path)).set_index(["protocol", "method"]).loc["plain"]
    scores_by_row: list[Any] = [
        pd.read_json(tmp_path / f"evaluations/e-{name}10/rows.jsonl", lines=True)
        .query("protocol == 'plain'")
        .groupby(["set", "id"])["score"]
        .mean()
        for name in ("mgsr", "distillm")
    ]
    differences = scores_by_row[0] - scores_by_row[1]
    p = []
    for name in results_tree.SETS:
        values, line = differences[name].to_numpy(), frame.loc["mgsr"]
        assert line[f"{name}_minus_best_baseline"] == pytest.approx(values.mean())
        bounds = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval
        assert line[f"{name}_minus_best_baseline_low"] == pytest.approx(bounds.low, abs=0.05)
        assert line[f"{name}_minus_best_baseline_high"] == pytest.approx(bounds.high, abs=0.05)
        test = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1)
        p.append(test.pvalue)
    holms = multipletests(p, method="holm")[1]
    assert [frame.loc["mgsr", f"{name}_minus_best_baseline_p"] for name in results_tree.SETS] == pytest.approx(holms, abs=0.02)
    assert 0.001 < max(p) < 0.5  # so that Holm's correction shows


def test_no_effect_is_bold_as_often_as_the_level_says() -> None:
    """Six equal rows, many times over: the highest is rarely above every other."""
    generator, bold = np.random.default_rng(1), 0
    for _ in range(200):
        groups = [_Scores(str(i), {"dolly": generator.normal(30, 5, 60)}) for i in range(6)]
        bold += "best" in scores.best_and_tied(groups, ("dolly",), ("dolly",), "plain").values()  # type: ignore[arg-type]
    assert bold <= 0.05 * 200
    groups = [_Scores(str(i), {"dolly": generator.normal(30 + 4 * (i == 2), 5, 60)}) for i in range(6)]
    marks = scores.best_and_tied(groups, ("dolly",), ("dolly",), "plain")  # type: ignore[arg-type]
    assert marks == {("2", "dolly"): "best"}


class _Scores:
    """A group as far as `best_and_tied` needs one: a score a prompt."""

    def __init__(self, method: str, rows: dict[str, Any]) -> None:
        self.method, self.rows = method, rows

    def spreads(self, sets: tuple[str, ...], protocol: str) -> dict[str, Spread]:
        return {name: mean_and_deviations([[self.rows[name].mean()]]) for name in sets}

    def compare(self, other: _Scores, sets: tuple[str, ...], protocol: str) -> Comparison:
        return compare([(self.rows[name] - other.rows[name])[None] for name in sets], resamples=400)


def test_a_checkpoint_is_compared_and_never_bold(tmp_path: Path) -> None:
    methods = {name: dict(facts) for name, facts in results_tree.METHODS.items()}
    methods["released"] = {
        "title": "MiniLLM, released",
        "role": "checkpoint",
        "level": 70.0,
        "policy": "dataset",
        "share": None,
    }
    path = results_tree.build(tmp_path, methods=methods, seeds=(10,))
    _edit(
        tmp_path / "runs/released10/card.json", lambda card: card.update(validation={"step": 0, "loss": None, "rouge_l": None})
    )
    frame: Any = main_table.build(load_cells(path)).set_index(["protocol", "method"]).loc["plain"]
    assert frame.loc["released", "dolly_mean"] == 69.0 and frame.loc["released", "dolly_mark"] == ""
    assert frame.loc["mgsr", "dolly_mark"] == "best" and frame.loc["released", "dolly_minus_best_baseline"] == pytest.approx(18)


def test_a_baselines_second_row_may_be_the_best_baseline(tmp_path: Path) -> None:
    methods = {**results_tree.METHODS, f"sft{SECOND_ROW}": {**results_tree.METHODS["sft"], "title": "second", "level": 54.0}}
    methods[f"mgsr{SECOND_ROW}"] = {**results_tree.METHODS["mgsr"], "title": "MGSR, SFT weight 0", "level": 60.0}
    cells = load_cells(results_tree.build(tmp_path, methods=methods))
    frame: Any = main_table.build(cells).set_index(["protocol", "method"]).loc["plain"]
    assert frame.loc["mgsr", "dolly_best_baseline"] == f"sft{SECOND_ROW}"
    assert frame.loc[f"mgsr{SECOND_ROW}", "dolly_minus_best_baseline"] == pytest.approx(6)
    assert "| best baseline | second | second | second |" in markdown(registry.document(cells))


def test_learning_rates_chosen_from_a_grid_stand_below_the_table(cells_path: Path) -> None:
    assert "learning rates" not in markdown(registry.document(load_cells(cells_path)))
    grid = [{"learning_rate": rate} for rate in (1e-4, 2e-4, 4e-4)]
    for run, rate in (("sft10", 1e-4), ("sft20", 2e-4), ("mgsr10", 2e-4), ("mgsr20", 2e-4)):
        path = cells_path.parent / f"runs/{run}/card.json"
        _edit(path, lambda card, rate=rate: card.update(learning_rate=rate, candidates=grid))  # type: ignore[misc]
    cells = load_cells(cells_path)
    text = (
        "tiny: learning rates, chosen by validation from 0.0001, 0.0002, 0.0004: SFT 0.0001, 0.0002; MGSR 0.0002. At an end of "
        "the grid, beyond which a better may lie: 1 of 4 runs."
    )
    assert text in markdown(registry.document(cells))
    frame: Any = main_table.build(cells).set_index(["protocol", "method"]).loc["plain"]
    assert list(frame.loc[["sft", "distillm", "mgsr"], "learning_rate"]) == ["0.0001, 0.0002", "0.001", "0.0002"]


def test_other_groups_numbers_on_request(tmp_path: Path) -> None:
    for family, found in (("GPT2", True), ("tiny", False)):
        path = results_tree.build(tmp_path / family, family=family, other_groups=True)
        text = markdown(registry.document(load_cells(path)))
        assert ("| MiniLLM Table 1 | GPT2 | 1.5B → 0.1B | MiniLLM | 24.60 | 13.20 |" in text) == found
        assert "loss only" not in text
    assert "other groups" not in markdown(registry.document(load_cells(results_tree.build(tmp_path / "no"))))


def test_long_prompts_that_the_floor_kept_are_left_out(cells_path: Path, tmp_path: Path) -> None:
    """The floor knows no tokenizer and so keeps rows that a family drops; a row the floor lacks is an error."""
    rows = cells_path.parent / "evaluations/e-teacher10/rows.jsonl"
    kept = [line for line in rows.read_text().splitlines() if '"dolly-3"' not in line]
    rows.write_text("\n".join(kept) + "\n")
    cells = load_cells(cells_path)
    teacher = cells.groups[0]
    assert main_table.floor_interval(cells, teacher, "plain").rows == results_tree.PROMPTS - 1
    with pytest.raises(MgsrError, match="dolly-3"):  # pitfall 22: SFT answered it
        main_table.checks(cells)
    floor = cells_path.parent / "evaluations/floor-0/rows.jsonl"
    floor.write_text("".join(line + "\n" for line in floor.read_text().splitlines() if '"dolly-5"' not in line))
    with pytest.raises(MgsrError, match="dolly-5"):
        main_table.floor_interval(cells, teacher, "plain")


def test_pitfall_22_uneven_rows_are_an_error(cells_path: Path) -> None:
    rows = cells_path.parent / "evaluations/e-sft10/rows.jsonl"
    rows.write_text("\n".join(rows.read_text().splitlines()[1:]) + "\n")
    with pytest.raises(MgsrError, match="equally often"):
        main_table.checks(load_cells(cells_path))


def test_faults_are_named(cells_path: Path) -> None:
    card = cells_path.parent / "runs/sft10/card.json"
    _edit(card, lambda value: value.update(run="other"))
    with pytest.raises(MgsrError, match="belongs to run other"):
        load_cells(cells_path)
    _edit(card, lambda value: value.update(schema=0))
    with pytest.raises(MgsrError, match="schema 1"):
        load_cells(cells_path)
    with pytest.raises(MgsrError, match="does not exist"):
        load_cells(cells_path.with_name("none.json"))
    _edit(cells_path, lambda value: value.pop("note"))
    with pytest.raises(MgsrError):
        load_cells(cells_path)


def test_missing_score_and_uneven_decoding_seeds(cells_path: Path) -> None:
    summary = cells_path.parent / "evaluations/e-mgsr20/summary.json"
    _edit(summary, lambda value: value.update(scores=value["scores"][1:]))
    with pytest.raises(MgsrError, match="decoding seeds"):
        main_table.build(load_cells(cells_path))
    _edit(summary, lambda value: value.update(scores=[]))
    with pytest.raises(MgsrError, match="no score of set dolly"):
        main_table.build(load_cells(cells_path))


def test_latex_is_escaped(cells_path: Path) -> None:
    text = latex(registry.document(load_cells(cells_path)), "table1")
    assert r"$\pm$" in text and r"DistiLLM $^\dagger$" in text and "±" not in text and "%" not in text.replace(r"\%", "")[1:]
    assert r"& \textbf{55.00 $\pm$ 0.71 (1.41)} &" in text and "**" not in text
    assert text.count(r"\begin{tabular}") == 6 and not re.search(r"(?<!\\)_", text)


def test_bold_text_is_text() -> None:
    assert Bold("1.0") == "1.0" and f"{Bold('1.0')} =" == "1.0 ="


def test_numbers() -> None:
    assert number(-0.0001) == "0.00" and number(None) == "n/a" and number(1.005, 1) == "1.0"


def test_paper_tables() -> None:
    table = paper.table1()
    assert len(table) == 36 and {family for family, _ in table} == set(paper.FAMILIES)
    assert (paper.FOLDER / "README.md").is_file() and len(list(paper.FOLDER.glob("*.csv"))) == 9


def test_tables_import_nothing_heavy() -> None:
    code = (
        "import sys, mgsr.tables.registry, mgsr.tables.tracking;"
        "sys.exit(' '.join({'torch', 'transformers', 'mlflow', 'matplotlib', 'datasets'} & sys.modules.keys()) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
