from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mgsr.errors import MgsrError
from mgsr.tables import components, main_table, paper
from mgsr.tables.cells import load_cells
from mgsr.tables.render import latex, markdown, number
from tests import results_tree


@pytest.fixture
def cells_path(tmp_path: Path) -> Path:
    return results_tree.build(tmp_path / "results")


def _edit(path: Path, change: Any) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_table1_numbers(cells_path: Path, tmp_path: Path) -> None:
    main_table.write(cells_path, tmp_path / "tables")
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
    assert not [name for name in frame.columns if name.endswith("_paper")]
    assert "n/a" in (tmp_path / "tables/table1.csv").read_text()


def test_table1_markdown(cells_path: Path, tmp_path: Path) -> None:
    main_table.write(cells_path, tmp_path)
    text = (tmp_path / "table1.md").read_text()
    assert "preset smoke" in text and "Tiny models rank no methods." in text and "**" not in text
    assert "| MGSR | 55.00 ± 0.71 (1.41) | 55.00 ± 0.71 (1.41) | 55.00 ± 0.71 (1.41) | 0.50 |" in text
    assert "| Teacher | 80.00 ± 0.71 (n/a)" in text
    assert "| DistiLLM † |" in text and main_table.MARK_NOTE in text
    assert f"| {main_table.FLOOR_TITLE} | 20.00" in text
    assert "tiny, plain: teacher − SFT on Dolly 30.00, 95 % interval 30.00 to 30.00 (excludes 0;" in text
    assert "tiny, plain: teacher − floor on Dolly 60.00" in text
    assert "DistiLLM − SFT: -0.2000 nats a token (0.7000 against 0.9000; lower)" in text


def test_table1_bytes_do_not_depend_on_timings(cells_path: Path, tmp_path: Path) -> None:
    main_table.write(cells_path, tmp_path / "first")
    for card in cells_path.parent.glob("runs/*/card.json"):
        _edit(card, lambda value: value["timings"].update(total=99.9))
    main_table.write(cells_path, tmp_path / "second")
    for name in ("table1.md", "table1.tex"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    frames: Any = [pd.read_csv(tmp_path / folder / "table1.csv") for folder in ("first", "second")]
    timed = [name for name in frames[0].columns if name.endswith("_seconds")]
    assert not frames[0].equals(frames[1])
    pd.testing.assert_frame_equal(*(frame.drop(columns=timed) for frame in frames))


def test_paper_numbers_only_in_the_papers_preset(tmp_path: Path) -> None:
    cells = load_cells(results_tree.build(tmp_path, preset="paper", family="GPT2"))
    frame: Any = main_table.build_table1(cells).set_index(["protocol", "method"])
    assert (
        frame.loc[("plain", "mgsr"), "dolly_paper"] == 26.5614 and frame.loc[("plain", "teacher"), "average_paper"] == 22.5575
    )
    assert pd.isna(frame.loc[("plain", "floor"), "dolly_paper"])
    text = markdown(main_table.document(cells))
    assert "[26.56]" in text and "probably a slip" in text and "28.7513" in text


def test_long_form(cells_path: Path) -> None:
    long = main_table.build_long(load_cells(cells_path))
    assert len(long) == 2 * 5 * 3 and set(long["set"]) == {*results_tree.SETS, "average"}
    assert long["mean"].dtype == "float64"


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
        main_table.build_table1(load_cells(cells_path))
    _edit(summary, lambda value: value.update(scores=[]))
    with pytest.raises(MgsrError, match="no score of set dolly"):
        main_table.build_table1(load_cells(cells_path))


def test_table2(tmp_path: Path) -> None:
    path = results_tree.build(tmp_path / "results", table="table2", preset="paper", family="OPT")
    components.write(path, tmp_path)
    frame: Any = pd.read_csv(tmp_path / "table2.csv").set_index(["protocol", "method"])
    mgsr = frame.loc["plain", "mgsr"]
    assert mgsr[["scrg", "dac_kl", "span"]].all() and not frame.loc["plain", "distillm"][["scrg", "dac_kl", "span"]].any()
    assert mgsr["dolly_validation_mean"] == 60.0 and mgsr["dolly_validation_paper"] == 31.2575
    assert mgsr["self_instruct_paper"] == 17.3016
    text = (tmp_path / "table2.md").read_text()
    assert "| ✓ | ✓ | ✓ | MGSR | 60.00 ± n/a (1.41) [31.26] |" in text and "| – | – | – | DistiLLM † |" in text
    assert "Table 2 were not readable" in text
    with pytest.raises(MgsrError, match="not table1"):
        main_table.write(path, tmp_path)


def test_latex_is_escaped(cells_path: Path) -> None:
    text = latex(main_table.document(load_cells(cells_path)), "table1")
    assert r"$\pm$" in text and r"DistiLLM $^\dagger$" in text and "±" not in text and "%" not in text.replace(r"\%", "")[1:]
    assert text.count(r"\begin{tabular}") == 2 and not re.search(r"(?<!\\)_", text)


def test_numbers() -> None:
    assert number(-0.0001) == "0.00" and number(None) == "n/a" and number(1.005, 1) == "1.0"


def test_paper_tables() -> None:
    table = paper.table1()
    assert len(table) == 36 and {family for family, _ in table} == {"LLaMA2", "OpenLLaMA2", "OPT", "GPT2"}
    assert paper.table2()["OPT", True, True, False]["dolly"] == 26.9012
    assert (paper.FOLDER / "README.md").is_file() and len(list(paper.FOLDER.glob("*.csv"))) == 9


def test_tables_import_nothing_heavy() -> None:
    code = (
        "import sys, mgsr.tables.components, mgsr.tables.tracking;"
        "sys.exit(' '.join({'torch', 'transformers', 'mlflow', 'matplotlib', 'datasets'} & sys.modules.keys()) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
