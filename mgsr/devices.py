"""Which GPUs of this host a job may use. Snakemake runs jobs side by side and never tells them apart, so each takes a lease."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path

from mgsr.storage import file_lock


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
