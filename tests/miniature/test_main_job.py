"""The paper preset through the stand-in hub: from its files to Table 1; and faults, told before the first job."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from mgsr.config.table_specs import TableSpec, read_plan
from mgsr.storage import read_json
from tests.miniature.__main__ import OVERLAY, ROOT, environment, snakemake
from tests.miniature.model_repositories import FAMILIES

FEW_ROWS = OVERLAY.with_name("few_rows.yaml")
SECONDS = 240  # promised for two idle cores

pytestmark = pytest.mark.main_job


def table_1(folder: Path, fault: str | None = None) -> subprocess.CompletedProcess[str]:
    command = snakemake(folder, "table1", "--nolock", overlays=(OVERLAY, FEW_ROWS), cores="2")
    with environment(folder, fault) as variables:
        return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)


def test_from_the_hubs_files_to_table_1(tmp_path: Path) -> None:
    started = time.monotonic()
    job = table_1(tmp_path)
    assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-6000:]
    assert time.monotonic() - started < SECONDS
    root = tmp_path / "results" / "paper"
    rows = read_plan(root, "table1", TableSpec).rows
    methods = ("teacher", "sft", "mgsr")
    assert {(row.family, row.method) for row in rows} == {(family, method) for family in FAMILIES for method in methods}
    table = pd.read_csv(root / "tables" / "table1.csv")
    assert set(table["family"]) >= set(FAMILIES)
    rules = [facts["rule"] for path in root.glob("data/*/manifest.json") for facts in read_json(path)["sets"].values()]
    assert len(rules) == 2 and all("--dev-num 1000" in rule for rule in rules)
    assert any("the first 10,000 of" in read_json(path)["rule"] for path in root.glob("test_sets/*/manifest.json"))


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        ("gated", "family LLaMA2: model meta-llama/Llama-2-13b-hf is gated: accept its licence at"),
        ("not-found", "family OPT: model facebook/opt-1.3b does not exist"),
        ("unreachable", "the Hugging Face hub: it does not answer (records on disk: source=local"),
        ("no-sentencepiece", "for openlm-research/open_llama_3b_v2: pip install sentencepiece"),
        ("no-space", "or state what you need (disk_gib=N)"),
    ],
)
def test_a_fault_is_told_with_its_remedy_before_any_job(tmp_path: Path, fault: str, remedy: str) -> None:
    started = time.monotonic()
    job = table_1(tmp_path, fault)
    assert job.returncode != 0 and remedy in job.stdout + job.stderr
    assert time.monotonic() - started < 60
    assert not list((tmp_path / "results" / "paper" / "models").glob("*")) and "Finished job" not in job.stderr
