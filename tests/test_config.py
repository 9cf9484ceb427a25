"""Configuration: merging, messages, presets, schema and reference page in step."""

from __future__ import annotations

import json
import shutil
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

from mgsr.config.base import SECOND_ROW
from mgsr.config.load import load_config, load_methods, merge
from mgsr.config.loss_terms import DacKlConfig
from mgsr.config.plan import make_plan
from mgsr.config.reference import markdown
from mgsr.config.schema import CheckName, Config, TableName
from mgsr.errors import MgsrError
from mgsr.objectives.dac_kl import DacKl
from mgsr.rollouts.schedule import RolloutPolicy
from mgsr.rollouts.sequence import Sequence

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / "workflow"
PRESETS = ("smoke", "mini", "paper")
RECIPES = ("controlled", "paper")


def message(given: Mapping[str, Any], folder: Path = WORKFLOW) -> str:
    with pytest.raises(MgsrError) as caught:
        make_plan(folder, load_config(folder, {"preset": "smoke", **given}))
    return str(caught.value)


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    for kind in ("presets", "methods", "recipes"):
        shutil.copytree(WORKFLOW / kind, tmp_path / kind)
    shutil.copy(WORKFLOW / "tables.yaml", tmp_path)
    return tmp_path


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_preset_resolves_under_every_recipe(preset: str, recipe: str) -> None:
    plan = make_plan(WORKFLOW, load_config(WORKFLOW, {"preset": preset, "recipe": recipe}))
    assert set(plan.tables) == set(get_args(TableName)) and all(plan.tables.values())
    assert set(plan.checks) == set(get_args(CheckName))
    assert {row.family for row in plan.tables["table1"]} == set(plan.config.families)


def test_without_a_preset_it_is_the_paper_with_the_papers_recipe() -> None:
    config = load_config(WORKFLOW, {})
    assert (config.preset, config.recipe) == ("paper", "paper")
    assert set(config.families) == {"GPT2", "OPT", "OpenLLaMA2", "LLaMA2"}
    assert config.evaluation.decoding_seeds == (10, 20, 30, 40, 50)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"preset": "smok"}, "presets: there is no 'smok'"),
        ({"recipe": "controled"}, "the nearest valid one is 'controlled'"),
        ({"sorce": "local"}, "preset smoke: sorce: no such key; the nearest valid one is 'source'"),
        ({"source": "lokal"}, "preset smoke: data.source: 'lokal' is not valid here; the nearest valid one is 'local'"),
        ({"training": {"stepz": 3}}, "preset smoke: training.stepz: no such key; the nearest valid one is 'steps'"),
        ({"training": {"steps": "x"}}, "preset smoke: training.steps: input should be a valid integer"),
        ({"training": {"steps": 0}}, "preset smoke: training.steps: input should be greater than or equal to 1, not '0'"),
        ({"training": 20}, "preset smoke: training: a mapping is expected, not '20'"),
        ({"data": "x", "source": "local"}, "preset smoke: data: a mapping is expected, not 'x'"),
        ({"source": "local"}, "add data_dir=PATH to --config"),
        ({"data_dir": "x"}, "add source=local to --config"),
        (
            {"families": {"tiny": {"teacher": {"layer": 1}}}},
            "preset smoke: families.tiny.teacher.layer: no such key; the nearest valid one is 'layers'",
        ),
        (
            {"families": {"tiny": {"teacher": {"width": 65, "heads": 4}}}},
            "families.tiny.teacher: width 65 is not a multiple of heads 4",
        ),
        ({"families": {"tiny": {"teacher": {"builder": "tinny"}}}}, "families.tiny.teacher: 'tinny' is not valid here"),
        ({"families": {"big": {"teacher": {"layers": 1}}}}, "families.big.teacher: the key 'builder' is missing"),
        ({"families": {"big": {}}}, "preset smoke: families.big.student: field required"),
        ({"tables": {"table11": ["sft"]}}, "preset smoke: tables.table11: 'table11' is not valid here; the nearest"),
        ({"tables": {"table1": ["sft", "kdd"]}}, "methods: there is no 'kdd'"),
        ({"tables": {"table1": ["sft", "sft"]}}, "tables.table1 must name at least one method, and each once"),
        ({"training_seeds": []}, "preset smoke: training_seeds"),
        ({"overlays": [{"methods": ["gdk"], "set": {}}]}, "overlays.0.methods: there is no 'gdk'; the nearest"),
        ({"overlays": [{"families": ["tyny"], "set": {}}]}, "overlays.0.families: there is no 'tyny'; the nearest"),
        ({"overlays": [{"method": ["kd"], "set": {}}]}, "overlays.0.method: no such key; the nearest valid one is 'methods'"),
        (
            {"overlays": [{"methods": ["gkd"], "set": {"objective": {"distillation": {"bta": 1}}}}]},
            "method gkd of family tiny: objective.distillation.bta: no such key; the nearest valid one is 'beta'",
        ),
        ({"overlays": [{"methods": ["kd"], "set": {"sequences": {"scrg": {}}}}]}, "policy 'dataset' has none"),
        ({"overlays": [{"methods": ["sft"], "set": {"objective": {"sft_weight": 0}}}]}, "every term has weight 0"),
        ({"overlays": [{"except_methods": ["gdk"], "set": {}}]}, "overlays.0.except_methods: there is no 'gdk'; the nearest"),
        ({"methods": {"kd": {"title": "mine"}}}, "methods.kd: workflow/methods has a file of that name"),
        ({"methods": {"own": {"base": "kd", "titel": "mine"}}}, "method own of family tiny: titel: no such key; the nearest"),
        ({"extra_rows": {"table1": ["kd"]}}, "tables.table1 must name at least one method, and each once"),
        ({"extra_rows": {"table1": ["mine"]}}, "methods: there is no 'mine'"),
        (
            {"checks": {"diversty": ["mgsr"]}},
            "checks.diversty: 'diversty' is not valid here; the nearest valid one is 'diversity'",
        ),
        ({"table_families": {"table2": ["OPT"]}}, "table_families.table2: there is no family 'OPT'"),
        ({"default_targets": ["claims"]}, "default_targets names no table"),
        (
            {"checkpoints": {"released": {"title": "x", "family": "big", "model": {"builder": "hub", "name": "x/y"}}}},
            "checkpoints.released.family: there is no family 'big'",
        ),
        ({"small_students": {"tiny": {"family": "tiny", "student": {"builder": "hub", "name": "x"}}}}, "is a family's name"),
        (
            {"overlays": [{"methods": ["minillm"], "set": {"sequences": {"policy": "student"}}}]},
            "distillation 'policy_gradient' and sequences.policy 'collection' go together",
        ),
        (
            {"overlays": [{"methods": ["minillm"], "set": {"sequences": {"collection": {"rollouts": 17}}}}]},
            "sequences.collection.rollouts 17 is not a multiple of training.global_batch 16",
        ),
        (
            {"methods": {"own": {"title": "own", "sequences": {"policy": "custom"}}}},
            "policy 'custom' and the key function (`module:function`) go together",
        ),
        (
            {
                "methods": {"own": {"base": "kd", "objective": {"distillation": {"name": "custom", "function": "nowhere:f"}}}},
                "extra_rows": {"table1": ["own"]},
            },
            "'nowhere:f': there is no module nowhere",
        ),
        (
            {"methods": {"own": {"base": "kd", "objective": {"span_weight": 1, "span": {"vectors": "clipped"}}}}},
            "span.vectors 'clipped' compares DAC-KL's vectors",
        ),
        (
            {
                "methods": {"own": {"base": "gkd", "objective": {"sft_weight": 0}, "sequences": {"dataset_terms": "sft"}}},
                "recipe": "paper",
            },
            "dataset_terms 'sft' needs policy 'mixed' or 'off_policy'",
        ),
        ({"methods": {"own": {"base": "seqkd", "sequences": {"scrg": {}}}}}, "set scrg to null"),
        (
            {"methods": {"own": {"base": "mgsr_target_only", "objective": {"distillation": {"normalisation": "kept"}}}}},
            "always 0",
        ),
        (
            {"methods": {"own": {"base": "mgsr_fixed_999_4", "objective": {"distillation": {"start_lower": 0.9999}}}}},
            "start_lower 0.9999 lies above start_upper 0.999: the band is empty",
        ),
        ({"processes": 3}, " is not a multiple of 3 processes"),
        (
            {"overlays": [{"methods": ["distillm"], "set": {"sequences": {"off_policy": {"buffer_size": 4}}}}]},
            "method distillm of family tiny: sequences.off_policy.buffer_size 4 is smaller than training.global_batch",
        ),
        ({"data": {"max_length": 512}}, "positions cannot hold data.max_length 512"),
        ({"data": {"max_length": 100, "max_prompt_length": 100}}, "leaves no room"),
        ({"data": {"test_rows": {"dolly": 0}}}, "data.test_rows.dolly"),
        ({"data": {"test_rows": {"doly": 5}}}, "'doly' is not valid here; the nearest valid one is 'dolly'"),
    ],
)
def test_a_wrong_key_or_value_is_named_by_its_path(given: Mapping[str, Any], expected: str) -> None:
    assert expected in message(given)


def test_every_fault_is_told_at_once() -> None:
    assert len(message({"training": {"stepz": 3, "dropout": 2}, "threads": 0}).splitlines()) == 3


def test_an_overlay_of_a_method_that_no_table_shows_is_checked_too(workflow: Path) -> None:
    (workflow / "methods" / "own.yaml").write_text("base: kd\ntitle: own\n")
    assert "method own of family tiny: starts: no such key" in message(
        {"overlays": [{"methods": ["own"], "set": {"starts": "sft"}}]}, workflow
    )


def test_a_recipe_may_name_families_of_another_preset_but_no_unknown_one(workflow: Path) -> None:
    make_plan(workflow, load_config(workflow, {"preset": "smoke", "recipe": "paper"}))
    (workflow / "recipes" / "own.yaml").write_text("overlays: [{families: [GPT3], set: {}}]\n")
    assert "recipe own: overlays.0.families: there is no 'GPT3'; the nearest valid one is 'GPT2'" in message(
        {"recipe": "own"}, workflow
    )


def test_broken_files_are_named(workflow: Path) -> None:
    kd = workflow / "methods" / "kd.yaml"
    kd.write_text("title: [")
    assert f"{kd}: not valid YAML" in message({}, workflow)
    kd.write_text("- a list")
    assert f"{kd}: a mapping is expected at the top" in message({}, workflow)
    kd.write_text("")
    assert "method kd of family tiny: title: field required" in message({}, workflow)
    kd.write_text("base: gkd\n")
    (workflow / "methods" / "gkd.yaml").write_text("base: kd\n")
    assert "go round in a circle" in message({}, workflow)
    kd.write_text("base: gdk\n")
    assert "there is no 'gdk'" in message({}, workflow)


def test_numbers_may_be_given_as_text() -> None:
    config = load_config(WORKFLOW, {"preset": "smoke", "training": {"steps": "20", "learning_rate": "1e-3"}, "threads": "2"})
    assert (config.training.steps, config.training.learning_rate, config.threads) == (20, 1e-3, 2)


def test_a_mapping_of_another_variant_replaces_the_one_below() -> None:
    below = {"distillation": {"name": "dac_kl", "content": "mask"}, "span_weight": 1.0}
    assert merge(below, {"distillation": {"name": "forward_kl"}}) == {
        "distillation": {"name": "forward_kl"},
        "span_weight": 1.0,
    }
    assert merge(below, {"distillation": {"content": "x"}})["distillation"] == {"name": "dac_kl", "content": "x"}
    assert merge(below, {"distillation": None})["distillation"] is None
    assert below["distillation"] == {"name": "dac_kl", "content": "mask"}


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(value, Mapping):
        return {path: value}
    return {key: leaf for name, part in value.items() for key, leaf in leaves(part, (*path, name)).items()}


def test_ablations_are_mgsr_but_for_one_part() -> None:
    methods = load_methods(WORKFLOW, load_config(WORKFLOW, {"preset": "smoke"}))
    full = methods.resolve("tiny", "mgsr").model_dump(exclude={"title"})
    for name, part in {"scrg": "sequences", "dac_kl": "objective", "span": "objective"}.items():
        other = methods.resolve("tiny", f"mgsr_without_{name}").model_dump(exclude={"title"})
        assert {key for key in full if full[key] != other[key]} == {part}
    printed = methods.resolve("tiny", "mgsr_as_printed").objective.distillation
    assert isinstance(printed, DacKlConfig)
    assert (printed.content, printed.target, printed.normalisation, printed.mask_space) == (
        "mask",
        "twice",
        "none",
        "probability",
    )
    assert (printed.softness, printed.trained_by, printed.start_upper, printed.start_lower) == (1e-7, "same", 0.5, 0.5)
    assert set(methods.values("mgsr_without_span")) <= {"title", "sequences", "objective"}


def test_every_variant_differs_from_mgsr_and_from_every_other() -> None:
    """No row of a table or check is a copy under another title."""
    config = load_config(WORKFLOW, {"preset": "mini"})
    methods = load_methods(WORKFLOW, config)
    seen: dict[str, str] = {}
    for name in methods.names:
        resolved = json.dumps(methods.resolve("SmolLM2", name).model_dump(exclude={"title"}), sort_keys=True)
        assert resolved not in seen, f"{name} is {seen[resolved]}"
        seen[resolved] = name
    named = {name for names in (*config.tables.values(), *config.checks.values()) for name in names}
    assert set(config.methods) <= named, "a variant that no table or check shows"


def test_the_grid_of_clipping_ranges_has_an_effect() -> None:
    """On a long-tailed teacher (Zipf, SmolLM2's vocabulary): thresholds that keep the same classes would compare nothing."""
    config = load_config(WORKFLOW, {"preset": "mini"})
    methods = load_methods(WORKFLOW, config)
    vocabulary = 49152
    t_logp = (-1.2 * torch.arange(1.0, vocabulary + 1).log()).log_softmax(-1)[None]
    s_logp = t_logp.flip(-1)
    losses, masses = {}, {}
    for name in config.checks["clipping_range"]:
        clipping = methods.resolve("SmolLM2", name).objective.distillation
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
    config = load_config(WORKFLOW, {"preset": "mini"})
    methods = load_methods(WORKFLOW, config)
    full = leaves(methods.resolve("SmolLM2", "mgsr").model_dump(mode="json", exclude={"title"}))
    for name in config.checks["sensitivity"][1:]:
        other = leaves(methods.resolve("SmolLM2", name).model_dump(mode="json", exclude={"title"}))
        changed = {path for path in full if full[path] != other.get(path)}
        # the mask's space and the width of its edge go together, and so do the two thresholds
        allowed = 2 if "mask_probability" in name or name == "mgsr_start_natural" else 1
        assert 1 <= len(changed) <= allowed, f"{name}: {changed}"


@pytest.mark.parametrize("preset", PRESETS)
def test_pitfall_18_the_controlled_recipe_treats_all_methods_alike(preset: str) -> None:
    """One start, SFT weight and grid of learning rates for all rows; dropout for all but MiniLLM, whose importance ratio wants
    none. The second rows, of SFT weight 0, are alike among themselves."""
    plan = make_plan(WORKFLOW, load_config(WORKFLOW, {"preset": preset, "recipe": "controlled"}))
    rows = {row for rows in (*plan.tables.values(), *plan.checks.values()) for row in rows if row.role == "student"}
    alike = defaultdict(set)
    for row in rows:
        run = plan.runs[row.run]
        if run.start_run is None or row.method == "mgsr_without_sft":  # SFT itself; a check whose subject is the weight
            continue
        dropout = plan.config.training.dropout if run.method.sequences.policy == "collection" else run.method.training.dropout
        training = run.method.training.model_copy(update={"dropout": dropout})
        alike[row.family, row.method.endswith(SECOND_ROW)].add((run.start_run, run.method.objective.sft_weight, training))
        trained = [plan.runs[candidate].method.training for candidate in run.candidates]
        assert tuple(one.learning_rate for one in trained) == run.method.training.learning_rates
    families = (*plan.config.families, *plan.config.small_students)
    assert all(len(alike[family, False]) == 1 for family in families), "starts, SFT weights or training settings differ"
    assert all(len(found) == 1 for found in alike.values())
    second_weights = {weight for (_, second), found in alike.items() for _, weight, _ in found if second}
    assert second_weights == ({0.0} if plan.methods.rows_without_sft else set())


@pytest.mark.parametrize("preset", PRESETS)
def test_off_policy_methods_replay_in_every_preset(preset: str) -> None:
    """A buffer that never fills is never drawn from: the method would be on-policy with a small share."""
    config = load_config(WORKFLOW, {"preset": preset})
    methods = load_methods(WORKFLOW, config)
    for name in ("distillm", "mgsr_off_policy", "mgsr_off_policy_unrevised"):
        method = methods.resolve(next(iter(config.families)), name)
        steps, batch = method.training.steps, method.training.global_batch
        sequences = method.sequences.model_copy(
            update={"off_policy": method.sequences.off_policy.model_copy(update={"initial_threshold": 0.2})}
        )
        policy = RolloutPolicy(sequences, seed=config.training_seeds[0], global_batch=batch)
        sources = Counter[str]()
        for step in range(1, steps + 1):
            sources[source := policy.plan(step, steps)] += 1
            if source == "student":
                policy.store([Sequence("any", (2,), (3,), True)] * batch)
        assert min(sources[source] for source in ("student", "buffer", "dataset")) > 1, f"{name}: {dict(sources)}"


def test_pitfall_26_the_global_batch_is_stated_and_does_not_follow_the_processes() -> None:
    one, two = (make_plan(WORKFLOW, load_config(WORKFLOW, {"preset": "smoke", "processes": n})) for n in (1, 2))
    assert [r.method.training.global_batch for r in one.runs.values()] == [
        r.method.training.global_batch for r in two.runs.values()
    ]


def test_pitfall_27_the_published_protocol_is_named_and_beside_it_the_plain_one() -> None:
    assert load_config(WORKFLOW, {}).evaluation.protocols == ("published", "plain")


def test_pitfall_20_options_are_exact_words() -> None:
    wrong = {"overlays": [{"methods": ["kd"], "set": {"objective": {"distillation": {"name": "kl"}}}}]}
    assert "objective.distillation: 'kl' is not valid here; the nearest valid one is" in message(wrong)


def test_the_schema_file_is_the_models() -> None:
    assert json.loads((WORKFLOW / "config.schema.json").read_text()) == Config.model_json_schema(), (
        "run `mgsr schema > workflow/config.schema.json`"
    )


def test_the_reference_page_is_the_models() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == markdown() + "\n", (
        "run `mgsr schema --markdown > docs/configuration.md`"
    )


def test_every_field_of_the_configuration_has_a_description() -> None:
    rows = [line for line in markdown().splitlines() if line.startswith("| `")]
    undescribed = [
        row for row in rows if row.endswith("| chooses this form |") and not row.startswith(("| `name`", "| `builder`"))
    ]
    assert len(rows) > 80 and not undescribed


def test_keys_of_presets_stand_in_the_schema() -> None:
    known = set(json.loads((WORKFLOW / "config.schema.json").read_text())["properties"])
    for preset in PRESETS:
        assert set(yaml.safe_load((WORKFLOW / "presets" / f"{preset}.yaml").read_text())) <= known


def test_the_command_prints_schema_and_page() -> None:
    for flags, start in (((), "{"), (("--markdown",), "# Configuration")):
        command = [sys.executable, "-c", "from mgsr.cli import main; main()", "schema", *flags]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith(start)


def test_an_error_of_a_job_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from mgsr.cli import main; main()",
        "report",
        "--cells",
        str(tmp_path / "no.json"),
        "--out",
        "x",
    ]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 1 and failed.stderr == f"mgsr: {tmp_path / 'no.json'} does not exist\n"
