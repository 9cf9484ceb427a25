"""What a stage's result depends on in the package: a digest of the modules it imports, directly or not, and of data files."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def module_files() -> dict[str, Path]:
    """Every module of the package by name."""
    names = {path: path.relative_to(PACKAGE.parent).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in names.items()}


def _parse(file: Path) -> tuple[str, tuple[str, ...]]:
    return _parse_written(file, file.stat().st_mtime_ns)


@cache
def _parse_written(file: Path, mtime_ns: int) -> tuple[str, tuple[str, ...]]:
    """A module's code without comments, docstrings and fields' descriptions, and the names that it imports."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Field":
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "description"]
    return ast.dump(tree), tuple(imported)


def _data_files(module: Path) -> list[Path]:
    """The data that a module reads: a file of its name beside it, or the tables in a folder `<name>_tables`."""
    return sorted([*module.parent.glob(f"{module.stem}.[!p]*"), *module.parent.glob(f"{module.stem}_tables/*.csv")])


@cache
def code_digest(*entries: str) -> str:
    """Digest of the modules named by `entries`, of all of the package that they import, and of the data files of each. Comments
    and documentation do not count."""
    known, files, waiting = module_files(), dict[str, Path](), list(entries)
    while waiting:
        name = waiting.pop()
        if name in known and name not in files:
            files[name] = known[name]
            waiting += _parse(known[name])[1]
    parts = [f"{name} {_parse(files[name])[0]}" for name in sorted(files)]
    parts += [f"{data.name} {data.read_text(encoding='utf-8')}" for name in sorted(files) for data in _data_files(files[name])]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
