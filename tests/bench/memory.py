"""Generalised JSD in chunks of positions beside the same on full logits: peak memory, and time.

Each measurement is a process of its own, since a process never gives back its peak. `python -m tests.bench.memory chunked` (or
`full`) is one: it prints the MiB that the objective needed and the milliseconds it took.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import torch
from torch import nn

from mgsr.config.loss_terms import ObjectiveConfig
from mgsr.models.language_model import HiddenStates
from mgsr.objectives.chunked import chunked_loss
from mgsr.objectives.divergences import generalized_jsd
from mgsr.objectives.objective import Objective
from mgsr.objectives.positions import Positions
from tests.bench.harness import Row

POSITIONS, VOCABULARY, WIDTH, CHUNK, ROUNDS = 4096, 49_152, 576, 128, 3


def measure(kind: str) -> tuple[float, float]:
    torch.manual_seed(0)
    student, teacher = (
        HiddenStates(torch.randn(POSITIONS, WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False), VOCABULARY) for _ in range(2)
    )
    student.values.requires_grad_()
    teacher.head.requires_grad_(False)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        if kind == "full":
            logp = [states.log_probabilities() for states in (student, teacher)]
            with torch.autocast("cpu", enabled=False):
                loss = generalized_jsd(*logp, beta=0.1).mean()
        else:
            config = {"sft_weight": 0, "distillation": {"name": "generalized_jsd", "beta": 0.1}}
            objective = Objective(ObjectiveConfig.model_validate(config), VOCABULARY, seed=1)
            none = torch.zeros(POSITIONS)
            at = Positions(torch.zeros(POSITIONS, dtype=torch.int64), torch.full((POSITIONS,), 1 / POSITIONS), none, none)
            loss, _ = chunked_loss(objective, student, teacher, at, CHUNK)
    loss.backward()
    elapsed = time.perf_counter() - start
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1e3 * elapsed


def rows() -> list[Row]:
    results: dict[str, list[tuple[float, float]]] = {"chunked": [], "full": []}
    for _ in range(ROUNDS):
        for kind, measured in results.items():
            command = [sys.executable, "-m", "tests.bench.memory", kind]
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            measured.append((float(printed[0]), float(printed[1])))
    name = f"JSD of {POSITIONS:,} positions x {VOCABULARY:,} in chunks of {CHUNK}"
    (memory, milliseconds), (full_memory, full_milliseconds) = (
        list(zip(*measured, strict=True)) for measured in results.values()
    )
    return [
        Row(f"{name}, memory", "full logits", "MiB", list(memory), list(full_memory), asked=4.0),
        Row(f"{name}, time", "full logits", "ms", list(milliseconds), list(full_milliseconds), asked=1.0),
    ]


if __name__ == "__main__":
    print(*measure(sys.argv[1]))
