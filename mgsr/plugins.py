"""Functions and classes of the user's own modules, named `module:name` in the configuration."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from mgsr.errors import MgsrError


def _split(reference: str) -> tuple[str, str]:
    module, colon, name = reference.partition(":")
    if not (module and colon and name):
        raise MgsrError(f"'{reference}' is not of the form module:name")
    return module, name


def _see_working_folder() -> None:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def source_digest(reference: str) -> str:
    """Digest of the code of the module that `module:name` names, comments apart. The module is not run; what it imports does
    not count.

    Raises MgsrError where there is no such module or it does not define the name.
    """
    module, name = _split(reference)
    _see_working_folder()
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise MgsrError(f"'{reference}': there is no module {module} in {Path.cwd()} or on the Python path")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    if name not in defined:
        raise MgsrError(f"'{reference}': {spec.origin} defines no function or class '{name}'; it has {sorted(defined)}")
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def load_custom(reference: str) -> Any:
    """What `module:name` names; found from the working folder first."""
    module, name = _split(reference)
    _see_working_folder()
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise MgsrError(f"'{reference}' could not be loaded: {error}") from error
