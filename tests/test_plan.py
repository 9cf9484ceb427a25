"""The plan: what is the same piece, and what an edit renames."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mgsr.config.base import SECOND_ROW
from mgsr.config.method import TrainingConfig
from mgsr.config.run_specs import AdoptSpec, SelectSpec, TrainSpec
from mgsr.config.schema import TableEntry
from mgsr.config.specs import read_spec, spec_digest
from mgsr.config.stages import STAGES
from mgsr.config.table_specs import CardSpec, PageSpec, TableSpec, read_plan
from mgsr.errors import MgsrError
from tests.plan_support import PRESETS, ROOT, extra_rows, methods_of, plan_of, run_of, trained


def test_equal_runs_are_one() -> None:
    plan = plan_of()
    rows = [row for table in plan.tables.values() for row in table.rows]
    assert run_of(plan, "mgsr") == run_of(plan, "mgsr", "table2")
    rows += [row for check in plan.checks.values() for row in check.rows]
    assert run_of(plan, "mgsr_without_scrg", "table3a") == run_of(plan, "mgsr_without_scrg", "table4c")
    assert len(plan.evaluations) == len({(row.family, row.method) for row in rows})
    unseen = plan.runs.keys() - {row.run for row in rows}  # a twin that no row shows, and where students start
    starts = {run.start_run for run in plan.runs.values() if isinstance(run, TrainSpec)} - {None}
    assert unseen == {plan.twins[run_of(plan, "mgsr_as_printed")], *starts} and len(starts) == 2  # the family's, and tinier's


def test_rows_of_equal_settings_share_a_run_whatever_their_title(workflow: Path) -> None:
    (workflow / "methods" / "again.yaml").write_text("base: mgsr\ntitle: one pass\nsequences: {scrg: {passes: 1}}\n")
    plan = plan_of({"tables": {"table2": {"rows": ["mgsr", "again"]}}}, workflow)
    assert run_of(plan, "again", "table2") == run_of(plan, "mgsr")
    assert "tiny, MGSR / one pass" in plan.run_label(run_of(plan, "mgsr"))
    assert trained(plan, "mgsr").title == "student: mixed 0.5 with 1 x SCRG, SFT + dac_kl + span, from sft_start"
    assert [row.title for row in plan.tables["table2"].rows] == ["MGSR", "one pass"]


def test_the_plan_is_the_same_in_every_process() -> None:
    code = "from tests.plan_support import plan_of; print(*sorted(plan_of().specs))"
    command, seen = [sys.executable, "-c", code], set()
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed}
        seen.add(subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=True).stdout)
    assert seen == {(" ".join(sorted(plan_of().specs)) + "\n").encode()}


def test_the_order_of_keys_is_no_part_of_identity() -> None:
    one, two = {"steps": 7, "global_batch": 8}, {"global_batch": 8, "steps": 7}
    assert plan_of({"training": one}).runs.keys() == plan_of({"training": two}).runs.keys()


@pytest.mark.parametrize(
    ("given", "runs", "evaluations", "data"),
    [
        ({"evaluation": {"decoding_seeds": [30, 40]}}, True, False, True),
        ({"data": {"test_sets": {"dolly": {"rows": 5}}}}, True, False, True),
        ({"data": {"test_sets": {"dolly": {"title": "other"}}}}, True, True, True),
        ({"metrics": ["rouge_l", "mgsr.examples.akl:akl"]}, True, False, True),
        ({"note": "other", "tracking": {"experiment": "other"}}, True, True, True),
        ({"threads": 2}, False, False, True),
        ({"training": {"learning_rate": 0.5}}, False, False, True),
        ({"training_seeds": [20]}, False, False, True),
        ({"data": {"train_rows": 50}}, False, False, True),
        ({"source": "local", "data_dir": "x"}, False, False, False),
        ({"results": "elsewhere"}, True, True, True),
        ({"exposure": {"samples": 3}, "probe": {"rows": 7}, "other_groups": True}, True, True, True),
    ],
)
def test_what_keeps_its_name(given: Mapping[str, Any], runs: bool, evaluations: bool, data: bool) -> None:
    base, other = plan_of(), plan_of(given)
    assert (base.runs.keys() == other.runs.keys()) == runs
    assert (base.evaluations.keys() == other.evaluations.keys()) == evaluations
    assert (base.data_name == other.data_name) == data


def test_an_edited_overlay_renames_its_run_and_what_hangs_on_it(workflow: Path) -> None:
    base = plan_of(folder=workflow)
    gkd = workflow / "methods" / "gkd.yaml"
    gkd.write_text(gkd.read_text().replace("beta: 0.1", "beta: 0.2"))
    other = plan_of(folder=workflow)
    assert base.runs.keys() - other.runs.keys() == {run_of(base, "gkd")}
    before, after = base.tables | base.checks, other.tables | other.checks
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"table1", "table4a", "table4b"}
    (workflow / "methods" / "sft_start.yaml").write_text("title: SFT\nstart: base\ntraining: {select_by: rouge_l}\n")
    last = plan_of(folder=workflow)  # all distilled students start there
    tinier = next(row.run for row in base.checks["small_students"].rows if (row.family, row.method) == ("tinier", "sft"))
    assert other.runs.keys() & last.runs.keys() == {run_of(base, "teacher"), run_of(base, "sft"), tinier}


def test_the_sft_row_is_trained_in_full_and_students_start_from_another_model() -> None:
    """DistiLLM's two scripts: `init_base.sh` trains briefly and keeps the lowest loss, `sft_base.sh` as long as the others."""
    plan = plan_of({"preset": "paper", "recipe": "controlled"})
    for family in plan.config.families:
        rows = {row.method: plan.runs[row.run] for row in plan.tables["table1"].rows if row.family == family}
        sft, continued, kd = (rows[name] for name in ("sft", "sft_continued", "kd"))
        assert isinstance(sft, SelectSpec) and isinstance(continued, SelectSpec) and isinstance(kd, SelectSpec)
        assert sft.method.training == continued.method.training == kd.method.training
        first, other = plan.runs[sft.candidates[0]], plan.runs[kd.candidates[0]]
        assert isinstance(first, TrainSpec) and isinstance(other, TrainSpec) and first.start_run is None
        start = plan.runs[str(other.start_run)]
        assert start.method.training.select_by == "loss"
        assert start.method.training.steps_of(1000) < sft.method.training.steps_of(1000)
        assert run_of(plan, "sft") != other.start_run and "sft_start" not in rows


def test_students_of_every_seed_share_the_teacher_and_start_from_their_own_sft() -> None:
    plan = plan_of({"training_seeds": [10, 20]})
    runs = [run for run in plan.runs.values() if isinstance(run, TrainSpec)]
    students = [run for run in runs if run.method.objective.distillation is not None]
    assert {run.teacher_run for run in students} == {run_of(plan, "teacher")}
    assert all(plan.runs[str(run.start_run)].seed == run.seed for run in students)
    assert [row.seed for row in plan.tables["table1"].rows if row.method in ("teacher", "kd")] == [10, 10, 20]


def test_a_method_without_teacher_waits_for_none() -> None:
    plan = plan_of()
    assert trained(plan, "sft").teacher_run is None and trained(plan, "teacher").teacher_run is None
    evaluation = next(e for e in plan.evaluations.values() if e.run == run_of(plan, "sft"))
    assert evaluation.teacher_run == run_of(plan, "teacher")  # for the held-out KL


def test_exposures_of_a_family_share_the_teachers_samples() -> None:
    plan = plan_of()
    rows = plan.tables["table4a"].rows
    exposed = [plan.exposures[row.exposure] for row in rows if row.exposure]
    assert len(exposed) == len(rows) and {spec.samples for spec in exposed} == set(plan.samples)
    assert all(row.exposure is None for row in plan.tables["table1"].rows)


def test_small_students_have_their_familys_teacher_and_a_start_of_their_own() -> None:
    plan = plan_of()
    small = {row.method: plan.runs[row.run] for row in plan.checks["small_students"].rows if row.family == "tinier"}
    assert set(small) == {"sft", "mgsr_without_scrg", "mgsr"}
    mgsr = small["mgsr"]
    assert isinstance(mgsr, TrainSpec) and mgsr.teacher_run == run_of(plan, "teacher")
    assert plan.runs[str(mgsr.start_run)].family == small["sft"].family == "tinier"


def test_a_checkpoint_is_a_row_of_its_familys_table_1_and_trains_nothing() -> None:
    given = {"released": {"title": "their own", "family": "tiny", "model": {"builder": "hub", "name": "some/model"}}}
    base, plan = plan_of(), plan_of({"checkpoints": given})
    row = next(row for row in plan.tables["table1"].rows if row.method == "released")
    assert isinstance(plan.runs[row.run], AdoptSpec) and not plan.trains(row.run)
    assert (row.role, row.title) == ("checkpoint", "their own") and plan.runs.keys() - base.runs.keys() == {row.run}
    assert plan.evaluations[row.evaluation].evaluation.protocols == ("published", "plain")
    renamed = plan_of({"checkpoints": {"released": {**given["released"], "title": "another title"}}})
    assert row.run in renamed.runs, "its title is no part of the run"


def test_a_users_module_is_part_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loss = {"name": "custom", "function": "loss_of_mine:divergence"}
    given = {"methods": {"mine": {"base": "kd", "title": "mine", "objective": {"distillation": loss}}}, **extra_rows("mine")}
    source = tmp_path / "loss_of_mine.py"
    source.write_text("def divergence(student_logp, teacher_logp, *, progress):\n    return 0\n")
    first = plan_of(given)
    source.write_text(source.read_text() + "# a comment\n")
    assert plan_of(given).runs.keys() == first.runs.keys()
    source.write_text(source.read_text().replace("return 0", "return 1"))
    second = plan_of(given)
    assert first.runs.keys() - second.runs.keys() == {run_of(first, "mine")}
    assert first.tables["table1"].rows[-1].title == "mine"


def test_a_pruned_student_is_built_from_its_source() -> None:
    plan = plan_of({"preset": "mini", "recipe": "paper"})
    assert plan.models[trained(plan, "sft").base_model].source == trained(plan, "teacher").base_model


# --- digests of code ---------------------------------------------------------------------------------------------------


class Package:
    """A copy of the package, to edit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "mgsr", folder / "mgsr", ignore=shutil.ignore_patterns("__pycache__"))
        self.before = self.digests()

    def digests(self) -> dict[str, str]:
        code = (
            "import json; from mgsr.config.stages import STAGES, stage_code; "
            "print(json.dumps({stage: stage_code(stage) for stage in STAGES}))"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=self.folder, capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout))

    def renamed_by(self, file: str, edit: Callable[[str], str]) -> set[str]:
        """The stages whose digest changes when a file's text does."""
        path = self.folder / file
        text = path.read_text()
        assert edit(text) != text
        path.write_text(edit(text))
        after = self.digests()
        path.write_text(text)
        return {name for name, digest in after.items() if digest != self.before[name]}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return Package(tmp_path_factory.mktemp("package"))


def test_comments_docstrings_and_descriptions_rename_nothing(package: Package) -> None:
    def reword(text: str) -> str:
        return text.replace("optimiser steps", "steps of the optimiser").replace('"""The training loop.', '"""Other words.')

    assert package.renamed_by("mgsr/rollouts/scrg.py", lambda text: f"{text}\n# a comment\n") == set()
    assert package.renamed_by("mgsr/config/method.py", reword) == set()


TABLE_STAGES = {"table", "open-check", "claims", "report", "track"}


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("mgsr/rollouts/scrg.py", {"train", "probe"}),
        ("mgsr/rollouts/sampler.py", {"train", "evaluate", "sample-teacher", "exposure", "probe"}),
        ("mgsr/training/run_record.py", {"train", "adopt", "select"}),
        ("mgsr/evaluation/floor.py", {"floor"}),
        ("mgsr/evaluation/evaluator.py", {"evaluate"}),
        ("mgsr/tables/tracking.py", {"track"}),
        ("mgsr/tables/statistics.py", {"card", *TABLE_STAGES}),
        ("mgsr/data/local_records.py", {"prepare-data", "prepare-test-set"}),
        ("mgsr/models/tiny.py", {"build-model"}),
        ("mgsr/preflight.py", set()),
        ("mgsr/config/plan.py", set()),
        ("mgsr/config/schema.py", set()),
        ("mgsr/config/method.py", {"train", "adopt", "select"}),
        ("mgsr/config/specs.py", set(STAGES)),
        ("mgsr/config/table_entries.py", {"card", *TABLE_STAGES}),
        ("mgsr/storage.py", set(STAGES)),
        ("mgsr/tables/paper_tables/table1_main.csv", {"table", "report"}),
    ],
)
def test_code_renames_the_stages_that_depend_on_it(package: Package, file: str, stages: set[str]) -> None:
    assert package.renamed_by(file, lambda text: f"{text}\nADDED = 1\n") == stages


# --- a grid of learning rates, second rows, twins ---------------------------------------------------------------------

GRID = {"training": {"learning_rate": [1e-3, 2e-3]}}
# as the presets state it of their teachers and starts, whose learning rate is their own
ALONE = {"overlays": [{"methods": ["teacher", "sft_start"], "set": {"training": {"learning_rate": 1e-3}}}]}


def test_a_grid_trains_each_rate_and_shows_the_best() -> None:
    base, plan = plan_of(), plan_of(GRID)
    run = plan.runs[run_of(plan, "kd")]
    assert isinstance(run, SelectSpec)
    candidates = [plan.runs[name] for name in run.candidates]
    rates = tuple(one.learning_rate for one in candidates if isinstance(one, TrainSpec))
    assert rates == (1e-3, 2e-3) == run.method.training.rate_grid
    assert run.candidates[0] == run_of(base, "kd"), "a rate that was trained alone is trained again"
    assert plan.trains(run.candidates[0]) and not plan.trains(run_of(plan, "kd"))
    assert plan.run_label(run.candidates[1]) == "tiny, KD, seed 10, learning rate 0.002"
    assert plan.run_label(run_of(plan, "kd")) == "tiny, KD, seed 10, the best of 2 learning rates"
    for method in ("teacher", "sft"):
        assert run_of(plan, method) == run_of(base, method), "the start has a learning rate of its own"
    longer = plan_of({"training": {"learning_rate": [2e-3, 1e-3, 4e-3]}})
    assert {*run.candidates} < longer.runs.keys()


def test_a_grid_of_one_rate_is_that_rate() -> None:
    assert plan_of({"training": {"learning_rate": [1e-3]}}).runs == plan_of().runs


@pytest.mark.parametrize("preset", PRESETS)
def test_the_recipe_of_the_sources_searches_nothing(preset: str) -> None:
    assert {run.kind for run in plan_of({"preset": preset, "recipe": "paper"}).runs.values()} == {"train"}


def test_methods_with_an_sft_term_have_a_second_row_of_weight_0() -> None:
    plan = plan_of({"rows_without_sft": True, **extra_rows("taid")})
    methods = [row.method for row in plan.tables["table1"].rows]
    first = [name for name in methods if not name.endswith(SECOND_ROW)]
    without = ("teacher", "sft", "sft_continued")
    assert set(methods) - set(first) == {f"{name}{SECOND_ROW}" for name in first if name not in without}
    assert all(methods.index(f"{name}{SECOND_ROW}") == methods.index(name) + 1 for name in ("kd", "mgsr", "taid"))
    row = next(row for row in plan.tables["table1"].rows if row.method == f"kd{SECOND_ROW}")
    one, two = trained(plan, "kd").method, trained(plan, f"kd{SECOND_ROW}").method
    objective = one.objective.model_copy(update={"sft_weight": 0.0})
    assert two.objective == objective and row.title == "KD, SFT weight 0"
    assert two.training == one.training and two.sequences == one.sequences and two.start == one.start
    assert run_of(plan, f"mgsr{SECOND_ROW}") == run_of(plan, "mgsr_without_sft", "sensitivity"), "one run, in two tables"
    assert not [row for row in plan_of().tables["table1"].rows if row.method.endswith(SECOND_ROW)]


@pytest.mark.parametrize(("preset", "recipe"), [("mini", "controlled"), ("paper", "controlled"), ("mini", "paper")])
def test_the_controlled_recipe_has_second_rows_and_a_grid(preset: str, recipe: str) -> None:
    plan = plan_of({"preset": preset, "recipe": recipe})
    rows = plan.tables["table1"].rows
    second = [row for row in rows if row.method.endswith(SECOND_ROW)]
    assert len(second) == (8 * len(plan.config.families) if recipe == "controlled" else 0)
    kinds = {plan.runs[row.run].kind for row in rows if row.method != "teacher"}
    assert kinds == {"select" if recipe == "controlled" else "train"}
    assert {plan.runs[row.run].kind for row in rows if row.method == "teacher"} == {"train"}


def test_a_twin_differs_in_scrg_alone() -> None:
    plan = plan_of(GRID)
    mgsr = run_of(plan, "mgsr")
    assert plan.twins[mgsr] == run_of(plan, "mgsr_without_scrg", "table4c"), "a row is its twin"
    printed, twin = (plan.runs[run] for run in (run_of(plan, "mgsr_as_printed"), plan.twins[run_of(plan, "mgsr_as_printed")]))
    assert isinstance(printed, SelectSpec) and isinstance(twin, SelectSpec)
    assert twin.method.sequences == printed.method.sequences.model_copy(update={"scrg": None})
    assert twin.method.objective == printed.method.objective and twin.seed == printed.seed
    assert twin.method.training == printed.method.training and len(twin.candidates) == 2
    assert run_of(plan, "mgsr_target_only", "table3b") not in plan.twins, "nobody asked for it"
    assert run_of(plan, "mgsr_off_policy", "table3a") in plan.twins, "its twin is a row of that table"


def test_no_twin_is_trained_where_none_is_asked_for() -> None:
    assert plan_of({"twins": [], "tables": {"table1": {"rows": ["mgsr"]}}}).twins != {}  # Table 4c has one
    plan = plan_of()
    tables, checks = ({name: {"rows": ["mgsr"]} for name in shown} for shown in (plan.tables, plan.checks))
    assert plan_of({"twins": [], "tables": tables, "checks": checks}).twins == {}


def test_a_learning_rate_of_its_own_takes_the_place_of_the_grid() -> None:
    """Given with the method, in an overlay or on the command line: it must not be lost beside the preset's grid."""
    own = {"methods": {"own": {"base": "mgsr", "title": "own", "training": {"learning_rate": 3e-3}}}}
    overlay = {"overlays": [{"methods": ["kd"], "set": {"training": {"learning_rate": 9e-3}}}]}
    for recipe in ("controlled", "paper"):
        plan = plan_of({"preset": "mini", "recipe": recipe, **extra_rows("own"), **own, **overlay})
        assert trained(plan, "own").learning_rate == 3e-3 and trained(plan, "kd").learning_rate == 9e-3
        assert plan.methods.resolve("SmolLM2", "mgsr").training.rate_grid == plan.config.training.rate_grid
    assert plan_of({"preset": "mini", "training": {"learning_rate": 1e-3}}).config.training.rate_grid == (1e-3,)


def test_overlays_apply_preset_recipe_own() -> None:
    """The recipe has the last word over a preset, and the user over both: MiniLLM's 5,000 steps are the recipe's."""
    given = {"preset": "paper", "recipe": "paper"}
    overlay: Any = [{"methods": ["minillm"], "families": ["OPT"], "set": {"training": {"steps": 7}}}]
    stated: Any = [{"methods": ["minillm"], "set": {"training": {"steps": 9, "validations": 2}}}]

    def training(**overlays: Any) -> TrainingConfig:
        return methods_of({**given, **overlays}).resolve("OPT", "minillm").training

    assert training().steps == 5000
    assert (training(preset_overlays=stated).steps, training(preset_overlays=stated).validations) == (5000, 2)
    assert training(overlays=overlay) == training().model_copy(update={"steps": 7})  # the preset's overlays stay


def test_only_methods_with_scrg_have_a_twin() -> None:
    with pytest.raises(MgsrError, match=r"twins: 'kd' has no SCRG"):
        plan_of({"twins": ["kd"]})


def test_a_twin_that_asks_no_teacher_waits_for_none() -> None:
    """SFT on revised text: SCRG alone asks the teacher, so its twin has none."""
    method = {"base": "mgsr", "title": "revised SFT", "objective": {"distillation": None, "span_weight": 0.0}}
    given = {"methods": {"one": method, "two": {**method, "sequences": {"scrg": None}}}}
    plan = plan_of({**given, **extra_rows("one", "two")})
    assert plan.twins[run_of(plan, "one")] == run_of(plan, "two") and trained(plan, "two").teacher_run is None
    same = {"base": "one", "title": "the same settings"}  # the run's other name asks for nothing
    given["methods"] |= {"same": same}
    asked = plan_of({**given, **extra_rows("one", "same"), "twins": ["one"]})
    assert asked.twins[run_of(asked, "one")] == run_of(plan, "two")


# --- test sets and tables of one's own, and the files that jobs read ----------------------------------------------------


def test_a_test_set_of_ones_own_trains_nothing_and_moves_no_other_set(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    base, plan = plan_of(), plan_of({"data": {"test_sets": {"mine": {"title": "Mine", "file": str(tmp_path / "mine.jsonl")}}}})
    assert plan.runs == base.runs and plan.data == base.data
    assert plan.samples == base.samples and plan.exposures == base.exposures and plan.probes == base.probes
    assert {name: spec for name, spec in plan.test_sets.items() if name != "mine"} == base.test_sets
    old, new = (next(iter(each.evaluations.values())) for each in (base, plan))
    assert {name: digest for name, digest in new.test_sets.items() if name != "mine"} == old.test_sets
    assert (new.answer_code, new.rows["mine"], plan.tables["table1"].test_sets["mine"]) == (old.answer_code, None, "Mine")


def test_a_metric_of_ones_own_changes_scores_and_no_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metric_of_mine.py").write_text("def same(answer, references):\n    return answer in references\n")
    base, plan = plan_of(), plan_of({"metrics": ["rouge_l", "metric_of_mine:same"]})
    old, new = (next(iter(each.evaluations.values())) for each in (base, plan))
    assert len(new.custom_code) == len(plan.scored["custom_code"]) == 1 and not old.custom_code
    unscored = {"metrics", "custom_code"}
    assert new.model_dump(exclude=unscored) == old.model_dump(exclude=unscored) and plan.runs == base.runs
    assert plan.tables["table1"].metrics == plan.checks["diversity"].metrics == ("rouge_l", "metric_of_mine:same")


def test_a_table_of_ones_own_is_an_entry() -> None:
    mine = {"kind": "ablation", "title": "Mine", "columns": ["dolly", "average"], "rows": ["kd", "mgsr"]}
    plan = plan_of({"tables": {"mine": mine}})
    table = plan.tables["mine"]
    assert [row.method for row in table.rows] == ["kd", "mgsr"] and table.columns == ("dolly", "average")
    assert plan.runs == plan_of().runs and table in plan.page("everything").tables and table not in plan.page("report").tables
    assert TableEntry.model_validate(mine).reference == table.reference == "mgsr"


def test_jobs_find_their_specs_by_name(tmp_path: Path) -> None:
    plan = plan_of({"results": str(tmp_path), **GRID, **ALONE})
    plan.write()
    assert {path.stem for path in (plan.root / "specs").iterdir()} == plan.specs.keys()
    assert all(read_spec(plan.root, run, type(spec)) == spec for run, spec in plan.runs.items())
    assert read_spec(plan.root, plan.data_name, type(plan.data)) == plan.data
    assert read_plan(plan.root, "table1", TableSpec) == plan.tables["table1"]
    assert read_plan(plan.root, "report", PageSpec) == plan.page("report")
    mgsr = run_of(plan, "mgsr")
    assert read_plan(plan.root, mgsr, CardSpec).twin == plan.twins[mgsr]
    with pytest.raises(MgsrError, match=r"absent\.json does not exist"):
        read_spec(plan.root, "absent", TrainSpec)
    with pytest.raises(MgsrError, match=r"specs/\w+\.json is no ModelSpec: .* start the workflow again"):
        read_spec(plan.root, mgsr, next(type(spec) for spec in plan.models.values()))
    path = plan.root / "specs" / f"{mgsr}.json"
    path.write_text(path.read_text().replace('"seed": 10', '"seed": 11'))
    with pytest.raises(MgsrError, match="was edited: its digest is"):
        read_spec(plan.root, mgsr, type(plan.runs[mgsr]))


def test_a_file_of_the_plan_keeps_its_date_while_its_content_stays(tmp_path: Path) -> None:
    given = {"results": str(tmp_path)}
    plan_of(given).write()
    folder = tmp_path / "smoke" / "plan"
    dates = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    plan_of(given).write()
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == dates
    plan_of({**given, "tables": {"table2": {"title": "Another title"}}}).write()
    changed = {path.name for path in folder.iterdir() if path.stat().st_mtime_ns != dates[path.name]}
    assert changed == {"table2.json", "claims.json", "everything.json"}, "the report shows Table 1 alone"


def test_a_spec_of_another_run_has_another_name() -> None:
    plan = plan_of(GRID)
    assert all(spec_digest(spec) == name for name, spec in plan.specs.items())
    run = trained(plan_of(), "kd")
    grid = run.method.model_copy(update={"training": run.method.training.model_copy(update={"learning_rate": (1e-3, 2e-3)})})
    with pytest.raises(ValueError, match="a run trains at one learning rate, not at"):
        TrainSpec(**{**dict(run), "method": grid})
