"""Configuration: merging, messages, presets, schema and reference page in step."""

import json
import re
import runpy
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml

from mgsr import __version__
from mgsr.cli import make_parser
from mgsr.config.base import SECOND_ROW
from mgsr.config.families import HubModel
from mgsr.config.load import load_config, merge
from mgsr.config.loss_terms import DacKlConfig
from mgsr.config.run_specs import SelectSpec, TrainSpec
from mgsr.config.schema import Config
from mgsr.config.table_entries import CheckName
from mgsr.errors import MgsrError
from mgsr.objectives.dac_kl import DacKl
from mgsr.rollouts.schedule import RolloutPolicy
from mgsr.rollouts.sequence import Sequence
from tests.plan_support import PRESETS, ROOT, WORKFLOW, config_of, methods_of, plan_of

RECIPES = ("controlled", "paper")


def message(given: Mapping[str, Any], folder: Path = WORKFLOW) -> str:
    with pytest.raises(MgsrError) as caught:
        plan_of(given, folder)
    return str(caught.value)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_preset_resolves_under_every_recipe(preset: str, recipe: str) -> None:
    plan = plan_of({"preset": preset, "recipe": recipe})
    assert list(plan.tables) == ["table1", "table2", "table3a", "table3b", "table3c", "table4a", "table4b", "table4c"]
    assert all(table.rows for table in plan.tables.values()) and set(plan.checks) == set(get_args(CheckName))
    assert {row.family for row in plan.tables["table1"].rows} == set(plan.config.families)


def test_what_a_later_layer_sets_to_null_is_taken_out() -> None:
    given = {"data": {"test_sets": {"vicuna": None}}, "checks": {"sensitivity": None}, "tables": {"table3a": None}}
    config = load_config(WORKFLOW, {"preset": "smoke", **given})
    assert list(config.data.test_sets) == ["dolly", "self_instruct", "sni", "unni"]
    assert "sensitivity" not in config.checks and "table3a" not in config.tables and "table3b" in config.tables


def test_without_a_preset_it_is_the_paper_with_the_papers_recipe() -> None:
    config = load_config(WORKFLOW, {})
    assert (config.preset, config.recipe) == ("paper", "paper")
    assert set(config.families) == {"GPT2", "OPT", "OpenLLaMA2", "LLaMA2"}
    assert config.evaluation.decoding_seeds == (10, 20, 30, 40, 50)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("preset: smok", "presets: there is no 'smok'"),
        ("preset: ../tables", "presets: there is no '../tables'"),
        ("recipe: controled", "the nearest valid one is 'controlled'"),
        ("sorce: local", "preset smoke: sorce: no such key; the nearest valid one is 'source'"),
        ("source: lokal", "preset smoke: data.source: 'lokal' is not valid here; the nearest valid one is 'local'"),
        ("training: {stepz: 3}", "preset smoke: training.stepz: no such key; the nearest valid one is 'steps'"),
        ("training: {steps: x}", "preset smoke: training.steps: input should be a valid integer"),
        ("training: {steps: 0}", "preset smoke: training.steps: input should be greater than or equal to 1, not '0'"),
        ("training: 20", "preset smoke: training: a mapping is expected, not '20'"),
        ("data: x, source: local", "preset smoke: data: a mapping is expected, not 'x'"),
        ("source: local", "add data_dir=PATH to --config"),
        ("data_dir: x", "add source=local to --config"),
        ("families: {tiny: {teacher: {layer: 1}}}", "teacher.layer: no such key; the nearest valid one is 'layers'"),
        ("families: {tiny: {teacher: {width: 65, heads: 4}}}", "families.tiny.teacher: width 65 is not a multiple of heads 4"),
        ("families: {tiny: {teacher: {builder: tinny}}}", "families.tiny.teacher: 'tinny' is not valid here"),
        ("families: {big: {teacher: {layers: 1}}}", "families.big.teacher: the key 'builder' is missing"),
        ("families: {big: {}}", "preset smoke: families.big.student: field required"),
        ("tables: {table1: {rows: [sft, kdd]}}", "tables.table1.rows: there is no method 'kdd'; the nearest valid one"),
        ("tables: {table1: {rows: [sft, sft]}}", "tables.table1: 'sft' stands here twice"),
        ("tables: {table1: {rows: []}}", "preset smoke: tables.table1.rows: tuple should have at least 1 item"),
        ("tables: {mine: {rows: [sft]}}", "preset smoke: tables.mine.kind: field required"),
        ("tables: {Mine: {kind: main, title: x, rows: [sft]}}", "tables.Mine: string should match pattern"),
        ("tables: {report: {kind: main, title: x, rows: [sft]}}", "tables.report: a target or open check has that"),
        ("tables: {table2: {kind: ablated}}", "tables.table2.kind: 'ablated' is not valid here; the nearest valid one is"),
        ("tables: {table2: {colums: []}}", "tables.table2.colums: no such key; the nearest valid one is 'columns'"),
        ("tables: {table2: {columns: [doly]}}", "table2.columns: there is no column 'doly'; the nearest valid one is 'dolly'"),
        ("tables: {table2: {reference: mgrs}}", "table2.reference: there is no row 'mgrs'; the nearest valid one is 'mgsr'"),
        ("metrics: ['mine:f']", "metrics must begin with 'rouge_l'"),
        ("metrics: [rouge_l, rouge_1]", "metrics: there is no metric 'rouge_1'; the nearest valid one is 'rouge_l'"),
        ("metrics: [rouge_l, 'nowhere:f']", "'nowhere:f': there is no module nowhere"),
        ("training_seeds: []", "preset smoke: training_seeds"),
        ("twins: [mgrs]", "twins: there is no method 'mgrs'; the nearest valid one is 'mgsr'"),
        ("overlays: [{methods: [gdk], set: {}}]", "overlays.0.methods: there is no method 'gdk'; the nearest"),
        ("overlays: [{families: [tyny], set: {}}]", "overlays.0.families: there is no family 'tyny'; the nearest"),
        ("overlays: [{method: [kd], set: {}}]", "overlays.0.method: no such key; the nearest valid one is 'methods'"),
        ("overlays: [{except_methods: [gdk], set: {}}]", "overlays.0.except_methods: there is no method 'gdk'; the nearest"),
        ("methods: {kd: {title: mine}}", "methods.kd: workflow/methods has a file of that name"),
        ("methods: {own: {base: kd, titel: mine}}", "method own of family tiny: titel: no such key; the nearest"),
        ("tables: {table1: {extra_rows: [kd]}}", "tables.table1: 'kd' stands here twice"),
        ("tables: {table1: {extra_rows: [mine]}}", "tables.table1.extra_rows: there is no method 'mine'"),
        ("checks: {diversty: {rows: [mgsr]}}", "diversty: 'diversty' is not valid here; the nearest valid one is 'diversity'"),
        ("checks: {diversity: {rows: [mgrs]}}", "checks.diversity.rows: there is no method 'mgrs'; the nearest valid"),
        ("checks: {clipping_range: {rows: []}}", "checks.clipping_range: `rows` names no method"),
        ("tables: {table2: {families: [OPT]}}", "tables.table2.families: there is no family 'OPT'"),
        ("checks: {diversity: {families: [OPT]}}", "checks.diversity.families: there is no family 'OPT'"),
        ("default_targets: [claims]", "default_targets names no table"),
        ("default_targets: [table1, claim]", "default_targets: there is no target 'claim'; the nearest valid one is 'claims'"),
        ("checkpoints: {released: {title: x, family: big, model: {builder: hub, name: x/y}}}", "there is no family 'big'"),
        ("small_students: {tiny: {family: tiny, student: {builder: hub, name: x}}}", "a family has that name"),
        ("processes: 3", " is not a multiple of 3 processes"),
        ("data: {max_length: 512}", "positions cannot hold data.max_length 512"),
        ("data: {max_length: 100, max_prompt_length: 100}", "leaves no room"),
        ("data: {test_sets: {dolly: {rows: 0}}}", "data.test_sets.dolly.rows: input should be greater than or equal to 1"),
        ("data: {test_sets: {mine: {title: Mine}}}", "data.test_sets.mine: nothing says where its records are; give"),
        ("data: {test_sets: {average: {title: x, file: x}}}", "data.test_sets.average: something else has that name"),
        ("training: {learning_rate: [0.001, 0.001]}", "training.learning_rate: '0.001' stands here twice; name it once"),
        ("training: {learning_rate: []}", "training.learning_rate: tuple should have at least 1 item"),
        ("training: {learning_rate: fast}", "training.learning_rate: input should be a valid number"),
        ("training: {learning_rates: [0.001]}", "no such key; the nearest valid one is 'learning_rate'"),
    ],
)
def test_a_wrong_key_or_value_is_named_by_its_path(given: str, expected: str) -> None:
    assert expected in message(yaml.safe_load(f"{{{given}}}"))


@pytest.mark.parametrize(
    ("method", "given", "expected"),
    [
        (
            "gkd",
            "objective: {distillation: {bta: 1}}",
            "distillation.bta: no such key; the nearest valid one is 'beta'",
        ),
        ("gkd", "objective: {sft_weight: 0}, sequences: {dataset_terms: sft}", "dataset_terms 'sft' needs policy 'mixed' or"),
        ("kd", "sequences: {scrg: {}}", "policy 'dataset' has none"),
        ("kd", "sequences: {policy: custom}", "policy 'custom' and the key function (`module:function`) go together"),
        ("kd", "objective: {distillation: {name: custom, function: 'nowhere:f'}}", "'nowhere:f': there is no module nowhere"),
        ("kd", "objective: {span_weight: 1, span: {vectors: clipped}}", "span.vectors 'clipped' compares DAC-KL's vectors"),
        ("sft", "objective: {sft_weight: 0}", "every term has weight 0"),
        ("seqkd", "sequences: {scrg: {}}", "set scrg to null"),
        ("minillm", "sequences: {policy: student}", "'policy_gradient' and sequences.policy 'collection' go together"),
        ("minillm", "sequences: {collection: {rollouts: 17}}", "17 is not a multiple of training.global_batch 16"),
        ("mgsr_target_only", "objective: {distillation: {normalisation: kept}}", "always 0"),
        ("mgsr_fixed_999_4", "objective: {distillation: {start_lower: 0.9999}}", "above start_upper 0.999: the band is empty"),
        ("distillm", "sequences: {off_policy: {buffer_size: 4}}", "buffer_size 4 is smaller than training.global_batch"),
    ],
)
def test_a_wrong_setting_of_a_method_is_named(method: str, given: str, expected: str) -> None:
    own = {"methods": [method], "set": yaml.safe_load(f"{{{given}}}")}
    told = message({"overlays": [own]})
    assert expected in told and (f"method {method} of family tiny: " in told or "nowhere" in told)


def test_every_fault_is_told_at_once() -> None:
    assert len(message({"training": {"stepz": 3, "dropout": 2}, "threads": 0}).splitlines()) == 3


def test_an_overlay_of_a_method_that_no_table_shows_is_checked_too(workflow: Path) -> None:
    (workflow / "methods" / "own.yaml").write_text("base: kd\ntitle: own\n")
    told = message({"overlays": [{"methods": ["own"], "set": {"starts": "sft"}}]}, workflow)
    assert "method own of family tiny: starts: no such key" in told


def test_a_recipe_may_name_families_of_another_preset_but_no_unknown_one(workflow: Path) -> None:
    plan_of({"recipe": "paper"}, workflow)
    (workflow / "recipes" / "own.yaml").write_text("overlays: [{families: [GPT3], set: {}}]\n")
    told = message({"recipe": "own"}, workflow)
    assert "recipe own: overlays.0.families: there is no family 'GPT3'; the nearest valid one is 'GPT2'" in told


def test_broken_files_are_named(workflow: Path) -> None:
    kd = workflow / "methods" / "kd.yaml"
    gkd = workflow / "methods" / "gkd.yaml"
    gkd.write_text(f"base: kd\n{gkd.read_text()}")
    for text, expected in (
        ("title: [", f"{kd}: not valid YAML"),
        ("- a list", f"{kd}: a mapping is expected at the top"),
        ("", "method kd of family tiny: title: field required"),
        ("base: gkd\n", "name each other as `base` in a circle"),
        ("base: gdk\n", "methods.kd.base: there is no method 'gdk'; the nearest valid one is 'gkd'"),
    ):
        kd.write_text(text)
        assert expected in message({}, workflow)


def test_numbers_may_be_given_as_text() -> None:
    config = config_of({"training": {"steps": "20", "learning_rate": "1e-3"}, "threads": "2"})
    assert (config.training.steps, config.training.learning_rate, config.threads) == (20, 1e-3, 2)


def test_a_mapping_of_another_variant_replaces_the_one_below() -> None:
    below = {"distillation": {"name": "dac_kl", "content": "mask"}, "span_weight": 1.0}
    other = {"distillation": {"name": "forward_kl"}}
    assert merge(below, other) == {**other, "span_weight": 1.0}
    assert merge(below, {"distillation": {"content": "x"}})["distillation"] == {"name": "dac_kl", "content": "x"}
    assert merge(below, {"distillation": None})["distillation"] is None
    assert below["distillation"] == {"name": "dac_kl", "content": "mask"}


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(value, Mapping):
        return {path: value}
    return {key: leaf for name, part in value.items() for key, leaf in leaves(part, (*path, name)).items()}


def test_ablations_are_mgsr_but_for_one_part() -> None:
    methods = methods_of()
    full = methods.resolve("tiny", "mgsr").model_dump(exclude={"title"})
    for name, part in {"scrg": "sequences", "dac_kl": "objective", "span": "objective"}.items():
        other = methods.resolve("tiny", f"mgsr_without_{name}").model_dump(exclude={"title"})
        assert {key for key in full if full[key] != other[key]} == {part}
    printed = {
        "content": "mask", "target": "twice", "normalisation": "none", "mask_space": "probability", "softness": 1e-7,
        "trained_by": "same", "start_upper": 0.5, "start_lower": 0.5,
    }  # fmt: skip
    stated = methods.resolve("tiny", "mgsr_as_printed").objective.distillation
    assert isinstance(stated, DacKlConfig) and printed.items() <= stated.model_dump().items()
    assert set(methods.values("mgsr_without_span")) <= {"title", "sequences", "objective"}


def test_every_variant_differs_from_mgsr_and_from_every_other() -> None:
    """No row of a table or check is a copy under another title."""
    plan = plan_of({"preset": "mini"})
    seen: dict[str, str] = {}
    for name in plan.methods.names:
        resolved = json.dumps(plan.methods.resolve("SmolLM2", name).model_dump(exclude={"title"}), sort_keys=True)
        assert resolved not in seen, f"{name} is {seen[resolved]}"
        seen[resolved] = name
    named = {name for table in plan.config.tables.values() for name in table.methods}
    named |= {name for check in plan.config.checks.values() for name in check.rows}
    assert set(plan.config.methods) <= named, "a variant that no table or check shows"


def test_the_grid_of_clipping_ranges_has_an_effect() -> None:
    """On a long-tailed teacher (Zipf, SmolLM2's vocabulary): thresholds that keep the same classes would compare nothing."""
    plan = plan_of({"preset": "mini"})
    vocabulary = 49152
    t_logp = (-1.2 * torch.arange(1.0, vocabulary + 1).log()).log_softmax(-1)[None]
    s_logp = t_logp.flip(-1)
    losses, masses = {}, {}
    for name in plan.config.checks["clipping_range"].rows:
        clipping = plan.methods.resolve("SmolLM2", name).objective.distillation
        assert isinstance(clipping, DacKlConfig)
        if clipping.thresholds != "learned":
            loss, band = DacKl(clipping, vocabulary, seed=1)(s_logp, t_logp)
            losses[name], masses[name] = float(loss), float(band.kept_mass)
    ordered = sorted(losses.values())
    assert all(high > 1.02 * low for low, high in pairwise(ordered)), losses
    # "upper tenth": all the mass of the largest tenth of classes, but for the band's soft edge
    tenth = float(t_logp[0, : vocabulary // 10].exp().sum())
    assert masses["mgsr_rank"] == pytest.approx(tenth, rel=0.01)
    assert masses["mgsr_mass"] == pytest.approx(0.95, abs=1e-3)


def test_sensitivity_changes_one_thing_at_a_time() -> None:
    plan = plan_of({"preset": "mini"})
    full = leaves(plan.methods.resolve("SmolLM2", "mgsr").model_dump(mode="json", exclude={"title"}))
    for name in plan.config.checks["sensitivity"].rows[1:]:
        other = leaves(plan.methods.resolve("SmolLM2", name).model_dump(mode="json", exclude={"title"}))
        changed = {path for path in full if full[path] != other.get(path)}
        # the mask's space and the width of its edge go together, and so do the two thresholds
        allowed = 2 if "mask_probability" in name or name == "mgsr_start_natural" else 1
        assert 1 <= len(changed) <= allowed, f"{name}: {changed}"


@pytest.mark.parametrize("preset", PRESETS)
def test_pitfall_18_the_controlled_recipe_treats_all_methods_alike(preset: str) -> None:
    """One start, SFT weight and grid of learning rates for all rows; dropout for all but MiniLLM, whose importance ratio wants
    none. The second rows, of SFT weight 0, are alike among themselves."""
    plan = plan_of({"preset": preset, "recipe": "controlled"})
    rows = {row for shown in (*plan.tables.values(), *plan.checks.values()) for row in shown.rows if row.role == "student"}
    alike = defaultdict(set)
    for row in rows:
        run = plan.runs[row.run]
        trained = [plan.runs[name] for name in run.candidates] if isinstance(run, SelectSpec) else [run]
        assert isinstance(run, SelectSpec | TrainSpec) and all(isinstance(one, TrainSpec) for one in trained)
        starts = {one.start_run for one in trained if isinstance(one, TrainSpec)}
        if starts == {None} or row.method == "mgsr_without_sft":  # SFT itself; a check whose subject is the weight
            continue
        dropout = plan.config.training.dropout if run.method.sequences.policy == "collection" else run.method.training.dropout
        memory = {"rollout_batch": plan.config.training.rollout_batch}  # it is no term of a comparison
        training = run.method.training.model_copy(update={"dropout": dropout, **memory})
        alike[row.family, row.method.endswith(SECOND_ROW)].add((*starts, run.method.objective.sft_weight, training))
        assert tuple(one.learning_rate for one in trained if isinstance(one, TrainSpec)) == training.rate_grid
    families = (*plan.config.families, *plan.config.small_students)
    assert all(len(alike[family, False]) == 1 for family in families), "starts, SFT weights or training settings differ"
    assert all(len(settings) == 1 for settings in alike.values())
    second_weights = {weight for (_, second), settings in alike.items() for _, weight, _ in settings if second}
    assert second_weights == ({0.0} if plan.methods.rows_without_sft else set())


@pytest.mark.parametrize("preset", PRESETS)
def test_off_policy_methods_replay_in_every_preset(preset: str) -> None:
    """A buffer that never fills is never drawn from: the method would be on-policy with a small share."""
    plan = plan_of({"preset": preset})
    for name in ("distillm", "mgsr_off_policy", "mgsr_off_policy_unrevised"):
        method = plan.methods.resolve(next(iter(plan.config.families)), name)
        steps, batch = method.training.steps_of(11_900), method.training.global_batch
        off_policy = method.sequences.off_policy.model_copy(update={"initial_threshold": 0.2})
        sequences = method.sequences.model_copy(update={"off_policy": off_policy})
        policy = RolloutPolicy(sequences, seed=plan.config.training_seeds[0], global_batch=batch)
        sources = Counter[str]()
        for step in range(1, steps + 1):
            sources[source := policy.plan(step, steps)] += 1
            if source == "student":
                policy.store([Sequence("any", (2,), (3,), True)] * batch)
        assert min(sources[source] for source in ("student", "buffer", "dataset")) > 1, f"{name}: {dict(sources)}"


def test_pitfall_26_the_global_batch_is_stated_and_does_not_follow_the_processes() -> None:
    one, two = (plan_of({"preset": "smoke", "processes": n}) for n in (1, 2))
    batches = [[run.method.training.global_batch for run in plan.runs.values() if run.kind == "train"] for plan in (one, two)]
    assert batches[0] == batches[1] != []


def test_pitfall_27_the_published_protocol_is_named_and_beside_it_the_plain_one() -> None:
    assert load_config(WORKFLOW, {}).evaluation.protocols == ("published", "plain")


def test_pitfall_20_options_are_exact_words() -> None:
    wrong = {"overlays": [{"methods": ["kd"], "set": {"objective": {"distillation": {"name": "kl"}}}}]}
    assert "objective.distillation: 'kl' is not valid here; the nearest valid one is" in message(wrong)


def mgsr(*arguments: str) -> str:
    """What the command prints."""
    return subprocess.run([sys.executable, "-m", "mgsr", *arguments], capture_output=True, text=True, check=True).stdout


markdown = runpy.run_path(str(ROOT / "docs" / "write_configuration.py"))["markdown"]


def test_the_schema_file_is_the_models_and_the_command_prints_it() -> None:
    schema = json.loads((WORKFLOW / "config.schema.json").read_text())
    assert schema == Config.model_json_schema(), "run `mgsr schema > workflow/config.schema.json`"
    assert json.loads(mgsr("schema")) == schema


def test_the_reference_page_is_the_models() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == markdown() + "\n", "run `python docs/write_configuration.py`"


def test_every_field_of_the_configuration_has_a_description() -> None:
    rows = [line for line in markdown().splitlines() if line.startswith("| `")]
    undescribed = {row.split()[1] for row in rows if row.endswith("| chooses this form |")}
    assert len(rows) > 80 and undescribed <= {"`name`", "`builder`"}


def test_keys_of_presets_stand_in_the_schema() -> None:
    known = set(json.loads((WORKFLOW / "config.schema.json").read_text())["properties"])
    for preset in PRESETS:
        assert set(yaml.safe_load((WORKFLOW / "presets" / f"{preset}.yaml").read_text())) <= known


def test_every_option_of_the_command_is_explained() -> None:
    commands = re.findall(r"^    ([a-z-]+)", mgsr("--help"), re.MULTILINE)
    assert commands[:4] == ["schema", "plan", "verify", "runs"], "those for people come first"
    for parser in make_parser()._subparsers._group_actions[0].choices.values():  # type: ignore[union-attr, attr-defined]
        assert parser.description and all(action.help for action in parser._actions)
    assert mgsr("--version") == f"mgsr {__version__}\n"


def test_an_error_of_a_job_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mgsr", "train", "--root", str(tmp_path), "--name", "no"]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 1 and failed.stderr == f"mgsr: {tmp_path / 'specs' / 'no.json'} does not exist\n"


@pytest.mark.parametrize("recipe", RECIPES)
def test_gpt2_xl_is_never_fine_tuned_at_5e_4(recipe: str) -> None:
    """The code base's teacher has 5e-5, and the printed score of the teacher is that one's."""
    plan = plan_of({"preset": "paper", "recipe": recipe})
    gpt2_xl = HubModel(builder="hub", name="openai-community/gpt2-xl")
    trained = [run for run in plan.runs.values() if isinstance(run, TrainSpec) and plan.models[run.base_model].model == gpt2_xl]
    assert [run.learning_rate for run in trained] == [5e-5]


def test_a_teacher_and_student_text_are_wanted_by_what_a_method_states() -> None:
    methods = methods_of()
    kinds = {name: methods.resolve("tiny", name) for name in methods.names}
    without_teacher = {name for name, method in kinds.items() if not method.needs_teacher}
    assert without_teacher == {"teacher", "sft_start", "sft", "sft_continued"}
    without_student_text = {name for name, method in kinds.items() if not method.wants_student_text}
    assert without_student_text == {*without_teacher, "kd", "seqkd", "seqkd_kd", "akl", "abkd", "taid"}
    custom = kinds["mgsr"].sequences.model_copy(update={"policy": "custom", "function": "mine:policy"})
    method = kinds["mgsr"].model_copy(update={"sequences": custom})
    assert method.needs_teacher and not method.wants_student_text, "a policy of one's own may do without, unwarned"


def test_a_recipe_takes_the_place_of_a_presets_values_but_of_no_stated_one() -> None:
    def rates(**given: Any) -> tuple[float, ...]:
        return config_of({"preset": "mini", **given}).training.rate_grid

    assert rates() == (1e-4, 4e-4) and rates(recipe="paper") == (2e-4,)
    assert rates(recipe="paper", training={"learning_rate": 1e-3}) == (1e-3,)
