"""A run's card: its record, and whether SCRG made it worse than its twin."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mgsr.cli import main
from mgsr.config.stages import stage_code
from mgsr.errors import MgsrError
from mgsr.storage import read_json, seal_folder, write_json
from mgsr.tables.card import make_card

FEW_STEPS = {"name": "short", "message": "few steps"}


def record(run: str, level: float, seed: int) -> dict[str, Any]:
    scores = level + np.random.default_rng(seed).standard_normal(40)
    return {
        "run": run, "validation_scores": {f"v{i}": float(score) for i, score in enumerate(scores)}, "warnings": [FEW_STEPS],
    }  # fmt: skip


def test_scrg_hurts_where_the_twin_is_better() -> None:
    """Two points worse; interval as scipy's t-interval has it, up to resampling."""
    revised, twin = record("revised", 48, 3), record("twin", 50, 2)
    card = make_card(revised, twin)
    first, (name, message) = card["warnings"][0], card["warnings"][1].values()
    assert first == FEW_STEPS and name == "scrg_hurts" and "(twin)" in message and "over 40 prompts" in message
    values = [revised["validation_scores"][key] - score for key, score in twin["validation_scores"].items()]
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval()
    assert [float(x) for x in re.findall(r"-\d+\.\d+", message)] == pytest.approx([np.mean(values), low, high], abs=0.1)
    found = card["twin"]
    assert [found[key] for key in ("rouge_l_difference", "low", "high")] == pytest.approx([np.mean(values), low, high], abs=0.1)
    assert (
        found["run"] == "twin" and found["prompts"] == 40 and {**revised, **{k: card[k] for k in ("twin", "warnings")}} == card
    )


@pytest.mark.parametrize("level", [50, 52])
def test_it_does_not_where_the_twin_is_as_good_or_worse(level: float) -> None:
    card = make_card(record("revised", level, 4), record("twin", 50, 2))
    assert card["warnings"] == [FEW_STEPS] and card["twin"]["high"] > 0


def test_a_run_without_twin_says_so() -> None:
    revised = record("revised", 48, 3)
    assert make_card(revised, None) == {**revised, "twin": None}


def test_other_prompts_are_refused() -> None:
    revised, twin = record("revised", 48, 3), record("twin", 50, 2)
    del twin["validation_scores"]["v0"]
    with pytest.raises(MgsrError, match=r"revised and its twin twin were validated on different prompts"):
        make_card(revised, twin)


def test_the_command_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run, level in (("revised", 48), ("twin", 50)):
        write_json(tmp_path / f"runs/{run}/training.json", record(run, level, level))
        seal_folder(tmp_path / "runs" / run)
    write_json(tmp_path / "plan/revised.json", {"run": "revised", "twin": "twin", "code": stage_code("card")})
    monkeypatch.setattr("sys.argv", ["mgsr", "card", "--root", str(tmp_path), "--name", "revised"])
    main()
    card = read_json(tmp_path / "runs/revised/card.json")
    assert [warning["name"] for warning in card["warnings"]] == ["short", "scrg_hurts"]
