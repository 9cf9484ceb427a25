from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mgsr.errors import MgsrError
from mgsr.tables import tracking
from mgsr.tables.cells import Cell, load_cells
from mgsr.tables.registry import write
from tests import results_tree

SYNC = """
import sys
from pathlib import Path
from mgsr.tables.cells import load_cells
from mgsr.tables.tracking import sync
root = Path(sys.argv[1])
cells = [load_cells(root / f"{name}.cells.json") for name in ("table1", "table2")]
sync(cells, None, "mgsr", root / "tables", root / sys.argv[2])
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh store that two processes filled at the same time."""
    root = tmp_path_factory.mktemp("results")
    write(results_tree.build(root), root / "tables")
    results_tree.build(root, table="table2")
    command = [sys.executable, "-c", SYNC, str(root)]
    jobs = [subprocess.Popen([*command, f"receipt{i}.json"], stderr=subprocess.PIPE, text=True) for i in range(2)]
    for job in jobs:
        _, error = job.communicate(timeout=120)
        assert job.returncode == 0, error
    return root


def _runs(root: Path) -> tuple[Any, list[Any]]:
    client = tracking._client(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mgsr")
    assert experiment is not None
    return client, list(client.search_runs([experiment.experiment_id]))


def test_parallel_syncs_make_each_run_once(store: Path) -> None:
    _, runs = _runs(store)
    keys = [run.data.tags[tracking.KEY] for run in runs]
    assert sorted(keys) == sorted({*keys}) and len(keys) == 1 + 7  # teacher once, three students twice
    receipts = [json.loads((store / f"receipt{i}.json").read_text()) for i in range(2)]
    assert receipts[0] == receipts[1]
    assert receipts[0]["experiment"] == "mgsr" and receipts[0]["uri_kind"] == "sqlite" and len(receipts[0]["runs"]) == 7


def test_what_a_run_holds(store: Path) -> None:
    client, runs = _runs(store)
    by_key = {run.data.tags[tracking.KEY]: run for run in runs}
    run, parent = by_key["mgsr10"], by_key["smoke/controlled"]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id and run.info.status == "FINISHED"
    assert run.data.params["method.sequences.policy"] == "mixed"
    assert run.data.metrics["rouge_l/plain/dolly"] == pytest.approx(54.0)
    assert run.data.metrics["rouge_l_seed_10/plain/dolly"] == pytest.approx(54.5)
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == [5, 10, 15, 20]
    files = {file.path for file in client.list_artifacts(parent.info.run_id, "tables")}
    assert files == {"tables/table1.csv", "tables/table1.md", "tables/table1.tex"}
    assert {file.path for file in client.list_artifacts(run.info.run_id, "run")} == {"run/card.json"}


def test_again_adds_nothing_and_a_broken_sync_is_mended(store: Path) -> None:
    client, runs = _runs(store)
    cells, before = [load_cells(store / "table1.cells.json")], {run.info.run_id for run in runs}
    tracking.sync(cells, None, "mgsr", store / "tables", store / "receipt.json")
    assert {run.info.run_id for run in _runs(store)[1]} == before
    broken = next(run.info.run_id for run in runs if run.data.tags[tracking.KEY] == "sft20")
    client.update_run(broken, status="RUNNING")  # as a killed sync leaves it
    value = tracking.sync(cells, None, "mgsr", store / "tables", store / "receipt.json")
    after = _runs(store)[1]
    assert len(after) == len(before) and broken not in {run.info.run_id for run in after}
    assert value["runs"]["sft20"] in {run.info.run_id for run in after}
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def _cell(tmp_path: Path, index: int = -1) -> Cell:
    return load_cells(results_tree.build(tmp_path)).cells[index]


def test_names_and_lengths_that_mlflow_takes(tmp_path: Path) -> None:
    cell = _cell(tmp_path)
    cell.card["spec"]["long"] = "x" * 7000
    flat, cut = tracking.params(cell)
    assert cut == ["long"] and len(flat["long"]) == 6000 and flat["long"].endswith("(cut; whole in card.json)")
    names = {name for name, _ in tracking.metrics(cell, results_tree.SETS)}
    assert "train/band/upper _log_" in names and "train/span" not in names
    assert not any(set(name) & set("@()") for name in names)
    assert tracking.flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}


def test_a_file_store_is_refused(tmp_path: Path) -> None:
    cells = load_cells(results_tree.build(tmp_path))
    with pytest.raises(MgsrError, match="sqlite"):
        tracking.sync([cells], "file:///somewhere", "mgsr", tmp_path, tmp_path / "receipt.json")
