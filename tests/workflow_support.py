"""The real workflow, called as a user calls it, and what its results folder says."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from mgsr.config.table_specs import TableSpec, read_plan
from mgsr.storage import read_json

REPOSITORY = Path(__file__).parents[1]


def snakemake(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = ["snakemake", "--cores", "2", "--nolock", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)


def table_1(root: Path) -> TableSpec:
    """What Table 1 of a preset's results was made of."""
    return read_plan(root, "table1", TableSpec)


def cards(root: Path) -> dict[str, dict[str, Any]]:
    """Cards by method title."""
    return {row.title: read_json(root / "runs" / row.run / "card.json") for row in table_1(root).rows}


def jobs(finished: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """The table of jobs that Snakemake prints before it starts."""
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", finished.stdout + finished.stderr, re.MULTILINE)}
