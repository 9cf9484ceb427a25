"""Tests run on one thread: that is where equality was measured, and two pools on two cores are far slower."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

pytest_plugins = ["tests.tables_support", "tests.plan_support"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module's own results tree, with all that a run needs. A module adds to it by a fixture of the same name."""
    from tests.training_support import make_root  # heavy, and few modules ask for it

    return make_root(tmp_path_factory.mktemp("results"))
