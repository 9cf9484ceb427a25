"""A run with adapters keeps these alone, and whoever loads it gets the bits of a model merged when training ended."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from mgsr.cli import main
from mgsr.config.families import LoraConfig
from mgsr.config.method import Method
from mgsr.config.run_specs import SelectSpec
from mgsr.config.specs import spec_digest
from mgsr.errors import MgsrError
from mgsr.models.adapters import save_adapter
from mgsr.models.hub_model import fetch_model
from mgsr.models.loading import load_model, load_trainable_state, narrow, parameter_count, save_model, trainable_state
from mgsr.storage import seal_folder
from mgsr.training import trainer
from mgsr.training.select import select
from mgsr.training.trainer import train
from tests.models_support import IDS, TARGETS, TOKENIZER, random_model
from tests.records_support import run_stage
from tests.training_support import MGSR, evaluated, evaluation_spec, make_root, run_spec

LORA = LoraConfig(rank=2, alpha=8, dropout=0.0)


def lora(kind: str) -> LoraConfig:
    return LORA.model_copy(update={"target_modules": TARGETS[kind]})


def merged(model: Any) -> dict[str, torch.Tensor]:
    """The weights of the plain architecture, by PEFT's own updates."""
    base = model.get_base_model()
    state = {name.replace(".base_layer.", "."): value for name, value in base.state_dict().items() if ".lora_" not in name}
    for name, module in base.named_modules():
        if isinstance(module, LoraLayer):
            state[f"{name}.weight"] = state[f"{name}.weight"] + module.get_delta_weight("default")
    return {name: value.detach() for name, value in state.items()}


def assert_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def adapted(start: Path, folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """Write moved adapters of the model in `start` to `folder`; gives the merged weights."""
    model = load_model(start, lora=lora(kind), seed=3)
    generator = torch.Generator().manual_seed(3)
    moved = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in trainable_state(model).items()
    }
    load_trainable_state(model, moved)
    folder.mkdir(parents=True)
    save_adapter(model, moved, start, folder)
    TOKENIZER.save_pretrained(folder)
    seal_folder(folder)
    return merged(model)


@pytest.mark.parametrize("kind", TARGETS)
def test_merging_when_loading_gives_the_bits_of_merging_before(tmp_path: Path, kind: str) -> None:
    """For adapters of a base model stored in half precision, and for adapters of these adapters; in fp32 and in bf16."""
    save_model(random_model(kind).half(), TOKENIZER, tmp_path / "models/base")
    start = tmp_path / "models/base"
    for name in ("first", "second"):
        folder = tmp_path / "runs" / name / "model"
        expected = adapted(start, folder, kind)
        given = load_model(folder)
        assert_equal(given.state_dict(), expected)
        assert not torch.equal(given(input_ids=IDS).logits, load_model(start)(input_ids=IDS).logits)
        small = load_model(folder, frozen=True, precision="bf16")
        narrow(wide := load_model(folder, frozen=True))
        assert_equal(small.state_dict(), wide.state_dict())
        assert parameter_count(folder) == sum(parameter.numel() for parameter in given.parameters())
        start = folder


def test_peft_reads_the_folder(tmp_path: Path) -> None:
    save_model(random_model("llama"), TOKENIZER, tmp_path / "base")
    adapted(tmp_path / "base", tmp_path / "run", "llama")
    base = load_model(tmp_path / "base")
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "run"))  # type: ignore[arg-type]
    torch.testing.assert_close(theirs(input_ids=IDS).logits, load_model(tmp_path / "run")(input_ids=IDS).logits)


def test_a_start_that_is_missing_or_another_is_refused(tmp_path: Path) -> None:
    start, folder = tmp_path / "models/base", tmp_path / "runs/run/model"
    save_model(random_model("llama"), TOKENIZER, start)
    adapted(start, folder, "llama")
    weights = load_file(start / "model.safetensors")
    start.rename(tmp_path / "elsewhere")
    with pytest.raises(MgsrError, match=r"adapters of .*base, which is not there; move or restore the whole results folder"):
        load_model(folder)
    (tmp_path / "elsewhere").rename(start)
    weights["model.norm.weight"] += 1
    save_file(weights, start / "model.safetensors", metadata={"format": "pt"})
    seal_folder(start)
    with pytest.raises(MgsrError, match=r"whose weights are no longer those that they were trained on"):
        load_model(folder)


def test_adapters_are_of_linear_layers(tmp_path: Path) -> None:
    save_model(random_model("llama"), TOKENIZER, tmp_path / "base")
    with pytest.raises(MgsrError, match=r"do not fit a llama model: .*embed_tokens is no linear layer"):
        load_model(tmp_path / "base", lora=LORA.model_copy(update={"target_modules": ("embed_tokens",)}))


def test_a_chain_of_runs_trains_as_on_merged_models_and_may_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SFT with adapters, then MGSR with adapters from there, under a teacher with adapters. The same with folders that hold the
    merged models gives the same weights and metrics."""
    root = make_root(tmp_path / "before")
    teacher = root / "runs/teacher/model"
    teacher.rename(root / "models/teacher")
    settings: dict[str, Any] = {"lora": LORA, "learning_rate": 1e-2, "steps": 4}
    train("teacher", run_spec(base_model="teacher", teacher_run=None, **settings), root)
    train("sft", run_spec(teacher_run=None, **settings), root)
    whole = tmp_path / "whole"
    for run in ("teacher", "sft"):
        assert {file.name for file in (root / f"runs/{run}/model").glob("*.safetensors")} == {"adapter_model.safetensors"}
    shutil.copytree(root, whole)
    for run in ("teacher", "sft"):
        folder = whole / f"runs/{run}/model"
        shutil.rmtree(folder)
        monkeypatch.setattr("sys.argv", ["mgsr", "merge", str(root / f"runs/{run}/model"), str(folder)])
        main()
        assert (folder / "config.json").is_file() and not (folder / "start.json").exists()
    spec = run_spec({"policy": "student"}, MGSR, start_run="sft", **settings)
    original, loaded = trainer.load_model, list[Path]()
    monkeypatch.setattr(trainer, "load_model", lambda folder, **given: loaded.append(folder) or original(folder, **given))
    for place in (root, whole):
        train("mgsr", spec, place)
    assert loaded == [root / "runs/sft/model", whole / "runs/sft/model"]  # and not once more to save it
    assert (root / "runs/mgsr/metrics.jsonl").read_bytes() == (whole / "runs/mgsr/metrics.jsonl").read_bytes()
    expected = load_model(whole / "runs/mgsr/model").state_dict()
    assert not torch.equal(
        expected["model.layers.0.self_attn.q_proj.weight"],
        load_model(root / "models/student").state_dict()["model.layers.0.self_attn.q_proj.weight"],
    )
    root = root.rename(tmp_path / "after")
    assert_equal(load_model(root / "runs/mgsr/model").state_dict(), expected)
    scores = [json.loads((evaluated(place, evaluation_spec("mgsr")) / "summary.json").read_text()) for place in (root, whole)]
    assert scores[0]["scores"] == scores[1]["scores"] and scores[0]["heldout"] == scores[1]["heldout"]


def test_the_best_of_a_grid_has_its_adapters_by_link(tmp_path: Path) -> None:
    root, rates = make_root(tmp_path), (1e-5, 3e-2)
    for rate in rates:
        train(f"at {rate:g}", run_spec(learning_rate=rate, select_by="loss", lora=LORA), root)
    method = run_spec(select_by="loss").method.model_dump()
    method["training"]["learning_rate"] = rates
    candidates = tuple(f"at {rate:g}" for rate in rates)
    spec = SelectSpec(family="tiny", method=Method.model_validate(method), seed=10, candidates=candidates, code="")
    run_stage(select, root, spec)
    folder, chosen = root / "runs" / spec_digest(spec) / "model", root / "runs/at 0.03/model"
    assert (folder / "adapter_model.safetensors").samefile(chosen / "adapter_model.safetensors")
    expected = load_model(chosen).state_dict()
    shutil.rmtree(root / "runs/at 0.03")
    assert_equal(load_model(folder).state_dict(), expected)


def test_adapters_alone_are_no_model_to_fetch(tmp_path: Path) -> None:
    save_model(random_model("llama"), TOKENIZER, tmp_path / "base")
    adapted(tmp_path / "base", tmp_path / "run", "llama")
    with pytest.raises(MgsrError, match=r"holds adapters alone; write the whole model with `mgsr merge .*run FOLDER`"):
        fetch_model(str(tmp_path / "run"), tmp_path / "copy", None)
