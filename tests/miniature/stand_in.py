"""All repositories that the paper preset asks for, on a hub of one's own."""

from __future__ import annotations

import hashlib
from functools import cache

from tests.miniature.data_repositories import data_sets
from tests.miniature.hub_server import Commits, Files, Hub
from tests.miniature.model_repositories import GATED, REPOSITORIES, model_files


def commit_of(files: Files) -> str:
    """A commit id that changes with any file."""
    lines = [f"{path} {hashlib.sha1(content).hexdigest()}" for path, content in sorted(files.items())]
    return hashlib.sha1("\n".join(lines).encode()).hexdigest()


@cache
def _repositories() -> dict[str, Files]:
    return data_sets() | {f"models/{name}": model_files(name) for name in REPOSITORIES}


def repositories() -> dict[str, Commits]:
    """Every data set and model, each with one commit; a caller may change what it gets."""
    return {name: {commit_of(files): dict(files)} for name, files in _repositories().items()}


def start_hub() -> Hub:
    return Hub(repositories(), gated=set(GATED))
