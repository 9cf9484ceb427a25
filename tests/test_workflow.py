"""The workflow as Snakemake reads it, in a copy of the repository: dry runs, targets, targeted reruns, the preflight."""

import os
import re
import shutil
import socket
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from mgsr.config.table_specs import TableSpec, read_plan
from tests.plan_support import ROOT, plan_of
from tests.workflow_support import Finished, jobs, snakemake_in

PARTS = ("Snakefile", "mgsr", "workflow", "profiles", "results/.gitkeep")
TABLES = ("table1", "table2", "table3a", "table3b", "table3c", "table4a", "table4b", "table4c")
CHECKS = ("injected_errors", "clipping_range", "span_priors", "sensitivity", "diversity", "small_students")
MAIN = {
    "prepare_data": 1, "prepare_test_set": 5, "build_model": 2, "evaluate_floor": 1, "train_run": 14, "evaluate_run": 11,
    "write_card": 11, "write_table": 1,
}  # fmt: skip
OF_A_ROW = ("evaluate_run", "write_card", "measure_exposure")
EVERYTHING = {
    **MAIN, "build_model": 3, "train_run": 58, "evaluate_run": 55, "write_card": 55,
    "sample_teacher": 1, "measure_exposure": 9, "probe": 1,
    "write_table": 8, "write_claims": 1, "write_check": 6,
}  # fmt: skip


def copy(folder: Path) -> Path:
    for part in PARTS:
        source, to = ROOT / part, folder / part
        to.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, to)
    return folder


def told(dry: Finished) -> set[str]:
    """What the jobs of a dry run say they do."""
    return set(re.findall(r"^Job \d+: (.*)$", dry.stdout + dry.stderr, re.MULTILINE))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to which nothing is ever done."""
    return copy(tmp_path_factory.mktemp("fresh"))


# In the package's place: every job's outputs, at once, so that Snakemake itself records what it did.
STAND_IN = """
import sys
from pathlib import Path

stage, *options = sys.argv[1:]
assert options[::2] == ["--root", "--name"], options
root, name = Path(options[1]), options[3]
outputs = {
    "prepare-data": ["data/{}/seal.json"],
    "prepare-test-set": ["test_sets/{}/seal.json"],
    "build-model": ["models/{}/seal.json"],
    "train": ["runs/{}/seal.json"],
    "card": ["runs/{}/card.json"],
    "evaluate": ["evaluations/{}/seal.json"],
    "floor": ["evaluations/{}/seal.json"],
    "sample-teacher": ["samples/{}/seal.json"],
    "exposure": ["exposure/{}/seal.json"],
    "probe": ["probes/{}/seal.json"],
    "table": ["tables/{}.csv", "tables/{}.md", "tables/{}.tex"],
    "claims": ["tables/{}.csv", "tables/{}.md", "tables/{}.tex"],
    "open-check": ["open_checks/{}.csv", "open_checks/{}.svg", "open_checks/{}.md"],
    "report": ["{}.html"],
    "track": ["{}.mlflow.json"],
}
for output in outputs[stage]:
    path = root / output.format(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"this is {path.name}")
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which all of smoke was run, with a package that only writes files. Its path would break a careless shell."""
    folder = copy(tmp_path_factory.mktemp("finished") / "it's a copy")
    (folder / "mgsr" / "__main__.py").write_text(STAND_IN)
    (folder / "printed.txt").write_text(run_finished(folder).stdout)
    return folder


def run_finished(folder: Path, *arguments: str, given: tuple[str, ...] = ()) -> Finished:
    finished = snakemake_in(folder, *(arguments or ("everything",)), "--cores", "2", "--config", "preset=smoke", *given)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished


def assert_nothing_to_do(folder: Path) -> None:
    again = run_finished(folder)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_a_dry_run_of_smoke_lists_every_job_once(fresh: Path) -> None:
    dry = snakemake_in(fresh, "-n", "--config", "preset=smoke")
    assert jobs(dry) == {**MAIN, "write_report": 1, "sync_mlflow": 1, "all": 1, "total": 49}
    assert {"train tiny, MGSR as printed, seed 10", "evaluate tiny, Teacher, seed 10", "write table1"} <= told(dry)


def test_the_other_presets_list_every_cell(fresh: Path) -> None:
    paper = jobs(snakemake_in(fresh, "-n", "--cores", "2"))
    assert (paper["write_table"], paper["write_claims"], paper["write_check"]) == (8, 1, 6)
    table1 = jobs(snakemake_in(fresh, "table1", "-n", "--cores", "2"))
    assert table1["evaluate_run"] == 4 * 11  # four families: nine rows, MGSR as printed, SFT continued
    assert table1["train_run"] == 4 * 14  # and the two's twins without SCRG
    assert paper["train_run"] > paper["evaluate_run"] > table1["evaluate_run"] and paper["build_model"] == 8 + 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config", "preset=mini"),
        ("--config", "preset=paper", "recipe=controlled", "processes=4"),
        ("--cores", "2", "--config", "preset=mini", "source=local", "data_dir=records", "training={steps: 40, validations: 2}"),
    ],
    ids=["mini", "paper-controlled", "mini-local"],
)
def test_dry_runs_of_the_other_presets(fresh: Path, arguments: tuple[str, ...]) -> None:
    count = jobs(snakemake_in(fresh, "everything", "-n", "--cores", "2", *arguments))
    assert count["evaluate_run"] == count["write_card"] and count["write_table"] == 8 and count["write_check"] == 6
    assert count["train_run"] > 2 * count["evaluate_run"]  # a grid of learning rates


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("data", {"prepare_data": 1, "prepare_test_set": 5}),
        ("table1", MAIN),
        ("table2", {**MAIN, "train_run": 7, "evaluate_run": 4, "write_card": 4}),
        ("table4a", {**MAIN, "train_run": 13, **dict.fromkeys(OF_A_ROW, 9), "sample_teacher": 1}),
        ("report", {**MAIN, "write_report": 1}),
        ("mlflow", {**MAIN, "sync_mlflow": 1}),
        ("everything", {**EVERYTHING, "write_report": 1, "sync_mlflow": 1}),
    ],
)
def test_named_targets_as_the_readme_spells_them(fresh: Path, target: str, expected: dict[str, int]) -> None:
    dry = snakemake_in(fresh, target, "--cores", "2", "--config", "preset=smoke", "-n")
    assert jobs(dry) == expected | {target: 1, "total": sum(expected.values()) + 1}


@pytest.mark.parametrize("target", [*TABLES, "claims", "open_checks"])
def test_every_table_is_a_target(fresh: Path, target: str) -> None:
    says = told(snakemake_in(fresh, target, "-n", "--config", "preset=smoke"))
    wanted = {"claims": {"judge the paper's claims"}, "open_checks": {f"open check: {name}" for name in CHECKS}}
    assert wanted.get(target, {f"write {target}"}) <= says


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("preset=smok",), "presets: there is no 'smok'"),
        (("preset=smoke", "training={stepz: 20}"), "mgsr: preset smoke: training.stepz: no such key; the nearest valid one is"),
        (("preset=mini", "source=local"), "add data_dir=PATH to --config"),
        (("preset=smoke", "threads=none"), "preset smoke: threads: input should be a valid integer"),
    ],
)
def test_a_wrong_configuration_ends_before_any_job_without_traceback(fresh: Path, given: list[str], expected: str) -> None:
    before = sorted(fresh.rglob("results/*/*"))
    failed = snakemake_in(fresh, "--cores", "1", "--config", *given)
    assert failed.returncode != 0 and expected in failed.stderr and "Traceback" not in failed.stdout + failed.stderr
    assert sorted(fresh.rglob("results/*/*")) == before


def test_the_preflight_stops_paper_in_time_and_leaves_no_lock(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        hub = f"http://127.0.0.1:{free.getsockname()[1]}"
    started = time.monotonic()
    failed = snakemake_in(folder, "--cores", "2", CUDA_VISIBLE_DEVICES="", HF_ENDPOINT=hub, no_proxy="*")
    assert time.monotonic() - started < 10 and failed.returncode == 1
    assert "preset paper cannot run on this machine" in failed.stderr and "Traceback" not in failed.stderr
    for words in ("NVIDIA GPU: none visible", "the Hugging Face hub", "preset=smoke fits every", "preset=mini source=local"):
        assert words in failed.stderr
    assert not list((folder / ".snakemake" / "locks").glob("*"))
    written = {path.parent.name for path in (folder / "results").rglob("*.*") if path.is_file() and path.name != ".gitkeep"}
    assert written == {"specs", "plan"}, "of a run that does not start, what it would read"


def test_tables_are_printed_where_they_were_asked_for(finished: Path) -> None:
    printed = (finished / "printed.txt").read_text()
    assert all(f"this is {name}.md" in printed for name in (*TABLES, *CHECKS, "claims"))
    for name in ("table1", "table2"):
        (finished / "results" / "smoke" / "tables" / f"{name}.md").unlink()
        assert re.findall(r"this is table\w+.md", run_finished(finished, name).stdout) == [f"this is {name}.md"]
    seals = [path for name in ("data", "test_sets") for path in (finished / "results/smoke" / name).glob("*/seal.json")]
    dates = {path: path.stat() for path in seals}
    for path in seals:
        path.unlink()
    assert len(dates) == 6 and "this is table" not in run_finished(finished, "data").stdout
    for path, date in dates.items():
        os.utime(path, ns=(date.st_atime_ns, date.st_mtime_ns))
    run_finished(finished)


def test_what_is_finished_is_not_done_again(finished: Path) -> None:
    assert_nothing_to_do(finished)


GKD, NO_SPAN, WEIGHT = "methods/gkd.yaml", "methods/mgsr_without_span.yaml", "objective: {span_weight: 0.0"
REVISED, SHOWN = "reverse KL on revised sequences", ("table1", "table4a", "table4b")
EDITS = {  # file, old and new text, the title of the method that runs again, the tables and open checks that show it
    "gkd": (GKD, "beta: 0.1", "beta: 0.2", "GKD", SHOWN, ()),
    "reverse KL with SCRG": ("methods/reverse_kl_scrg.yaml", "passes: 1", "passes: 2", REVISED, ("table2",), ()),
    "a variant": ("tables.yaml", "softness: 1.0}", "softness: 1.5}", "tau 1", (), ("sensitivity",)),
    "without span": (
        NO_SPAN,
        WEIGHT,
        f"{WEIGHT}, averaging: sequence_mean",
        "MGSR without span",
        ("table2",),
        ("span_priors",),
    ),
    "another title": (GKD, "title: GKD", "title: GKD, share one half", None, SHOWN, ()),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_overlay_reruns_its_training_its_evaluation_and_what_hangs_on_them(finished: Path, edit: str) -> None:
    name, old, new, title, tables, checks = EDITS[edit]
    path = finished / "workflow" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    try:
        dry = run_finished(finished, "everything", "-n")
    finally:
        path.write_text(text)
    expected = Counter(write_report=1, sync_mlflow=1, everything=1, write_table=len(tables), write_check=len(checks))
    expected.update(write_claims=1 if tables else 0)
    says = {*(f"write {table}" for table in tables), *(f"open check: {check}" for check in checks)}
    if title is not None:
        expected.update(train_run=1, evaluate_run=1, write_card=1, measure_exposure=1 if "table4a" in tables else 0)
        says |= {f"train tiny, {title}, seed 10", f"evaluate tiny, {title}, seed 10"}
    assert Counter(jobs(dry)) == expected + Counter(total=expected.total()) and says <= told(dry)


def test_a_dry_run_of_something_else_leaves_nothing_to_do(finished: Path) -> None:
    """It writes other files of the plan, and the next run writes them back."""
    dry = run_finished(finished, "everything", "-n", given=("note=another note",))
    assert jobs(dry)["write_table"] == 8
    assert_nothing_to_do(finished)


def test_a_table_of_ones_own_is_a_target(finished: Path) -> None:
    mine = "tables={mine: {kind: ablation, title: Mine, columns: [dolly, average], rows: [kd, mgsr]}}"
    made = run_finished(finished, "mine", given=(mine,))
    assert "this is mine.md" in made.stdout
    assert jobs(made) == {"write_table": 1, "mine": 1, "total": 2}


def test_the_largest_table_has_a_short_command_line(fresh: Path) -> None:
    """A shell takes at most 128 KiB in one argument. Table 1 of the paper: three learning rates, second rows, five seeds."""
    given = {"preset": "paper", "recipe": "controlled", "training_seeds": [10, 20, 30, 40, 50], "results": "large"}
    plan = plan_of(given)
    made = [f"evaluations/{name}/seal.json" for name in plan.tables["table1"].floors.values()]
    for row in plan.tables["table1"].rows:
        made += [f"runs/{row.run}/card.json", f"evaluations/{row.evaluation}/seal.json"]
    for path in (fresh / "large" / "paper" / result for result in made):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    options = ("--allowed-rules", "write_table", "-n", "-p", "--config", *(f"{key}={value}" for key, value in given.items()))
    dry = snakemake_in(fresh, "large/paper/tables/table1.md", *options)
    commands = re.findall(r"^Shell command: (.*)$", dry.stdout + dry.stderr, re.MULTILINE)
    assert len(commands) == 1 and len(commands[0]) < 150, dry.stdout + dry.stderr
    table = read_plan(fresh / "large" / "paper", "table1", TableSpec)
    assert table == plan.tables["table1"] and len(table.rows) == 4 * (1 + 5 * 18)
