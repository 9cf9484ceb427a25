"""All that the smoke preset can make, at one training seed: every table, the claims, the open checks.

Its own target, as it takes longer than the test command may: `pytest -m everything`."""

import time
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest

from mgsr.config.load import read_yaml
from mgsr.config.table_entries import CheckName
from mgsr.tables import claims
from tests.workflow_support import REPOSITORY, snakemake

TABLES = read_yaml(REPOSITORY / "workflow" / "tables.yaml")["tables"]
SECONDS = 15 * 60  # promised for two idle cores

pytestmark = pytest.mark.everything


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    results = tmp_path_factory.mktemp("results")
    started = time.monotonic()
    snakemake("everything", "--config", "preset=smoke", f"results={results}")
    return results / "smoke", time.monotonic() - started


def test_it_takes_no_longer_than_promised(made: tuple[Path, float]) -> None:
    assert made[1] < SECONDS, f"{made[1]:.0f} s"


@pytest.mark.parametrize("name", [*TABLES, "claims"])
def test_every_table_has_numbers(made: tuple[Path, float], name: str) -> None:
    frame = pd.read_csv(made[0] / "tables" / f"{name}.csv")
    assert len(frame) and frame.select_dtypes("number").notna().any(axis=None)
    assert (made[0] / "tables" / f"{name}.md").read_text().startswith("# ")


@pytest.mark.parametrize("name", get_args(CheckName))
def test_every_open_check_has_numbers_a_figure_and_sentences(made: tuple[Path, float], name: str) -> None:
    folder = made[0] / "open_checks"
    assert len(pd.read_csv(folder / f"{name}.csv"))
    assert "<svg" in (folder / f"{name}.svg").read_text()
    assert (folder / f"{name}.md").read_text().count(". ") + 1 >= 2


def test_every_claim_has_a_verdict(made: tuple[Path, float]) -> None:
    verdicts = set(pd.read_csv(made[0] / "tables/claims.csv")["verdict"])
    scopes = {f"{verdict}{claims.OF_THESE}" for verdict in (claims.HOLDS, claims.FAILS)}  # there is one training seed
    assert verdicts <= scopes | {claims.UNDECIDED, claims.NOT_ALL, claims.NOT_MET}
