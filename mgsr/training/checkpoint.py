"""Checkpoints of an unfinished run: safetensors and JSON with checksums. One is whole or absent, and the last two are kept."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mgsr.storage import damages, file_lock, new_folder, read_json, write_json

Tensors = Mapping[str, torch.Tensor]
KEPT = 2


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the run's folder. A second trainer waits for the first one."""
    with file_lock(folder / "lock", wait=False) as held:
        if held:
            yield
            return
    print(f"mgsr: {folder}: another process trains this run; this one waits for it", file=sys.stderr)
    with file_lock(folder / "lock"):
        yield


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensors], state: Mapping[str, Any]) -> None:
    """Write `checkpoint-<step>`: one safetensors file per group of `tensors`, and `state` (JSON)."""
    with new_folder(folder / f"checkpoint-{step:09d}") as new:
        for name, group in tensors.items():
            save_file({key: value.contiguous() for key, value in group.items()}, new / f"{name}.safetensors")
        write_json(new / "state.json", {"step": step, "state": dict(state)})
    for old in sorted(folder.glob("checkpoint-*"))[:-KEPT]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path) -> tuple[int, dict[str, dict[str, torch.Tensor]], dict[str, Any]] | None:
    """The newest checkpoint whose files are as they were written: step, tensors by group, state. None where there is none."""
    for path in sorted(folder.glob("checkpoint-*"), reverse=True):
        if broken := damages(path):
            print(f"mgsr: {path} is damaged ({', '.join(broken)}); trying the one before", file=sys.stderr)
            continue
        saved = read_json(path / "state.json")
        return saved["step"], {file.stem: load_file(file) for file in path.glob("*.safetensors")}, saved["state"]
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's state as flat tensors, "<parameter index>/<key>"."""
    state = optimizer.state_dict()["state"]
    return {f"{index}/{key}": value for index, entry in state.items() for key, value in entry.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
