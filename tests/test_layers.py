"""Imports go one way, and what is light stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from mgsr.config import identity

PACKAGE = Path(__file__).parents[1] / "mgsr"
ORDER = ("config", "data", "models", "rollouts", "objectives", "training", "evaluation", "tables")
# beneath every layer; they import one another only
BASE = ("errors", "storage", "rouge", "metrics", "devices", "hub", "plugins")
TOP = ("cli", "__main__", "preflight", "cost", "doctor", "verify", "inspection", "examples")
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


def test_evaluation_stands_beside_training_and_not_on_it() -> None:
    for path in (PACKAGE / "evaluation").glob("*.py"):
        assert "training" not in imports(path), f"{path}: an edit of the training loop would rename every evaluation"


@pytest.mark.parametrize(
    ("entry", "objectives"),
    [("evaluator", set()), ("exposure", set()), ("answering", set()), ("floor", set()), ("probe", {"span_consistency.py"})],
)
def test_no_evaluation_depends_on_an_objective(entry: str, objectives: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest of an evaluation's code covers no objective; the probe alone measures the span term."""
    parse, files = identity._parse, list[Path]()
    monkeypatch.setattr(identity, "_parse", lambda file: files.append(file) or parse(file))
    identity.code_digest.__wrapped__(f"mgsr.evaluation.{entry}")
    covered = {file.relative_to(PACKAGE) for file in files}
    assert Path(f"evaluation/{entry}.py") in covered
    assert {path.name for path in covered if path.parts[0] == "objectives"} - {"__init__.py"} == objectives
    assert not any(path.parts[0] == "training" for path in covered)


def test_a_name_stands_for_one_room() -> None:
    """Neither two modules nor a module and a package have one name, and no two modules a singular and its plural."""
    modules = [path.stem for path in MODULES if path.stem != "__init__"]
    names = modules + [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    assert sorted(names) == sorted(set(names))
    assert not {f"{name}s" for name in modules} & set(modules)


def test_packages_hold_no_code_of_their_own() -> None:
    for path in PACKAGE.glob("*/__init__.py"):
        body = ast.parse(path.read_text()).body
        assert len(body) == 1 and isinstance(body[0], ast.Expr), f"{path}: a stage's digest does not cover it"


def test_the_code_that_names_kept_answers_scores_nothing() -> None:
    """Else an edit of a metric would decode anew. Every import counts, as in `code_digest`."""
    reached, waiting = {""}, ["mgsr.evaluation.answering"]
    while waiting:
        file = PACKAGE.joinpath(*(name := waiting.pop()).split(".")[1:]).with_suffix(".py")
        if name not in reached and name.startswith("mgsr.") and file.is_file():
            reached.add(name)
            nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
            waiting += [name for node in nodes for name in (f"{node.module}", *(f"{node.module}.{a.name}" for a in node.names))]
    assert {"mgsr.evaluation.answers", "mgsr.rollouts.sampler"} < reached
    assert not reached & {"mgsr.rouge", "mgsr.metrics", "mgsr.evaluation.scoring", "mgsr.evaluation.evaluator"}
    assert "training" not in imports(PACKAGE / "evaluation" / "answering.py")


LIGHT = "cli preflight cost.summary config.plan data.prepare data.builtin_records data.local_records".split()
TABLES = "tables.registry tables.claims tables.open_checks tables.report evaluation.floor evaluation.evaluator".split()
HEAVY = ["torch", "transformers", "mlflow", "datasets", "peft"]
CASES = {
    "light": (LIGHT, [*HEAVY, "huggingface_hub", "pandas", "numpy"]),
    "tables": (TABLES, HEAVY),
    "training": (["training.trainer", "evaluation.answering"], ["mlflow", "datasets", "snakemake", "matplotlib"]),
}


@pytest.mark.parametrize("case", CASES)
def test_an_import_pulls_in_no_more_than_its_job_needs(case: str) -> None:
    modules, unwanted = [f"mgsr.{name}" for name in CASES[case][0]], CASES[case][1]
    code = f"import sys; [__import__(name) for name in {modules!r}]; print(*(set({unwanted!r}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_no_test_module_imports_another_one() -> None:
    """What tests share stands in modules named `*_support`."""
    for path in Path(__file__).parent.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not node.module.rpartition(".")[2].startswith("test_"), f"{path} imports {node.module}"
