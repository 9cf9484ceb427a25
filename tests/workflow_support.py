"""The real workflow, called as a user calls it, and what its results folder says."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mgsr.config.table_specs import TableSpec, read_plan
from mgsr.storage import read_json

REPOSITORY = Path(__file__).parents[1]
Finished = subprocess.CompletedProcess[str]


def snakemake_in(folder: Path, *arguments: str, **environment: str) -> Finished:
    command = [sys.executable, "-m", "snakemake", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}  # no commits of the hub are looked up
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def snakemake(*arguments: str, folder: Path = REPOSITORY) -> Finished:
    """In the repository, or in a user's folder, which holds the user's files alone. It must succeed."""
    finished = snakemake_in(folder, f"--snakefile={REPOSITORY / 'Snakefile'}", "--cores", "2", "--nolock", *arguments)
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-8000:]
    return finished


def table_1(root: Path) -> TableSpec:
    """What Table 1 of a preset's results was made of."""
    return read_plan(root, "table1", TableSpec)


def cards(root: Path) -> dict[str, dict[str, Any]]:
    """Cards by method title."""
    return {row.title: read_json(root / "runs" / row.run / "card.json") for row in table_1(root).rows}


def jobs(finished: Finished) -> dict[str, int]:
    """The table of jobs that Snakemake prints before it starts."""
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", finished.stdout + finished.stderr, re.MULTILINE)}
