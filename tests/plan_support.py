"""Configurations and plans of the repository's workflow, or of a copy that a test edits."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mgsr.config.load import Methods, load_config, load_methods
from mgsr.config.plan import Plan, make_plan
from mgsr.config.run_specs import TrainSpec
from mgsr.config.schema import Config

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / "workflow"
PRESETS = ("smoke", "mini", "paper")


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    """A copy of the workflow's configuration."""
    for kind in ("presets", "methods", "recipes", "scales"):
        shutil.copytree(WORKFLOW / kind, tmp_path / kind)
    for name in ("tables.yaml", "test_sets.yaml"):
        shutil.copy(WORKFLOW / name, tmp_path)
    return tmp_path


def config_of(given: Mapping[str, Any] | None = None, folder: Path = WORKFLOW) -> Config:
    """The preset is smoke where none is given."""
    return load_config(folder, {"preset": "smoke", **(given or {})})


def methods_of(given: Mapping[str, Any] | None = None) -> Methods:
    return load_methods(WORKFLOW, config_of(given))


def plan_of(given: Mapping[str, Any] | None = None, folder: Path = WORKFLOW) -> Plan:
    return make_plan(folder, config_of(given, folder))


def run_of(plan: Plan, method: str, table: str = "table1") -> str:
    return next(row.run for row in (plan.tables | plan.checks)[table].rows if row.method == method)


def trained(plan: Plan, method: str, table: str = "table1") -> TrainSpec:
    """The training run of a method that has no grid."""
    spec = plan.runs[run_of(plan, method, table)]
    assert isinstance(spec, TrainSpec)
    return spec


def extra_rows(*methods: str) -> dict[str, Any]:
    return {"tables": {"table1": {"extra_rows": methods}}}
