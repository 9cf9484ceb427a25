from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mgsr.errors import MgsrError
from mgsr.storage import read_json, write_json
from mgsr.tables import claims, registry, tracking
from mgsr.tables.results import Cell, load_cells
from tests import results_tree

SYNC = """
import sys
from pathlib import Path
from mgsr.tables.tracking import sync
root = Path(sys.argv[1])
sync([root / name for name in sys.argv[3:]], None, "mgsr", root / sys.argv[2])
"""
FILES = [f"tables/{name}.cells.json" for name in ("table1", "table2", "table4a", "claims")]
FILES += ["open_checks/injected_errors.cells.json"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh store that two processes filled at the same time."""
    root = tmp_path_factory.mktemp("results")
    tables = {name: read_json(results_tree.build(root, table=name)) for name in ("table1", "table2", "table4a")}
    tables["claims"] = {
        "table": "claims", **{key: tables["table1"][key] for key in ("preset", "recipe", "note")},
        "tables": {"table1": tables["table1"]},
    }  # fmt: skip
    check = {**tables["table1"], "table": "injected_errors", "rows": [], "probe": {"tiny": "probe.json"}}
    for file, value in zip(FILES, [*tables.values(), check], strict=True):
        write_json(root / file, value)
    registry.write(root / FILES[0], root / "tables")
    claims.write(root / "tables" / "claims.cells.json", root / "tables")
    (root / "open_checks" / "injected_errors.svg").write_text("<svg/>")
    command = [sys.executable, "-c", SYNC, str(root)]
    jobs = [subprocess.Popen([*command, f"receipt{i}.json", *FILES], stderr=subprocess.PIPE, text=True) for i in range(2)]
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
    assert files == {f"tables/{name}.{kind}" for name in ("table1", "claims") for kind in ("csv", "md", "tex")}
    checks = [file.path for file in client.list_artifacts(parent.info.run_id, "open_checks")]
    assert checks == ["open_checks/injected_errors.svg"]
    assert {file.path for file in client.list_artifacts(run.info.run_id, "run")} == {"run/card.json"}


def test_exposure_bias_and_verdicts(store: Path) -> None:
    _, runs = _runs(store)
    by_key = {run.data.tags[tracking.KEY]: run for run in runs}
    run, parent = by_key["mgsr10"], by_key["smoke/controlled"]
    exposure = {name: value for name, value in run.data.metrics.items() if name.startswith("exposure/")}
    assert exposure == pytest.approx({"exposure/excess_error_5": 5.4, "exposure/excess_error_10": 10.8})  # no 20: not defined
    name = "claims/gain_over_sft/tiny/plain"
    assert parent.data.tags[f"mgsr.{name}"] == "does not hold"
    assert parent.data.metrics[name] == pytest.approx(55 - 1.15 * 50, abs=1e-3)
    assert parent.data.tags["mgsr.claims/span_adds/tiny/plain"] == "not run"
    assert "claims/span_adds/tiny/plain" not in parent.data.metrics


def test_again_adds_nothing_and_a_broken_sync_is_mended(store: Path) -> None:
    client, runs = _runs(store)
    cells, before = [store / FILES[0]], {run.info.run_id for run in runs}
    tracking.sync(cells, None, "mgsr", store / "receipt.json")
    assert {run.info.run_id for run in _runs(store)[1]} == before
    history = client.get_metric_history(next(r for r in runs if r.data.tags[tracking.KEY] == "mgsr10").info.run_id,
                                        "exposure/excess_error_5")  # fmt: skip
    assert len(history) == 1
    card = store / "runs/mgsr10/card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "twin": {"run": "added later"}}))
    run = tracking.sync(cells, None, "mgsr", store / "receipt.json")["runs"]["mgsr10"]
    assert {run.info.run_id for run in _runs(store)[1]} == before, "a card with a twin is the same run"
    assert "added later" in Path(client.download_artifacts(run, "run/card.json")).read_text()
    broken = next(run.info.run_id for run in runs if run.data.tags[tracking.KEY] == "sft20")
    client.update_run(broken, status="RUNNING")  # as a killed sync leaves it
    value = tracking.sync(cells, None, "mgsr", store / "receipt.json")
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
    with pytest.raises(MgsrError, match="sqlite"):
        tracking.sync([results_tree.build(tmp_path)], "file:///somewhere", "mgsr", tmp_path / "receipt.json")


def test_nothing_to_log(tmp_path: Path) -> None:
    with pytest.raises(MgsrError, match="no table to log"):
        tracking.sync([], None, "mgsr", tmp_path / "receipt.json")
