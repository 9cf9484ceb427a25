"""Imports go one way, and what is light stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mgsr"
ORDER = ("config", "data", "models", "rollouts", "objectives", "training", "evaluation", "tables")
BASE = ("errors", "storage", "rouge", "devices", "hub", "plugins")  # beneath every layer; they import one another only
TOP = ("__main__", "cli", "preflight", "examples")
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Parts of the package (`data`, `storage`...) that a module names in an import, wherever it stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; the digest of a stage's code would miss it"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("mgsr.")}
    return found


def level(part: str) -> int:
    if part in BASE:
        return -1
    return len(ORDER) if part in TOP else ORDER.index(part)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    for other in imports(path) - {part, "__version__"}:
        assert level(other) < level(part) or (part in BASE and other in BASE) or part in TOP, f"{part} imports {other}"


def test_packages_hold_no_code_of_their_own() -> None:
    for path in PACKAGE.glob("*/__init__.py"):
        body = ast.parse(path.read_text()).body
        assert len(body) == 1 and isinstance(body[0], ast.Expr), f"{path}: a stage's digest does not cover it"


LIGHT = [
    "mgsr.cli",
    "mgsr.preflight",
    "mgsr.config.plan",
    "mgsr.config.reference",
    "mgsr.data.prepare",
    "mgsr.data.builtin_records",
    "mgsr.data.local_records",
]
TABLES = [
    "mgsr.tables.registry",
    "mgsr.tables.claims",
    "mgsr.tables.open_checks",
    "mgsr.tables.report",
    "mgsr.evaluation.floor",
    "mgsr.evaluation.answers",
]
HEAVY = ["torch", "transformers", "mlflow", "datasets", "peft"]
CASES = {
    "light": (LIGHT, [*HEAVY, "huggingface_hub", "pandas", "numpy"]),
    "tables": (TABLES, HEAVY),
    "training": (["mgsr.training.trainer", "mgsr.evaluation.evaluator"], ["mlflow", "datasets", "snakemake", "matplotlib"]),
}


@pytest.mark.parametrize("case", CASES)
def test_an_import_pulls_in_no_more_than_its_job_needs(case: str) -> None:
    modules, unwanted = CASES[case]
    code = f"import sys; [__import__(name) for name in {modules!r}]; print(*(set({unwanted!r}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
