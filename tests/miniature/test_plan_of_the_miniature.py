"""The paper preset in miniature is planned as the preset itself is: its families, methods and tables, with other counts."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import yaml

from tests.miniature.__main__ import OVERLAY, ROOT, snakemake
from tests.miniature.model_repositories import FAMILIES, REPOSITORIES

PRESET = yaml.safe_load((ROOT / "workflow" / "presets" / "paper.yaml").read_text())


def jobs(folder: Path, *targets: str, miniature: bool) -> dict[str, int]:
    """Number of jobs by rule in a dry run."""
    command = snakemake(folder, *targets, "--dry-run", "--quiet", "rules", overlays=(OVERLAY,) if miniature else ())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    job = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert job.returncode == 0, job.stdout + job.stderr
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", job.stdout, re.MULTILINE)}


def test_the_stand_in_has_the_models_that_the_preset_names() -> None:
    names = {name: (family["teacher"]["name"], family["student"]["name"]) for name, family in PRESET["families"].items()}
    small = {student["student"]["name"] for student in PRESET["small_students"].values()}
    assert names == FAMILIES
    assert small | {name for pair in FAMILIES.values() for name in pair} == set(REPOSITORIES)


def test_only_counts_are_cut(tmp_path: Path) -> None:
    overlay = yaml.safe_load(OVERLAY.read_text())
    assert set(overlay) == {
        "needs_gpu",
        "disk_gib",
        "threads",
        "data",
        "training",
        "overlays",
        "evaluation",
        "exposure",
        "probe",
    }
    full, cut = (jobs(tmp_path, "everything", miniature=miniature) for miniature in (False, True))
    assert cut == full and cut["build_model"] == len(REPOSITORIES) and cut["write_table"] == 8 and cut["write_check"] == 6
