from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mgsr.errors import MgsrError
from mgsr.tables import efficiency_table, exposure_table, paper
from mgsr.tables.legends import legend
from mgsr.tables.render import markdown
from tests.tables_support import ENTRIES, METHODS, document, edit, frame, ladder, load, plan, plant_table

ABLATIONS = [name for name, entry in ENTRIES.items() if entry["kind"] == "ablation"]


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
    plant_table(tmp_path, table, family=family, methods=ladder(table), seeds=(10,))
    line = frame(tmp_path, table).loc["plain", method]
    assert line[f"{column}_paper"] == printed
    assert line[f"{column}_difference"] == pytest.approx(line[f"{column}_mean"] - printed, abs=1e-3)


@pytest.mark.parametrize("table", ABLATIONS)
def test_no_number_of_the_paper_is_left_out(table: str) -> None:
    """Every row that the paper prints has its method among the table's rows, and the columns are the paper's."""
    (methods,) = paper.printed(table).values()
    assert set(methods) <= set(ENTRIES[table]["rows"])
    assert all(set(numbers) == set(ENTRIES[table]["columns"]) for numbers in methods.values())


@pytest.mark.parametrize("table", ABLATIONS)
def test_rows_are_compared_with_the_whole_method(table: str, tmp_path: Path) -> None:
    plant_table(tmp_path, table, methods=ladder(table))
    rows, columns = ENTRIES[table]["rows"], ENTRIES[table]["columns"]
    lines = frame(tmp_path, table).loc["published"]
    pair = "OpenLLaMA2" if table == "table4c" else "OPT"  # the only one that the paper prints
    assert list(lines.index) == rows and set(lines["paper_family"]) == {pair}
    assert {file.suffix for file in (tmp_path / "tables").glob(f"{table}.*")} == {".csv", ".md", ".tex"}
    for name in (name for name in columns if name != "dolly_validation"):
        for place, method in enumerate(rows):
            difference = lines.loc[method, f"{name}_minus_mgsr"]
            expected = place - rows.index("mgsr")
            assert pd.isna(difference) if method == "mgsr" else difference == pytest.approx(expected)
        assert lines[f"{name}_bold"].tolist() == [False] * (len(rows) - 1) + [True]
    text = (tmp_path / f"tables/{table}.md").read_text()
    assert f"protocol published: the paper's numbers of {pair}; ours minus them" in text and "[" not in text
    assert "difference to MGSR" in text
    assert (legend("dolly_validation")[0] in text) == ("dolly_validation" in columns)


def test_a_further_metric_has_no_validation_column(tmp_path: Path) -> None:
    plant_table(tmp_path, "table3b", methods=ladder("table3b"), halved=["mine:half"])
    other = frame(tmp_path, "table3b", "metric", "protocol", "method").loc["mine:half"]
    assert other["dolly_mean"].tolist()[:3] == [25.0, 25.5, 26.0] and other["dolly_validation_mean"].isna().all()
    block = (tmp_path / "tables/table3b.md").read_text().split("## protocol plain, half\n\n")[1]
    assert block.startswith("| method | Dolly |\n") and "| MGSR | 26.00 ± 0.35 (0.71) |" in block and "##" not in block


def test_components_are_ticked_from_the_runs(tmp_path: Path) -> None:
    methods = {name: METHODS[name] for name in ("distillm", "mgsr")}
    plant_table(tmp_path, "table2", family="OPT", methods=methods)
    lines = frame(tmp_path, "table2").loc["plain"]
    assert lines.loc["mgsr", ["scrg", "dac_kl", "span"]].all()
    assert not lines.loc["distillm", ["scrg", "dac_kl", "span"]].any()
    text = (tmp_path / "tables/table2.md").read_text()
    assert "| ✓ | ✓ | ✓ | MGSR | 60.00 ± n/a (1.41) [31.26; 28.74] | **55.00" in text
    assert "| – | – | – | DistiLLM † |" in text and "Table 2 were not readable" in text


def test_a_table_of_ones_own_states_its_columns_and_reference(tmp_path: Path) -> None:
    value = plant_table(tmp_path, "table3b", methods=ladder("table3b"))
    plan(tmp_path, {**value, "name": "parts", "columns": [], "components": True, "reference": "mgsr_target_only"})
    lines = frame(tmp_path, "parts").loc["plain"]
    assert lines.loc["mgsr", "average_minus_mgsr_target_only"] == pytest.approx(2.0) and lines["span"].all()
    assert "dolly_mean" not in lines
    assert "difference to mgsr_target_only" in (tmp_path / "tables/parts.md").read_text()


def test_a_table_without_the_reference_compares_nothing(tmp_path: Path) -> None:
    plant_table(tmp_path, "table3b", methods={name: facts for name, facts in ladder("table3b").items() if name != "mgsr"})
    text = markdown(document(tmp_path, "table3b"))
    assert "difference to" not in text and "| mgsr_target_only |" in text


def test_losses_of_other_groups_on_request(tmp_path: Path) -> None:
    plant_table(tmp_path, "table3c", family="GPT2", methods=ladder("table3c"), other_groups=True)
    text = markdown(document(tmp_path, "table3c"))
    assert "| WASD Table 2 | GPT2 | 1.5B → 0.1B | tvd | 24.08 |" in text and "full method" not in text
    plant_table(tmp_path, "table2", family="GPT2", methods=ladder("table2"), other_groups=True)
    assert "other groups" not in markdown(document(tmp_path, "table2"))


# --- Table 4a ---------------------------------------------------------------------------------------------------------


def test_exposure_bias_by_length(tmp_path: Path) -> None:
    plant_table(tmp_path, "table4a", methods={name: METHODS[name] for name in ("sft", "distillm", "mgsr")})
    lines = frame(tmp_path, "table4a", "method", "length")
    mgsr = lines.loc["mgsr", 10]
    assert mgsr["excess_error"] == pytest.approx(11.0)
    assert mgsr["excess_error_training_deviation"] == pytest.approx(0.2828, abs=1e-4)
    assert mgsr["running_student"] == 0.45 and mgsr["running_teacher"] == 0.25 and pd.isna(mgsr["excess_error_low"])
    assert pd.isna(lines.loc[("mgsr", 20), "excess_error"]) and lines.loc[("mgsr", 20), "running_student"] == 0
    text = (tmp_path / "tables/table4a.md").read_text()
    assert "| MGSR | 5.5 (0.1), running 0.90 (1.00) | 11.0 (0.3), running 0.45 (0.25) | n/a, running 0.00 (0.00) |" in text
    assert "| MGSR | 1.00 (0.50) | 2.00 (1.50) | n/a (n/a) |" in text  # R(l), and that of the teacher's texts
    assert "10 prompts of Dolly's test rows, 2 samples each" in text and "| DistiLLM † |" in text
    assert "| MGSR | 4 | 16 | 18 |" in text and "| SFT | 4" not in text  # at the paper's lengths, 50, 100 and 200
    assert paper.NO_PAIR in text and paper.notes("table4a")[0] in text


@pytest.mark.parametrize(
    ("family", "text", "absent"),
    [
        ("OpenLLaMA2", "5.4 (0.0 to 9.0) [4; 1.4], running", paper.NO_PAIR),
        ("tiny", "| MGSR | 4; 1.4 | 16 | 18 |", "[4;"),  # apart, as the paper does not say of which pair they are
    ],
)
def test_exposure_bias_of_one_seed_has_its_interval_and_the_papers_number(
    family: str, text: str, absent: str, tmp_path: Path
) -> None:
    plant_table(tmp_path, "table4a", family=family, methods={"mgsr": METHODS["mgsr"]}, seeds=(10,))
    edit(tmp_path / f"exposure/x-{family}-mgsr-10/summary.json", lambda value: value.update(lengths=[50, 75, 80]))
    lines = frame(tmp_path, "table4a", "length")
    assert lines.loc[50, "excess_error_paper"] == 4 and lines.loc[50, "excess_error_difference"] == pytest.approx(1.4)
    assert lines.loc[75, "excess_error_low"] == 1.0 and lines.loc[75, "excess_error_high"] == 12.0
    written = (tmp_path / "tables/table4a.md").read_text()
    assert text in written and paper.notes("table4a")[0] in written and absent not in written


def test_a_run_without_exposure_bias_is_named(planted: Path) -> None:
    with pytest.raises(MgsrError, match="SFT: an exposure bias is missing"):
        exposure_table.exposures(load(planted).methods[1])


# --- Table 4b ---------------------------------------------------------------------------------------------------------


def test_efficiency(tmp_path: Path) -> None:
    methods = {
        "minillm": {**METHODS["distillm"], "title": "MiniLLM"},
        "mgsr_off_policy_unrevised": {**METHODS["mgsr"], "title": "off-policy"},
        "mgsr_off_policy": {**METHODS["mgsr"], "title": "off-policy with SCRG"},
    }
    assert methods.keys() <= set(ENTRIES["table4b"]["rows"])
    plant_table(tmp_path, "table4b", family="OpenLLaMA2", methods=methods, halved=["mine:half"])
    lines = frame(tmp_path, "table4b", "metric", "method")
    minillm = lines.loc["rouge_l", "minillm"]
    assert minillm["examples_per_second"] == 1.5 and minillm["batches_of_4_per_second"] == 0.375
    assert minillm["batches_of_4_per_second_paper"] == 0.05 and minillm["average_plain_paper"] == 28.1999
    printed = lines.loc["rouge_l"][["batches_of_4_per_second_paper", "average_plain_paper"]]
    assert printed.loc["mgsr_off_policy"].tolist() == [0.18, 28.6114]
    assert printed.loc["mgsr_off_policy_unrevised"].tolist() == [0.25, 28.0122]  # as fast as DistiLLM: off-policy, too
    shares = minillm[[f"{stage}_share" for stage in efficiency_table.STAGES]]
    assert shares.tolist() == [0.3, 0.1, 0.0, 0.2, 0.3, 0.1] and minillm["peak_memory_gib"] == 1.5
    half = lines.loc["mine:half", "minillm"]
    assert half["average_plain_mean"] == 26.0 and pd.isna(half["average_plain_paper"])
    text = (tmp_path / "tables/table4b.md").read_text()
    assert "| MiniLLM † | 1.50 | 0.38 [0.05; 0.33] | 30 | 10 | 0 | 20 | 30 | 10 | 1.50 |" in text
    assert "not reproduced byte for byte" in text and "## half\n\n| method | average, published | average, plain |\n" in text
    plant_table(tmp_path, "table4b", methods=methods)
    assert "| MiniLLM † | 0.05; 0.33 | 28.20; " in markdown(document(tmp_path, "table4b"))


def test_a_checkpoint_has_no_speed(tmp_path: Path) -> None:
    plant_table(tmp_path, "table4b", methods={"sft": METHODS["sft"]}, seeds=(10,))
    nothing = {"timings": {"total": 1.0}, "examples_per_second": None, "peak_memory_bytes": None}
    edit(tmp_path / "runs/tiny-sft-10/card.json", lambda card: card.update(nothing))
    assert "| SFT | n/a | n/a | n/a | n/a | n/a | n/a | n/a | n/a | n/a |" in markdown(document(tmp_path, "table4b"))
