"""Stand-in hubs, and all of its models, fetched once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.miniature.hub_server import Hub
from tests.miniature.jobs import run
from tests.miniature.model_repositories import REPOSITORIES
from tests.miniature.stand_in import start_hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    stand_in = start_hub()
    yield stand_in
    stand_in.close()


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{name on the hub: model folder}."""
    stand_in, root = start_hub(), tmp_path_factory.mktemp("miniature")
    try:
        assert run(root, stand_in.environment(root / "hf"), "models", *REPOSITORIES) == {}
    finally:
        stand_in.close()
    return {name: root / "models" / name for name in REPOSITORIES}
