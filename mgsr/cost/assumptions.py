"""The devices and figures that an estimate takes for granted: assumptions.yaml."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml

from mgsr.config.base import Strict
from mgsr.errors import MgsrError


class Device(Strict):
    """A GPU."""

    flops: float  # dense bf16, a second
    bandwidth: float  # bytes a second
    memory_gib: float
    source: str


class Rates(Strict):
    """What a device reaches of its figures."""

    utilisation: float
    bandwidth_share: float
    layer_seconds: float
    row_seconds: float
    start_seconds: float


class MemoryMargin(Strict):
    """What a process holds beside its tensors."""

    reserve_gib: float
    fragments: float


class Records(Strict):
    """Rows and mean lengths where no prepared records tell them."""

    rows: dict[str, int]
    other_rows: int
    prompt: float
    response: float
    written: float


class Assumptions(Strict):
    """All of assumptions.yaml."""

    devices: dict[str, Device]
    rates: Rates
    memory: MemoryMargin
    records: Records
    off_policy: float

    def device(self, name: str) -> Device:
        """Raises MgsrError for a name that is not in the table."""
        if name not in self.devices:
            raise MgsrError(f"--device {name}: no such device; choose one of {', '.join(self.devices)}")
        return self.devices[name]


@cache
def assumptions() -> Assumptions:
    return Assumptions.model_validate(yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")))
