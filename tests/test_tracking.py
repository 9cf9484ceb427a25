import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mgsr.errors import MgsrError
from mgsr.storage import read_json
from mgsr.tables import claims, registry, tracking
from mgsr.tables.results import RunResult
from tests.tables_support import METHODS, edit, load, plan_claims, plan_page, plant_table, shown, write

SYNC = "import sys; from pathlib import Path; from mgsr.tables.tracking import sync; sync(Path(sys.argv[1]), 'report')"
STUDENTS = {name: METHODS[name] for name in ("sft", "distillm", "mgsr")}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh store that two processes filled at the same time."""
    root = tmp_path_factory.mktemp("results")
    tables = [plant_table(root, halved=["mine:half"]), plant_table(root, "table4a", methods=STUDENTS, halved=["mine:half"])]
    edit(root / "runs/tiny-mgsr-10/card.json", lambda card: card["spec"].update(long="x" * 7000))
    judged = plan_claims(root, tables[0])
    check = shown("injected_errors", [], probes={"tiny": "probe"})
    plan_page(root, *tables, claims=judged, checks=[check])
    for table in tables:
        registry.write_table(root, table["name"])
    claims.write_claims(root, "claims")
    for suffix in ("csv", "svg", "md"):
        write(root / "open_checks" / f"injected_errors.{suffix}", "a check's files are logged as they are")
    jobs = [subprocess.Popen([sys.executable, "-c", SYNC, str(root)], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for job in jobs:
        _, error = job.communicate(timeout=120)
        assert job.returncode == 0, error
    return root


def _runs(root: Path) -> tuple[Any, dict[str, Any]]:
    """The client, and the runs by key."""
    client = tracking._client(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mgsr")
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id]))
    by_key = {run.data.tags[tracking.KEY]: run for run in runs}
    assert len(by_key) == len(runs)
    return client, by_key


def test_parallel_syncs_make_each_run_once(store: Path) -> None:
    _, runs = _runs(store)
    assert len(runs) == 1 + 7  # teacher once, three students twice
    receipt = read_json(store / "report.mlflow.json")
    assert receipt["experiment"] == "mgsr" and receipt["uri_kind"] == "sqlite" and len(receipt["runs"]) == 7


def test_what_a_run_holds(store: Path) -> None:
    client, runs = _runs(store)
    run, parent = runs["tiny-mgsr-10"], runs["smoke/controlled"]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id and run.info.status == "FINISHED"
    assert run.data.params["method.sequences.policy"] == "mixed"
    assert len(run.data.params["long"]) == 6000, "MLflow cuts it; card.json has it whole"
    assert run.data.metrics["rouge_l/plain/dolly"] == pytest.approx(54.0)
    assert run.data.metrics["rouge_l_seed_10/plain/dolly"] == pytest.approx(54.5)
    assert run.data.metrics["mine_half/plain/average"] == pytest.approx(27.0)
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == [5, 10, 15, 20]

    def logged(run: Any, folder: str) -> set[str]:
        return {file.path for file in client.list_artifacts(run.info.run_id, folder)}

    names = [f"{name}.{kind}" for name in ("table1", "table4a", "claims") for kind in ("csv", "md", "tex")]
    assert logged(parent, "tables") == {f"tables/{name}" for name in names}
    assert logged(parent, "open_checks") == {f"open_checks/injected_errors.{kind}" for kind in ("csv", "svg", "md")}
    assert logged(run, "run") == {"run/card.json"} and logged(run, "evaluation") == {"evaluation/summary.json"}


def test_exposure_bias_and_verdicts(store: Path) -> None:
    _, runs = _runs(store)
    run, parent = runs["tiny-mgsr-10"], runs["smoke/controlled"]
    exposure = {name: value for name, value in run.data.metrics.items() if name.startswith("exposure/")}
    assert exposure == pytest.approx({"exposure/excess_error_5": 5.4, "exposure/excess_error_10": 10.8})  # no 20: not defined
    name = "claims/gain_over_sft/tiny/plain"
    assert parent.data.tags[f"mgsr.{name}"] == "precondition not met"  # a run has a warning
    assert parent.data.metrics[name] == pytest.approx(55 - 1.15 * 50, abs=1e-3)
    assert parent.data.tags["mgsr.claims/span_adds/tiny/plain"] == "not run"
    assert "claims/span_adds/tiny/plain" not in parent.data.metrics


def test_again_adds_nothing_and_a_broken_sync_is_mended(store: Path) -> None:
    client, runs = _runs(store)
    before = {run.info.run_id for run in runs.values()}
    tracking.sync(store, "report")
    assert {run.info.run_id for run in _runs(store)[1].values()} == before
    assert len(client.get_metric_history(runs["tiny-mgsr-10"].info.run_id, "exposure/excess_error_5")) == 1
    edit(store / "runs/tiny-mgsr-10/card.json", lambda card: card.update(twin={"run": "added later"}))
    run = tracking.sync(store, "report")["runs"]["tiny-mgsr-10"]
    assert {run.info.run_id for run in _runs(store)[1].values()} == before, "a card with a twin is the same run"
    assert "added later" in Path(client.download_artifacts(run, "run/card.json")).read_text()
    broken = runs["tiny-sft-20"].info.run_id
    client.update_run(broken, status="RUNNING")  # as a killed sync leaves it
    value = tracking.sync(store, "report")
    after = {run.info.run_id for run in _runs(store)[1].values()}
    assert len(after) == len(before) and broken not in after and value["runs"]["tiny-sft-20"] in after
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def _run(root: Path) -> RunResult:
    return load(root).methods[-1].runs[-1]


def test_names_that_mlflow_takes(planted: Path) -> None:
    run, spec = _run(planted), load(planted).spec
    names = {name for name, _ in tracking.metrics(run, spec)}
    assert "train/band/upper _log_" in names and "train/span" not in names
    assert not any(set(name) & set("@()") for name in names)
    assert tracking.flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}


@pytest.mark.parametrize(("made", "uri", "problem"), [
    (True, "file:///somewhere", "is a folder.*sqlite"),
    (False, None, r"table1.csv is not there"),
    (None, None, "nothing to log"),
])  # fmt: skip
def test_what_cannot_be_logged(made: bool | None, uri: str | None, problem: str, tmp_path: Path) -> None:
    plan_page(tmp_path, *([] if made is None else [plant_table(tmp_path)]), uri=uri)
    if made:
        registry.write_table(tmp_path, "table1")
    with pytest.raises(MgsrError, match=problem):
        tracking.sync(tmp_path, "report")
