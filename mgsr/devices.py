"""All that differs by device. It does not import torch before a job has its GPUs, as torch reads then which ones it may see.

Snakemake runs jobs side by side and never tells them apart, so each takes a lease on its GPUs.
"""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from mgsr.errors import MgsrError
from mgsr.storage import file_lock

if TYPE_CHECKING:
    import torch


def visible_gpus(seconds: float = 30.0) -> list[str]:
    """Ids of the GPUs this job may choose from: CUDA_VISIBLE_DEVICES if set, else all that nvidia-smi lists in time."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        names = [name.strip() for name in given.split(",")]
        return list(takewhile(lambda name: name not in ("", "-1"), names))  # CUDA stops at the first id that is none
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return listing.split()


@contextmanager
def lease_gpus(count: int) -> Iterator[list[str]]:
    """Hold `count` GPUs (all there are, if fewer) until the block ends or the process dies, and name them in
    CUDA_VISIBLE_DEVICES. Waits for jobs that hold them. Without GPUs nothing is held. Call it before torch starts CUDA."""
    gpus = visible_gpus()
    count = min(count, len(gpus))
    folder = Path(tempfile.gettempdir()) / f"mgsr-gpus-{os.getuid()}"
    while True:
        with ExitStack() as stack:
            held: list[str] = []
            for gpu in gpus:
                if len(held) < count and stack.enter_context(file_lock(folder / f"{gpu}.lock", wait=False)):
                    held.append(gpu)
            if len(held) == count:
                if held:
                    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(held)
                yield held
                return
        time.sleep(5)


def default_device(number: int = 0) -> torch.device:
    """The GPU of this number among those that the job may use, which becomes the current one; without GPUs the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def device_name(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def collective_backend(device: torch.device) -> str:
    """What processes exchange tensors of this device by."""
    return "nccl" if device.type == "cuda" else "gloo"


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all that it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """The most bytes that torch has held on the GPU or, without one, the process has held."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def halved(batch: int, reason: str) -> int:
    """The batch to try next where `batch` rows did not fit into memory (`reason` says how), which is freed. Raises MgsrError
    where there was one row. Call it outside the `except` block, as the error holds the frames whose tensors are to go."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if batch == 1:
        raise MgsrError(
            f"a single row does not fit into memory ({reason}); free the device of other processes, use one with more memory, "
            "set training.precision to bf16, or lower data.max_length"
        )
    print(f"mgsr: {batch} rows together do not fit into memory; going on with {batch // 2}", file=sys.stderr)
    return batch // 2
