"""Processes of a run. Without torchrun there is one, and every function here is the identity."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from mgsr.devices import collective_backend, default_device

TIMEOUT = timedelta(minutes=30)  # of a collective, in which all processes do the same


@dataclass(frozen=True)
class World:
    """This process among all of the run."""

    rank: int
    size: int
    device: torch.device
    patient: dist.ProcessGroup | None = None  # for waits that have no limit

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def slice(self, count: int) -> slice:
        """This process's share of `count` items in global order; `count` is a multiple of the number of processes."""
        share = count // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def sum(self, values: Iterable[float]) -> list[float]:
        """Element-wise sum over the processes, in float64."""
        total = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        if self.size > 1:
            dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes, in rank order, on every process."""
        if self.size == 1:
            return items
        parts: list[list[Any] | None] = [None] * self.size
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part or []]

    def barrier(self) -> None:
        """Wait for all processes, however long one of them loads or writes. Where one dies, the others end too."""
        if self.size > 1:
            dist.barrier(self.patient)


def start_world() -> World:
    """Join the processes that torchrun started (nccl on GPUs, gloo on CPUs), or be alone."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = default_device(int(os.environ.get("LOCAL_RANK", "0")))
    if size > 1 and not dist.is_initialized():
        dist.init_process_group(collective_backend(device), timeout=TIMEOUT)
    patient = dist.new_group(backend="gloo", timeout=timedelta(days=7)) if size > 1 else None
    return World(rank, size, device, patient)
