"""`mgsr doctor` passes on a sound machine, and each of its checks reports a fault with what to do."""

from __future__ import annotations

import re
import subprocess
import time
from typing import Any

import pytest
import torch

from mgsr import doctor
from mgsr.cli import main
from mgsr.doctor import CHECKS, CPU, STEPS, Bench
from mgsr.errors import MgsrError
from mgsr.rollouts.static_decoder import StaticDecoder
from mgsr.training import trainer
from mgsr.training.step import TrainStep


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), CPU)


def test_a_sound_machine_passes_within_two_minutes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("sys.argv", ["mgsr", "doctor"])
    started = time.monotonic()
    main()
    lines = capsys.readouterr().out.splitlines()
    assert time.monotonic() - started < 120
    assert len(lines) == len(CHECKS) + 1 and all(line.startswith("ok: ") for line in lines[:-1])
    assert lines[0].startswith("ok: no GPU was found, so the CPU is compared with itself")
    assert lines[-1].startswith(f"all {len(CHECKS)} checks passed in ")


class Faults:
    """By check, a fault that it must find."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch

    def find_gpu(self) -> str:
        self.patch.setattr(doctor, "visible_gpus", lambda: ["0", "1"])
        return "nvidia-smi lists 2 GPUs, of which torch .* can use none"

    def losses_agree(self) -> str:
        calls = iter(range(10**6))
        self.forward(lambda loss: loss * 1.01 if next(calls) >= 2 * STEPS else loss)  # on the second device
        return r"the losses of \d+ steps .* differ by 1.0e-02, more than 1e-03"

    def bf16_is_near(self) -> str:
        self.forward(lambda loss: loss * (1.1 if torch.is_autocast_enabled("cpu") else 1))
        return "the losses in bf16 and fp32 differ by 1.0e-01"

    def attention_kernels(self) -> str:
        original = doctor.sdpa_kernel

        def kernel(backend: Any) -> Any:
            if backend is not doctor.SDPBackend.MATH:
                raise RuntimeError("No available kernel")
            return original(backend)

        self.patch.setattr(doctor, "sdpa_kernel", kernel)
        return "no fused attention kernel runs in bf16"

    def sampler_equals_generate(self) -> str:
        original = StaticDecoder.advance
        self.patch.setattr(StaticDecoder, "advance", lambda *given: original(*given).roll(1, -1))
        return r"a llama model writes \[.*\]\.\.\. by the sampler and \[.*\]\.\.\. by transformers"

    def a_run_resumes(self) -> str:
        self.patch.setattr(trainer, "load_optimizer_tensors", lambda *_: None)
        return "the losses of a run and of one that was interrupted differ"

    def two_processes(self) -> str:
        ended = subprocess.CompletedProcess("", 1, "", "the port is closed")
        self.patch.setattr(doctor, "start_processes", lambda *_, **__: ended)
        return "they ended with status 1: the port is closed"

    def forward(self, changed: Any) -> None:
        original = TrainStep.forward

        def forward(self: TrainStep, *given: Any) -> Any:
            loss, sums = original(self, *given)
            return changed(loss), sums

        self.patch.setattr(TrainStep, "forward", forward)


@pytest.mark.parametrize("name", CHECKS)
def test_a_fault_is_reported_with_what_to_do(bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fault = getattr(Faults(monkeypatch), name)()
    line = CHECKS[name].line(bench)
    assert line.startswith(f"failed: {name.replace('_', ' ')}: ") and line.endswith(f"; {CHECKS[name].remedy}")
    assert re.search(fault, line), line


def test_a_failed_check_ends_the_command_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: iter(["ok: one", "failed: two: no kernel; update the driver"]))
    with pytest.raises(MgsrError, match=f"1 of {len(CHECKS)} checks failed"):
        doctor.main()
