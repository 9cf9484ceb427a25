"""The plan: what is the same piece, and what an edit renames."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

from mgsr.config.base import SECOND_ROW
from mgsr.config.load import load_config
from mgsr.config.plan import STAGES, Plan, make_plan
from mgsr.config.schema import CheckName, TableName
from mgsr.errors import MgsrError

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / "workflow"
TABLES, CHECKS = get_args(TableName), get_args(CheckName)


def plan_of(given: Mapping[str, Any] | None = None, folder: Path = WORKFLOW) -> Plan:
    return make_plan(folder, load_config(folder, {"preset": "smoke", **(given or {})}))


def run_of(plan: Plan, method: str, table: str = "table1") -> str:
    return next(row.run for row in plan.rows(table) if row.method == method)


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    for kind in ("presets", "methods", "recipes"):
        shutil.copytree(WORKFLOW / kind, tmp_path / kind)
    shutil.copy(WORKFLOW / "tables.yaml", tmp_path)
    return tmp_path


def test_equal_runs_are_one() -> None:
    plan = plan_of()
    rows = [row for rows in plan.tables.values() for row in rows]
    assert run_of(plan, "mgsr") == run_of(plan, "mgsr", "table2")
    rows += [row for rows in plan.checks.values() for row in rows]
    assert run_of(plan, "mgsr_without_scrg", "table3a") == run_of(plan, "mgsr_without_scrg", "table4c")
    assert len(plan.evaluations) == len({(row.family, row.method) for row in rows})
    unseen = plan.runs.keys() - {row.run for row in rows}  # a twin that no row shows
    assert unseen == {plan.twins[run_of(plan, "mgsr_as_printed")]}


def test_rows_of_equal_settings_share_a_run_whatever_their_title(workflow: Path) -> None:
    (workflow / "methods" / "again.yaml").write_text("base: mgsr\ntitle: one pass\nsequences: {scrg: {passes: 1}}\n")
    plan = plan_of({"tables": {"table2": ["mgsr", "again"]}}, workflow)
    assert run_of(plan, "again", "table2") == run_of(plan, "mgsr")
    assert "tiny, MGSR / one pass" in plan.run_label(run_of(plan, "mgsr"))
    assert plan.runs[run_of(plan, "mgsr")].method.title == "student: mixed 0.5 with 1 x SCRG, SFT + dac_kl + span, from sft"
    assert [row["title"] for row in plan.cells("table2")["rows"]] == ["MGSR", "one pass"]


def test_the_plan_is_the_same_in_every_process() -> None:
    code = (
        "from pathlib import Path; from mgsr.config.load import load_config; from mgsr.config.plan import make_plan; "
        f"w = Path({str(WORKFLOW)!r}); p = make_plan(w, load_config(w, {{'preset': 'smoke'}})); "
        "print(*sorted([*p.runs, *p.evaluations, *p.models, p.data_name, p.floor_name()]))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, cwd=ROOT, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    plan = plan_of()
    here = sorted([*plan.runs, *plan.evaluations, *plan.models, plan.data_name, plan.floor_name()])
    assert seen == {(" ".join(here) + "\n").encode()}


def test_the_order_of_keys_is_no_part_of_identity() -> None:
    one, two = {"steps": 7, "global_batch": 8}, {"global_batch": 8, "steps": 7}
    assert plan_of({"training": one}).runs.keys() == plan_of({"training": two}).runs.keys()


@pytest.mark.parametrize(
    ("given", "runs", "evaluations", "data"),
    [
        ({"evaluation": {"decoding_seeds": [30, 40]}}, True, False, True),
        ({"data": {"test_rows": {"dolly": 5}}}, True, False, True),
        ({"note": "other", "tracking": {"experiment": "other"}}, True, True, True),
        ({"threads": 2}, False, False, True),
        ({"training": {"learning_rate": 0.5}}, False, False, True),
        ({"training_seeds": [20]}, False, False, True),
        ({"data": {"train_rows": 50}}, False, False, True),
        ({"source": "local", "data_dir": "x"}, False, False, False),
        ({"exposure": {"samples": 3}, "probe": {"rows": 7}, "other_groups": True}, True, True, True),
    ],
)
def test_what_keeps_its_name(given: Mapping[str, Any], runs: bool, evaluations: bool, data: bool) -> None:
    base, other = plan_of(), plan_of(given)
    kept = (
        base.runs.keys() == other.runs.keys(),
        base.evaluations.keys() == other.evaluations.keys(),
        base.data_name == other.data_name,
    )
    assert kept == (runs, evaluations, data)


def test_an_edited_overlay_renames_its_run_and_what_hangs_on_it(workflow: Path) -> None:
    base = plan_of(folder=workflow)
    (workflow / "methods" / "gkd.yaml").write_text(
        (WORKFLOW / "methods" / "gkd.yaml").read_text().replace("beta: 0.1", "beta: 0.2")
    )
    other = plan_of(folder=workflow)
    assert base.runs.keys() - other.runs.keys() == {run_of(base, "gkd")}
    changed = {name for name in (*base.tables, *base.checks) if base.cells(name) != other.cells(name)}
    assert changed == {"table1", "table4a", "table4b"}
    (workflow / "methods" / "sft.yaml").write_text("title: SFT\nstart: base\ntraining: {steps: 7}\n")
    last = plan_of(folder=workflow)  # all students start there; the teacher does not
    assert other.runs.keys() & last.runs.keys() == {run_of(base, "teacher")}


def test_students_of_every_seed_share_the_teacher_and_start_from_their_own_sft() -> None:
    plan = plan_of({"training_seeds": [10, 20]})
    students = [run for run in plan.runs.values() if run.method.objective.distillation is not None]
    assert {run.teacher_run for run in students} == {run_of(plan, "teacher")}
    assert all(plan.runs[str(run.start_run)].seed == run.seed for run in students)
    assert [row.seed for row in plan.tables["table1"] if row.method in ("teacher", "kd")] == [10, 10, 20]


def test_a_method_without_teacher_waits_for_none() -> None:
    plan = plan_of()
    assert plan.runs[run_of(plan, "sft")].teacher_run is None and plan.runs[run_of(plan, "teacher")].teacher_run is None
    evaluation = next(e for e in plan.evaluations.values() if e.run == run_of(plan, "sft"))
    assert evaluation.teacher_run == run_of(plan, "teacher")  # for the held-out KL


def test_exposures_of_a_family_share_the_teachers_samples() -> None:
    plan = plan_of()
    exposed = [plan.exposures[row.exposure] for row in plan.tables["table4a"] if row.exposure]
    assert len(exposed) == len(plan.tables["table4a"]) and {spec.samples for spec in exposed} == set(plan.samples)
    assert all(row.exposure is None for row in plan.tables["table1"])


def test_small_students_have_their_familys_teacher_and_a_start_of_their_own() -> None:
    plan = plan_of()
    small = {row.method: plan.runs[row.run] for row in plan.checks["small_students"] if row.family == "tinier"}
    assert set(small) == {"sft", "mgsr_without_scrg", "mgsr"}
    assert small["mgsr"].teacher_run == run_of(plan, "teacher")
    assert plan.runs[str(small["mgsr"].start_run)] == small["sft"] and small["sft"].family == "tinier"


def test_a_checkpoint_is_a_row_of_its_familys_table_1_and_trains_nothing() -> None:
    given = {"released": {"title": "their own", "family": "tiny", "model": {"builder": "hub", "name": "some/model"}}}
    base, plan = plan_of(), plan_of({"checkpoints": given})
    row = next(row for row in plan.tables["table1"] if row.method == "released")
    assert (row.role, row.title) == ("checkpoint", "their own") and plan.runs.keys() - base.runs.keys() == {row.run}
    assert plan.evaluations[row.evaluation].evaluation.protocols == ("published", "plain")
    faster = plan_of({"checkpoints": given, "training": {"learning_rate": 0.5}})
    changed = next(row for row in faster.tables["table1"] if row.method == "released")
    assert plan.runs[row.run].method == faster.runs[changed.run].method  # settings of training are no part of it


def test_a_users_module_is_part_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loss = {"name": "custom", "function": "loss_of_mine:divergence"}
    given = {"methods": {"mine": {"base": "kd", "title": "mine", "objective": {"distillation": loss}}},
             "extra_rows": {"table1": ["mine"]}}  # fmt: skip
    source = tmp_path / "loss_of_mine.py"
    source.write_text("def divergence(student_logp, teacher_logp, *, progress):\n    return 0\n")
    first = plan_of(given)
    source.write_text(source.read_text() + "# a comment\n")
    assert plan_of(given).runs.keys() == first.runs.keys()
    source.write_text(source.read_text().replace("return 0", "return 1"))
    second = plan_of(given)
    assert first.runs.keys() - second.runs.keys() == {run_of(first, "mine")}
    assert first.tables["table1"][-1].title == "mine" or first.tables["table1"][-1].role == "checkpoint"


def test_a_pruned_student_is_built_from_its_source() -> None:
    plan = plan_of({"preset": "mini"})
    student = plan.runs[run_of(plan, "sft")].base_model
    assert plan.model_source(student) == plan.runs[run_of(plan, "teacher")].base_model


# --- digests of code ---------------------------------------------------------------------------------------------------


class Package:
    """A copy of the package, to edit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "mgsr", folder / "mgsr", ignore=shutil.ignore_patterns("__pycache__"))
        self.before = self.digests()

    def digests(self) -> dict[str, str]:
        code = (
            "import json; from mgsr.config.identity import code_digest; from mgsr.config.plan import STAGES; "
            "print(json.dumps({name: code_digest(*entries) for name, entries in STAGES.items()}))"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=self.folder, capture_output=True, text=True, check=True)
        found: dict[str, str] = json.loads(done.stdout)
        return found

    def renamed_by(self, edits: Mapping[str, str]) -> set[str]:
        """The stages whose digest changes when text is put at the end of files."""
        old = {path: (self.folder / path).read_text() for path in edits}
        for path, text in edits.items():
            (self.folder / path).write_text(old[path] + text)
        after = self.digests()
        for path, text in old.items():
            (self.folder / path).write_text(text)
        return {name for name, digest in after.items() if digest != self.before[name]}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return Package(tmp_path_factory.mktemp("package"))


def test_comments_docstrings_and_descriptions_rename_nothing(package: Package) -> None:
    schema = package.folder / "mgsr" / "config" / "method.py"
    text = schema.read_text()
    assert package.renamed_by({"mgsr/rollouts/scrg.py": "\n# a comment\n"}) == set()
    edited = text.replace("optimiser steps", "steps of the optimiser").replace('"""The training loop.', '"""Other words.')
    assert edited != text
    schema.write_text(edited)
    assert package.digests() == package.before
    schema.write_text(text)


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("mgsr/rollouts/scrg.py", {"train", "probe"}),
        ("mgsr/rollouts/sampler.py", {"train", "evaluate", "exposure", "probe"}),
        ("mgsr/training/record.py", {"train", "adopt", "select"}),
        ("mgsr/evaluation/floor.py", {"floor"}),
        ("mgsr/evaluation/evaluator.py", {"evaluate"}),
        ("mgsr/tables/tracking.py", {"track"}),
        ("mgsr/tables/statistics.py", {"card", "tables", "claims", "checks", "report", "track"}),
        ("mgsr/data/local_records.py", {"data"}),
        ("mgsr/models/tiny.py", {"model"}),
        ("mgsr/preflight.py", set()),
        ("mgsr/config/plan.py", set()),
        ("mgsr/config/schema.py", set()),
        ("mgsr/config/method.py", {"train", "adopt", "select", "evaluate", "exposure", "probe", "data", "model"}),
        ("mgsr/storage.py", set(STAGES)),
    ],
)
def test_code_renames_the_stages_that_depend_on_it(package: Package, file: str, stages: set[str]) -> None:
    assert package.renamed_by({file: "\nADDED = 1\n"}) == stages


def test_the_papers_numbers_are_part_of_the_tables(package: Package) -> None:
    line = "x,y,z\n"
    assert package.renamed_by({"mgsr/tables/paper_tables/table1_main.csv": line}) == {"tables", "report"}


# --- a grid of learning rates, second rows, twins ---------------------------------------------------------------------

GRID = {"training": {"learning_rates": [1e-3, 2e-3]}}


def test_a_grid_trains_each_rate_and_shows_the_best() -> None:
    base, plan = plan_of(), plan_of(GRID)
    run = plan.runs[run_of(plan, "kd")]
    candidates = [plan.runs[name] for name in run.candidates]
    assert [one.method.training.learning_rate for one in candidates] == [1e-3, 2e-3] == list(run.method.training.learning_rates)
    assert all(not one.candidates and not one.method.training.learning_rates for one in candidates)
    assert run.candidates[0] == run_of(base, "kd"), "a rate that was trained alone is trained again"
    assert plan.trains(run.candidates[0]) and not plan.trains(run_of(plan, "kd"))
    assert plan.run_label(run.candidates[1]) == "tiny, KD, seed 10, learning rate 0.002"
    assert plan.run_label(run_of(plan, "kd")) == "tiny, KD, seed 10, the best of 2 learning rates"
    for method in ("teacher", "sft"):
        assert run_of(plan, method) == run_of(base, method), "the start has a learning rate of its own"
    longer = plan_of({"training": {"learning_rates": [2e-3, 1e-3, 4e-3]}})
    assert {*run.candidates} < {*longer.runs[run_of(longer, "kd")].candidates}


def test_a_grid_of_one_rate_is_that_rate() -> None:
    assert plan_of({"training": {"learning_rates": [1e-3]}}).runs == plan_of().runs


def test_the_recipe_of_the_sources_searches_nothing() -> None:
    assert not any(run.candidates for run in plan_of({"recipe": "paper", **GRID}).runs.values())


def test_methods_with_an_sft_term_have_a_second_row_of_weight_0() -> None:
    plan = plan_of({"rows_without_sft": True, "extra_rows": {"table1": ["taid"]}})
    methods = [row.method for row in plan.tables["table1"]]
    first = [name for name in methods if not name.endswith(SECOND_ROW)]
    assert set(methods) - set(first) == {
        f"{name}{SECOND_ROW}" for name in first if name not in ("teacher", "sft", "sft_continued")
    }
    assert all(methods.index(f"{name}{SECOND_ROW}") == methods.index(name) + 1 for name in ("kd", "mgsr", "taid"))
    row = next(row for row in plan.tables["table1"] if row.method == f"kd{SECOND_ROW}")
    one, two = (plan.runs[run].method for run in (run_of(plan, "kd"), row.run))
    objective = one.objective.model_copy(update={"sft_weight": 0.0})
    assert two.objective == objective and row.title == "KD, SFT weight 0"
    assert two.training == one.training and two.sequences == one.sequences and two.start == one.start
    assert run_of(plan, f"mgsr{SECOND_ROW}") == run_of(plan, "mgsr_without_sft", "sensitivity"), "one run, in two tables"
    assert not [row for row in plan_of().tables["table1"] if row.method.endswith(SECOND_ROW)]


@pytest.mark.parametrize(("preset", "recipe"), [("mini", "controlled"), ("paper", "controlled"), ("mini", "paper")])
def test_the_controlled_recipe_has_second_rows_and_a_grid(preset: str, recipe: str) -> None:
    plan = make_plan(WORKFLOW, load_config(WORKFLOW, {"preset": preset, "recipe": recipe}))
    second = [row for row in plan.tables["table1"] if row.method.endswith(SECOND_ROW)]
    assert len(second) == (8 * len(plan.config.families) if recipe == "controlled" else 0)
    grids = {len(plan.runs[row.run].candidates) for row in plan.tables["table1"] if row.method not in ("teacher", "sft")}
    assert grids == ({len(plan.config.training.learning_rates)} if recipe == "controlled" else {0})


def test_a_twin_differs_in_scrg_alone() -> None:
    plan = plan_of(GRID)
    mgsr = run_of(plan, "mgsr")
    assert plan.twins[mgsr] == run_of(plan, "mgsr_without_scrg", "table4c"), "a row is its twin"
    printed, twin = (plan.runs[run] for run in (run_of(plan, "mgsr_as_printed"), plan.twins[run_of(plan, "mgsr_as_printed")]))
    assert twin.method.sequences == printed.method.sequences.model_copy(update={"scrg": None})
    assert twin.method.objective == printed.method.objective and twin.seed == printed.seed
    assert [plan.runs[name].method.training for name in twin.candidates] == [
        plan.runs[name].method.training for name in printed.candidates
    ]
    assert run_of(plan, "mgsr_target_only", "table3b") not in plan.twins, "nobody asked for it"
    assert run_of(plan, "mgsr_off_policy", "table3a") in plan.twins, "its twin is a row of that table"


def test_no_twin_is_trained_where_none_is_asked_for() -> None:
    assert plan_of({"twins": [], "tables": {"table1": ["mgsr"]}, "extra_rows": {}}).twins != {}  # Table 4c has one
    alone = plan_of({"twins": [], "tables": {name: ["mgsr"] for name in TABLES}, "checks": {name: ["mgsr"] for name in CHECKS}})
    assert alone.twins == {}


def test_a_learning_rate_of_its_own_takes_the_place_of_the_grid() -> None:
    """Given with the method, in an overlay or on the command line: it must not be lost beside the preset's grid."""
    own = {"methods": {"own": {"base": "mgsr", "title": "own", "training": {"learning_rate": 3e-3}}}}
    overlay = {"overlays": [{"methods": ["kd"], "set": {"training": {"learning_rate": 9e-3}}}]}
    base = load_config(WORKFLOW, {"preset": "mini"})
    plan = make_plan(WORKFLOW, load_config(WORKFLOW, {"preset": "mini", "extra_rows": {"table1": ["own"]}, **own, **overlay}))
    rates = {row.method: plan.runs[row.run].method.training for row in plan.tables["table1"]}
    assert (rates["own"].learning_rate, rates["own"].learning_rates) == (3e-3, ())
    assert (rates["kd"].learning_rate, rates["kd"].learning_rates) == (9e-3, ())
    assert rates["mgsr"].learning_rates == base.training.learning_rates
    alone = load_config(WORKFLOW, {"preset": "mini", "training": {"learning_rate": 1e-3}}).training
    assert (alone.learning_rate, alone.learning_rates) == (1e-3, ())


def test_only_methods_with_scrg_have_a_twin() -> None:
    with pytest.raises(MgsrError, match=r"twins: 'kd' has no SCRG"):
        plan_of({"twins": ["kd"]})
    with pytest.raises(MgsrError, match=r"twins: there is no method 'mgrs'; the nearest valid one is 'mgsr'"):
        plan_of({"twins": ["mgrs"]})


def test_a_twin_that_asks_no_teacher_waits_for_none() -> None:
    """SFT on revised text: SCRG alone asks the teacher, so its twin has none."""
    method = {"base": "mgsr", "title": "revised SFT", "objective": {"distillation": None, "span_weight": 0.0}}
    given = {"methods": {"one": method, "two": {**method, "sequences": {"scrg": None}}}}
    plan = plan_of({**given, "extra_rows": {"table1": ["one", "two"]}})
    assert plan.twins[run_of(plan, "one")] == run_of(plan, "two") and plan.runs[run_of(plan, "two")].teacher_run is None
    same = {"base": "one", "title": "the same settings"}  # the run's other name asks for nothing
    given["methods"] |= {"same": same}
    asked = plan_of({**given, "extra_rows": {"table1": ["one", "same"]}, "twins": ["one"]})
    assert asked.twins[run_of(asked, "one")] == run_of(plan, "two")
