"""A grid of learning rates: the run of best validation stands for all, and says what the others reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mgsr.cli import main
from mgsr.config.method import Method
from mgsr.config.run_specs import SelectSpec
from mgsr.config.specs import spec_digest
from mgsr.config.stages import stage_code
from mgsr.storage import read_json, write_json
from mgsr.training.select import best, select
from mgsr.training.trainer import train
from tests.records_support import plant_spec, run_stage
from tests.training_support import evaluated, evaluation_spec, make_root, run_spec

RATES = (1e-5, 3e-2)  # the first hardly moves the student


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_root(tmp_path_factory.mktemp("results"))
    for rate in RATES:
        train(f"at {rate:g}", run_spec(learning_rate=rate, select_by="loss"), root)
        record = root / f"runs/at {rate:g}/training.json"
        write_json(record, {**read_json(record), "commit": f"of {rate:g}"})  # trained at another time than it is selected
    run_stage(select, root, grid())
    return root


def grid() -> SelectSpec:
    method = run_spec(select_by="loss").method.model_dump()
    method["training"]["learning_rate"] = RATES
    candidates = tuple(f"at {rate:g}" for rate in RATES)
    return SelectSpec(family="tiny", method=Method.model_validate(method), seed=10, candidates=candidates, code="")


GRID = spec_digest(grid())


def records(root: Path) -> dict[str, dict[str, Any]]:
    return {name: read_json(root / f"runs/{name}/training.json") for name in ("at 1e-05", "at 0.03", GRID)}


def test_the_best_by_validation_stands_for_the_grid(root: Path) -> None:
    low, high, chosen = records(root).values()
    assert high["validation"]["loss"] < low["validation"]["loss"]
    of_its_own = {"run", "spec", "candidates"}
    assert {key: chosen[key] for key in chosen.keys() - of_its_own} == {key: high[key] for key in high.keys() - of_its_own}
    assert chosen["learning_rate"] == 3e-2 and chosen["run"] == GRID and chosen["commit"] == "of 0.03"
    assert (
        chosen["spec"] == read_json(root / "runs" / GRID / "spec.json") and SelectSpec.model_validate(chosen["spec"]) == grid()
    )
    for name in ("metrics.jsonl", "model/model.safetensors", "model/tokenizer.json"):
        assert (root / "runs" / GRID / name).read_bytes() == (root / "runs/at 0.03" / name).read_bytes()


def test_it_says_what_each_candidate_reached(root: Path) -> None:
    low, high, chosen = records(root).values()
    assert [(c["run"], c["learning_rate"], c["validation"]) for c in chosen["candidates"]] == [
        (one["run"], rate, one["validation"]) for one, rate in zip((low, high), RATES, strict=True)
    ]
    assert all(c["training_seconds"] > 0 and c["warnings"] == [] for c in chosen["candidates"])
    assert low["candidates"] == []


def test_it_is_evaluated_as_any_run_is(root: Path) -> None:
    grid, best_rate = (read_json(evaluated(root, evaluation_spec(run)) / "summary.json") for run in (GRID, "at 0.03"))
    assert grid["scores"] == best_rate["scores"] and grid["heldout"] == best_rate["heldout"]


def test_the_model_takes_no_space_twice_and_survives_its_source(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    for rate in RATES:
        train(f"at {rate:g}", run_spec(learning_rate=rate, steps=1, validations=1), root)
    run_stage(select, root, grid())
    files = [root / "runs" / name / "model/model.safetensors" for name in (GRID, read_chosen(root))]
    assert files[0].samefile(files[1])
    kept = files[0].read_bytes()
    train(read_chosen(root), run_spec(learning_rate=1.0, steps=1, validations=1), root)  # the same folder, anew
    assert files[0].read_bytes() == kept != files[1].read_bytes()


def read_chosen(root: Path) -> str:
    return f"at {read_json(root / 'runs' / GRID / 'training.json')['learning_rate']:g}"


def test_highest_rouge_l_or_lowest_loss_and_the_first_of_equals() -> None:
    validations = [(1.0, 20.0), (2.0, 30.0), (3.0, 30.0), (1.0, 10.0)]
    found = [{"validation": {"loss": loss, "rouge_l": score}} for loss, score in validations]
    assert best(found, "rouge_l") is found[1] and best(found, "loss") is found[0]


def test_the_command_selects(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = plant_spec(root, grid().model_copy(update={"code": stage_code("select")}))
    monkeypatch.setattr("sys.argv", ["mgsr", "select", "--root", str(root), "--name", name])
    main()
    assert len(read_json(root / "runs" / name / "training.json")["candidates"]) == 2
