"""Killed at random moments, a run ends with the same weights, bit for bit."""

import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from mgsr.training.run import train
from tests.training_support import DISTILLM, MGSR, SCRG_MIXED, make_root, metrics, run_spec, start_process, weights

METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mgsr": (SCRG_MIXED, MGSR),
    "distillm": (DISTILLM, {"sft_weight": 1.0, "distillation": {"name": "skew_forward_kl"}}),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("results"))


@pytest.mark.parametrize("name", METHODS)
def test_killed_three_times_ends_with_the_same_weights(root: Path, name: str) -> None:
    spec = run_spec(*METHODS[name], steps=24, dropout=0.1)
    train("whole", spec, root)
    draw = random.Random(name)
    kills = 0
    while kills < 3:
        before = {path.name for path in (root / "checkpoints/killed").glob("checkpoint-*")}
        process = start_process(root, "killed", spec)
        deadline = time.monotonic() + 120
        while {path.name for path in (root / "checkpoints/killed").glob("checkpoint-*")} <= before:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        process.communicate()
        kills += 1
    process = start_process(root, "killed", spec)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert weights(root, "killed") == weights(root, "whole")
    assert metrics(root, "killed") == metrics(root, "whole")
    assert metrics(root, "killed", "validation") == metrics(root, "whole", "validation")
    for run in ("killed", "whole"):
        shutil.rmtree(root / "runs" / run)


def test_a_damaged_checkpoint_is_passed_over(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = run_spec(steps=6)
    train("sound", spec, root)
    process = start_process(root, "damaged", spec.model_copy(update={"method": run_spec(steps=400).method}))
    folder = root / "checkpoints/damaged"
    while len(list(folder.glob("checkpoint-*"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    newest = sorted(folder.glob("checkpoint-*"))[-1]
    content = bytearray((newest / "student.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "student.safetensors").write_bytes(content)
    long = run_spec(steps=max(int(newest.name.split("-")[1]) + 2, 8))
    train("damaged", long, root)
    assert f"{newest.name} is damaged" in capsys.readouterr().err
    assert (root / "runs/damaged/card.json").exists()
