"""Run a command of the paper preset through the stand-in hub, with a fault switched on or with none:

    python -m tests.miniature [--fault FAULT] [--folder FOLDER] [COMMAND...]

COMMAND sees the stand-in as the Hugging Face hub. Without a command, the paper preset in miniature makes all its tables:
`snakemake --cores all everything --configfile tests/miniature/overlay.yaml --config results=FOLDER/results`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.miniature.hub_server import Hub
from tests.miniature.stand_in import start_hub

ROOT = Path(__file__).parents[2]
OVERLAY = Path(__file__).with_name("overlay.yaml")
Environment = dict[str, str]


def without_access(hub: Hub, environment: Environment, folder: Path) -> None:
    """LLaMA2 is gated, and the user's token has no access."""
    environment["HF_TOKEN"] = "hf_of_somebody_else"


def without_a_repository(hub: Hub, environment: Environment, folder: Path) -> None:
    """A model that has been taken down."""
    del hub.repositories["models/facebook/opt-1.3b"]


def without_network(hub: Hub, environment: Environment, folder: Path) -> None:
    environment["HF_ENDPOINT"] = "http://127.0.0.1:9"


def without_sentencepiece(hub: Hub, environment: Environment, folder: Path) -> None:
    (folder / "blocked").mkdir(exist_ok=True)
    (folder / "blocked" / "sitecustomize.py").write_text("import sys\nsys.modules['sentencepiece'] = None\n")
    environment["PYTHONPATH"] = f"{folder / 'blocked'}{os.pathsep}{environment['PYTHONPATH']}"


def with_a_cut_file(hub: Hub, environment: Environment, folder: Path) -> None:
    """Half of a file of weights arrives."""
    hub.cut.add("pytorch_model-00002-of-00002.bin")


def without_space(hub: Hub, environment: Environment, folder: Path) -> None:
    """Python starts with a disk that is full, for whoever asks."""
    (folder / "full").mkdir(exist_ok=True)
    (folder / "full" / "sitecustomize.py").write_text(
        "import shutil\nfrom collections import namedtuple\n"
        "shutil.disk_usage = lambda path: namedtuple('usage', 'total used free')(1, 1, 0)\n"
    )
    environment["PYTHONPATH"] = f"{folder / 'full'}{os.pathsep}{environment['PYTHONPATH']}"


FAULTS: dict[str, Callable[[Hub, Environment, Path], None]] = {
    "gated": without_access,
    "not-found": without_a_repository,
    "unreachable": without_network,
    "no-sentencepiece": without_sentencepiece,
    "cut-file": with_a_cut_file,
    "no-space": without_space,
}


@contextmanager
def environment(folder: Path, fault: str | None = None) -> Iterator[Environment]:
    """What a command needs to see the stand-in as the hub, with its cache in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    hub = start_hub()
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    variables = {**os.environ, **hub.environment(folder / "hf"), "PYTHONPATH": os.pathsep.join(paths)}
    try:
        if fault:
            FAULTS[fault](hub, variables, folder)
        yield variables
    finally:
        hub.close()


def snakemake(folder: Path, *arguments: str, overlays: tuple[Path, ...] = (OVERLAY,), cores: str = "all") -> list[str]:
    """The command of the paper preset in miniature. Targets and options stand before the configuration, which ends it."""
    files = ["--configfile", *map(str, overlays)] if overlays else []
    return ["snakemake", "--cores", cores, *arguments, *files, "--config", f"results={folder / 'results'}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.miniature", description=__doc__.partition("\n")[0])
    parser.add_argument("--fault", choices=sorted(FAULTS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "mgsr-miniature")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    with environment(given.folder, given.fault) as variables:
        sys.exit(subprocess.run(given.command or snakemake(given.folder, "everything"), cwd=ROOT, env=variables).returncode)
