"""A job refuses when the code is not what its result was named after."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mgsr.config.stages import stage_code
from mgsr.plugins import source_digest
from mgsr.storage import write_json

REPOSITORY = Path(__file__).parents[1]
# Plans a job, lets it begin, edits `edited`, imports `late` as a stage may, and publishes.
JOB = """
import importlib, sys
from pathlib import Path
from mgsr.config.code_check import planned_code
from mgsr.errors import MgsrError
from mgsr.storage import write_json
root, late, edited, text = Path(sys.argv[1]), *sys.argv[2:]
try:
    with planned_code(root, "job", "train"):
        file = Path(importlib.util.find_spec(edited).origin)
        file.write_text(file.read_text() + text)
        importlib.import_module(late)
        write_json(root / "result.json", {})
except MgsrError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(REPOSITORY / "mgsr", tmp_path / "mgsr", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "mine.py").write_text("def loss():\n    return 0\n")
    os.chdir(tmp_path)
    code = {"code": stage_code("train"), "custom_code": {"mine:loss": source_digest("mine:loss")}}
    write_json(tmp_path / "specs/job.json", code)
    return tmp_path


@pytest.fixture(autouse=True)
def _stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.syspath_prepend(str(REPOSITORY))


def run(checkout: Path, *arguments: str) -> tuple[str, bool]:
    """What the job says, and whether its result was kept."""
    command = [sys.executable, "-c", JOB, str(checkout), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done.stderr, (checkout / "result.json").exists()


def edit_package(checkout: Path) -> None:
    with (checkout / "mgsr/objectives/dac_kl.py").open("a") as file:
        file.write("EDITED = True\n")


def edit_own_module(checkout: Path) -> None:
    (checkout / "mine.py").write_text("def loss():\n    return 1\n")


@pytest.mark.parametrize(("edit", "named"), [(edit_package, "the code of mgsr"), (edit_own_module, "mine:loss")])
def test_a_job_does_not_begin_with_code_that_was_edited_since_the_plan(
    checkout: Path, edit: Callable[[Path], None], named: str
) -> None:
    edit(checkout)
    message, kept = run(checkout, "json", "mgsr.metrics", "")
    assert f"{named} changed after the plan was made; start the workflow again" in message and not kept


@pytest.mark.parametrize(
    ("late", "edited", "text", "kept"),
    [
        ("mgsr.objectives.divergences", "mgsr.objectives.divergences", "EDITED = True\n", False),  # a pull while the job runs
        ("mgsr.objectives.divergences", "mgsr.objectives.divergences", "# a comment\n", True),
        ("json", "mgsr.objectives.divergences", "EDITED = True\n", True),  # the job never read it
        ("mgsr.storage", "mgsr.storage", "EDITED = True\n", True),  # it was read before
    ],
)
def test_what_a_job_imports_while_it_runs_is_compared_before_it_publishes(
    checkout: Path, late: str, edited: str, text: str, kept: bool
) -> None:
    message, result = run(checkout, late, edited, text)
    assert result == kept and ("the code of mgsr changed" in message) == (not kept)
