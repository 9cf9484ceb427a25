"""Starts a training run: in this process, or in a group of processes by torchrun, on GPUs that no other job holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mgsr.config.run_specs import TrainSpec
from mgsr.config.specs import read_spec
from mgsr.devices import lease_gpus
from mgsr.errors import MgsrError


def launch(root: Path, name: str) -> None:
    """Train `runs/<name>`, whose spec is ROOT/specs/<name>.json. Raises MgsrError where a process of the group failed."""
    spec = read_spec(root, name, TrainSpec)
    with lease_gpus(spec.processes):
        if spec.processes == 1:
            from mgsr.training.trainer import train  # torch reads which GPUs it may see when it is imported

            train(name, spec, root)
            return
        done = start_processes(root, name, spec.processes)
    if done.returncode:
        raise MgsrError(f"run {name}: a process failed with status {done.returncode}; its message stands above")


def start_processes(root: Path, name: str, count: int, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Train a run in so many processes, and wait for them. `settings`: of `subprocess.run`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    environment = {**os.environ, **settings.pop("env", {}), "MGSR_ROOT": str(root), "MGSR_RUN": name}
    return subprocess.run([*command, "-m", "mgsr.training.trainer"], env=environment, text=True, **settings)
