"""How long the stages of a run take."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mgsr.devices import synchronize


class Clock:
    """Seconds by stage, summed over a run. Stages may lie within one another ("total" holds the loop's)."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device = device

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes, until the GPU has finished its work too."""
        started = time.perf_counter()
        yield
        synchronize(self._device)
        self.seconds[stage] += time.perf_counter() - started
