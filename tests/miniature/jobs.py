"""What the workflow's jobs fetch, in a process of its own: the hub's client reads its settings once, when it is imported.

    python -m tests.miniature.jobs models NAME...    to models/owner/name
    python -m tests.miniature.jobs data              to data.json

Both read and write hub.lock.json in the working folder. An MgsrError is printed as the user would see it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from mgsr.errors import MgsrError
from mgsr.storage import write_json

LOCK = Path("hub.lock.json")


def fetch_models(names: Iterable[str]) -> None:
    from mgsr.models.hub_model import fetch_model

    for name in names:
        fetch_model(name, Path("models") / name, LOCK)


def fetch_data() -> None:
    from mgsr.data.hub_records import fetch_hub

    write_json(Path("data.json"), {name: asdict(raw) for name, raw in fetch_hub(LOCK).items()})


def run(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    """Run this module in `folder`; returns what it printed, which is nothing where all went well."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [environment.get("PYTHONPATH"), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
    job = subprocess.run(
        [sys.executable, "-m", "tests.miniature.jobs", *arguments],
        cwd=folder,
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    assert job.returncode == 0, job.stderr
    return job.stdout


if __name__ == "__main__":
    try:
        fetch_models(sys.argv[2:]) if sys.argv[1] == "models" else fetch_data()
    except MgsrError as error:
        print("MgsrError:", error)
