from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from mgsr.errors import MgsrError
from mgsr.tables import ablation_table, efficiency_table, exposure_table, paper, registry
from mgsr.tables.render import markdown
from mgsr.tables.results import load_cells
from tests import results_tree

TABLES = yaml.safe_load((Path(__file__).parents[1] / "workflow/tables.yaml").read_text())["tables"]


def _methods(table: str) -> dict[str, dict[str, Any]]:
    """A table's own rows, each one point below the next; MGSR has all components."""
    full = results_tree.METHODS["mgsr"]
    rows = {name: dict(full, title=name, level=50.0 + place) for place, name in enumerate(TABLES[table])}
    return rows | {"mgsr": dict(full, level=50.0 + list(rows).index("mgsr"))}


def _frame(cells_path: Path, folder: Path) -> Any:
    registry.write(cells_path, folder)
    table = cells_path.name.partition(".")[0]
    assert {file.suffix for file in folder.glob(f"{table}.*")} == {".csv", ".md", ".tex"}
    return pd.read_csv(folder / f"{table}.csv")


@pytest.mark.parametrize(
    ("table", "family", "method", "column", "printed"),
    [
        ("table2", "OPT", "mgsr_without_span", "dolly", 26.9012),
        ("table2", "OPT", "mgsr", "dolly_validation", 31.2575),
        ("table3a", "OPT", "mgsr_off_policy", "self_instruct", 17.2574),
        ("table3a", "OPT", "mgsr_without_scrg", "dolly", 26.4667),
        ("table3b", "OPT", "mgsr_dense_only", "dolly", 19.505),
        ("table3c", "OPT", "mgsr_without_dac_kl", "dolly", 25.6688),
        ("table3c", "OPT", "mgsr_total_variation", "self_instruct", 14.6138),
        ("table4c", "OpenLLaMA2", "mgsr_three_passes", "average", 28.91),
    ],
)
def test_each_row_meets_the_papers_number(
    table: str, family: str, method: str, column: str, printed: float, tmp_path: Path
) -> None:
    path = results_tree.build(tmp_path, table=table, family=family, methods=_methods(table), seeds=(10,))
    frame = ablation_table.build(load_cells(path)).set_index(["protocol", "method"])
    line: Any = frame.loc[("plain", method)]
    assert line[f"{column}_paper"] == printed
    assert line[f"{column}_difference"] == pytest.approx(line[f"{column}_mean"] - printed)


@pytest.mark.parametrize("table", ablation_table.ABLATIONS)
def test_no_number_of_the_paper_is_left_out(table: str) -> None:
    """Every row that the paper prints has its method among the table's rows, and the columns are the paper's."""
    printed = paper.ablation(table)
    assert {method for _, method in printed} <= set(TABLES[table])
    assert all(set(scores) == set(ablation_table.ABLATIONS[table].columns) for scores in printed.values())
    assert len({family for family, _ in printed}) == 1


@pytest.mark.parametrize("table", ablation_table.ABLATIONS)
def test_rows_are_compared_with_the_whole_method(table: str, tmp_path: Path) -> None:
    path = results_tree.build(tmp_path / "results", table=table, methods=_methods(table))
    frame = _frame(path, tmp_path / "tables").set_index(["protocol", "method"]).loc["published"]
    pair = "OpenLLaMA2" if table == "table4c" else "OPT"  # the only one that the paper prints
    assert list(frame.index) == TABLES[table] and set(frame["paper_family"]) == {pair}
    text = (tmp_path / "tables" / f"{table}.md").read_text()
    assert f"protocol published: the paper's numbers of {pair}; ours minus them" in text and "[" not in text
    for name in ablation_table.ABLATIONS[table].tests:
        for place, method in enumerate(TABLES[table]):
            expected = place - TABLES[table].index("mgsr")
            found = frame.loc[method, f"{name}_minus_mgsr"]
            assert pd.isna(found) if method == "mgsr" else found == pytest.approx(expected)
        assert frame.loc[TABLES[table][-1], f"{name}_mark"] == "best"
    text = (tmp_path / f"tables/{table}.md").read_text()
    assert "difference to MGSR (95 % interval)" in text and "In square brackets" not in text
    assert (ablation_table.VALIDATION_NOTE in text) == (table != "table4c")


def test_components_are_ticked_from_the_runs(tmp_path: Path) -> None:
    path = results_tree.build(tmp_path / "results", table="table2", family="OPT")
    frame = _frame(path, tmp_path).set_index(["protocol", "method"])
    assert frame.loc[("plain", "mgsr"), ["scrg", "dac_kl", "span"]].all()
    assert not frame.loc[("plain", "distillm"), ["scrg", "dac_kl", "span"]].any()
    text = (tmp_path / "table2.md").read_text()
    assert "| ✓ | ✓ | ✓ | MGSR | 60.00 ± n/a (1.41) [31.26; 28.74] | **55.00" in text
    assert "| – | – | – | DistiLLM † |" in text and "Table 2 were not readable" in text


def test_a_table_without_the_whole_method_compares_nothing(tmp_path: Path) -> None:
    methods = {name: facts for name, facts in _methods("table3b").items() if name != "mgsr"}
    text = markdown(registry.document(load_cells(results_tree.build(tmp_path, table="table3b", methods=methods))))
    assert "difference to MGSR" not in text and "| mgsr_target_only |" in text


def test_losses_of_other_groups_on_request(tmp_path: Path) -> None:
    path = results_tree.build(tmp_path, table="table3c", family="GPT2", methods=_methods("table3c"), other_groups=True)
    text = markdown(registry.document(load_cells(path)))
    assert "| WASD Table 2 | GPT2 | 1.5B → 0.1B | tvd | 24.08 |" in text and "full method" not in text


def test_an_unknown_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(MgsrError, match="for sensitivity"):
        registry.write(results_tree.build(tmp_path, table="sensitivity"), tmp_path)
    assert set(registry.DOCUMENTS) == set(registry.TABLES) == set(TABLES)


# --- Table 4a ---------------------------------------------------------------------------------------------------------


def test_exposure_bias_by_length(tmp_path: Path) -> None:
    methods = {name: facts for name, facts in results_tree.METHODS.items() if name != "teacher"}
    frame = _frame(results_tree.build(tmp_path / "results", table="table4a", methods=methods), tmp_path)
    frame = frame.set_index(["method", "length"])
    mgsr = frame.loc[("mgsr", 10)]
    assert mgsr["excess_error"] == pytest.approx(11.0) and mgsr["excess_error_training_deviation"] == pytest.approx(
        0.2828, abs=1e-4
    )
    assert mgsr["running_student"] == 0.45 and mgsr["running_teacher"] == 0.25 and pd.isna(mgsr["excess_error_low"])
    assert pd.isna(frame.loc[("mgsr", 20), "excess_error"]) and frame.loc[("mgsr", 20), "running_student"] == 0
    text = (tmp_path / "table4a.md").read_text()
    assert "| MGSR | 5.5 (0.1), running 0.90 (1.00) | 11.0 (0.3), running 0.45 (0.25) | n/a, running 0.00 (0.00) |" in text
    assert "10 prompts of Dolly's test rows, 2 samples each" in text and "| DistiLLM † |" in text
    assert "| MGSR | 4 | 16 | 18 |" in text and "| SFT | 4" not in text  # at the paper's lengths, 50, 100 and 200


def test_exposure_bias_of_one_seed_has_its_interval_and_the_papers_number(tmp_path: Path) -> None:
    methods = {"mgsr": results_tree.METHODS["mgsr"]}
    path = results_tree.build(tmp_path, table="table4a", family="OpenLLaMA2", methods=methods, seeds=(10,))
    for place, length in enumerate((50, 100, 200)):
        text = (tmp_path / "exposure/mgsr10/summary.json").read_text()
        (tmp_path / "exposure/mgsr10/summary.json").write_text(text.replace(f"{[5, 10, 20][place]},", f"{length},", 1))
    frame: Any = exposure_table.build(load_cells(path)).set_index("length")
    assert frame.loc[50, "excess_error_paper"] == 4 and frame.loc[50, "excess_error_difference"] == pytest.approx(1.4)
    assert frame.loc[100, "excess_error_low"] == 1.0 and frame.loc[100, "excess_error_high"] == 12.0
    text = markdown(registry.document(load_cells(path)))
    assert (
        "5.4 (0.0 to 9.0) [4; 1.4], running" in text and exposure_table.PAIR_NOTE in text and exposure_table.NO_PAIR not in text
    )


def test_the_papers_exposure_bias_stands_apart_for_other_families(tmp_path: Path) -> None:
    path = results_tree.build(tmp_path, table="table4a", methods={"mgsr": results_tree.METHODS["mgsr"]}, seeds=(10,))
    summary = tmp_path / "exposure/mgsr10/summary.json"
    summary.write_text(summary.read_text().replace("5,", "50,", 1))
    text = markdown(registry.document(load_cells(path)))
    assert "| MGSR | 4; 1.4 | 16 | 18 |" in text and exposure_table.NO_PAIR in text and "[4;" not in text


def test_a_run_without_exposure_bias_is_named(tmp_path: Path) -> None:
    path = results_tree.build(tmp_path, table="table1")
    with pytest.raises(MgsrError, match="SFT: an exposure bias is missing"):
        exposure_table.exposures(load_cells(path).groups[1])


# --- Table 4b ---------------------------------------------------------------------------------------------------------


def test_efficiency(tmp_path: Path) -> None:
    methods = {
        "minillm": dict(results_tree.METHODS["distillm"], title="MiniLLM"),
        "mgsr_off_policy_unrevised": dict(results_tree.METHODS["mgsr"], title="off-policy"),
        "mgsr_off_policy": dict(results_tree.METHODS["mgsr"], title="off-policy with SCRG"),
    }
    assert methods.keys() <= set(TABLES["table4b"])
    path = results_tree.build(tmp_path / "results", table="table4b", family="OpenLLaMA2", methods=methods)
    frame = _frame(path, tmp_path).set_index("method")
    minillm = frame.loc["minillm"]
    assert minillm["examples_per_second"] == 1.5 and minillm["batches_of_4_per_second"] == 0.375
    assert minillm["batches_of_4_per_second_paper"] == 0.05 and minillm["average_plain_paper"] == 28.1999
    beside = frame[["batches_of_4_per_second_paper", "average_plain_paper"]]
    assert beside.loc["mgsr_off_policy"].tolist() == [0.18, 28.6114]
    assert beside.loc["mgsr_off_policy_unrevised"].tolist() == [0.25, 28.0122]  # as fast as DistiLLM: off-policy, too
    shares = minillm[[f"{stage}_share" for stage in efficiency_table.STAGES]]
    assert shares.tolist() == [0.3, 0.1, 0.0, 0.2, 0.3, 0.1] and minillm["peak_memory_gib"] == 1.5
    text = (tmp_path / "table4b.md").read_text()
    assert "| MiniLLM † | 1.50 | 0.38 [0.05; 0.33] | 30 | 10 | 0 | 20 | 30 | 10 | 1.50 |" in text
    assert "not reproduced byte for byte" in text
    _frame(results_tree.build(tmp_path / "tiny", table="table4b", methods=methods), tmp_path)
    assert "| MiniLLM † | 0.05; 0.33 | 28.20; " in (tmp_path / "table4b.md").read_text()


def test_a_checkpoint_has_no_speed(tmp_path: Path) -> None:
    path = results_tree.build(tmp_path, table="table4b", methods={"sft": results_tree.METHODS["sft"]}, seeds=(10,))
    cells = load_cells(path)
    cells.cells[0].card.update(timings={"total": 1.0}, examples_per_second=None, peak_memory_bytes=None)
    assert "| SFT | n/a | n/a | n/a | n/a | n/a | n/a | n/a | n/a | n/a |" in markdown(registry.document(cells))
