"""What the workflow's jobs fetch, in a process of its own: the hub's client reads its settings once, when it is imported.

    python -m tests.miniature.jobs models NAME...    to models/owner/name
    python -m tests.miniature.jobs data              to data.json

Both use hub.lock.json in the working folder, and print {name: message} of what failed, as the user would be told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from mgsr.errors import MgsrError
from mgsr.storage import write_json

LOCK = Path("hub.lock.json")


def fetch_one_model(name: str) -> None:
    from mgsr.models.hub_model import fetch_model

    fetch_model(name, Path("models") / name, LOCK)


def fetch_data(_: str) -> None:
    from mgsr.data.hub_records import fetch_test_set, fetch_training
    from tests.records_support import PAPER_SETS

    data = fetch_training(LOCK) | {name: fetch_test_set(name, test_set, LOCK) for name, test_set in PAPER_SETS.items()}
    write_json(Path("data.json"), {name: asdict(raw) for name, raw in data.items()})


def failures(job: Callable[[str], None], names: list[str]) -> dict[str, str]:
    messages = {}
    for name in names:
        try:
            job(name)
        except MgsrError as error:
            messages[name] = str(error)
    return messages


def run(folder: Path, environment: dict[str, str], *arguments: str) -> dict[str, str]:
    """Run this module in `folder`; returns the messages of what failed."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [environment.get("PYTHONPATH"), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
    process = subprocess.run(
        [sys.executable, "-m", "tests.miniature.jobs", *arguments],
        cwd=folder,
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    messages: dict[str, str] = json.loads(process.stdout)
    return messages


if __name__ == "__main__":
    kind, *names = sys.argv[1:]
    print(json.dumps(failures(fetch_one_model, names) if kind == "models" else failures(fetch_data, ["data"])))
