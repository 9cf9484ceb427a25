"""Tests run on one thread: that is where equality was measured, and two pools on two cores are far slower."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

pytest_plugins = ["tests.tables_support"]
