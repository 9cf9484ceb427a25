"""Prepared folders: equal bytes, a manifest that names what was dropped, repeated and shared with a test set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mgsr.config.base import TEST_SETS
from mgsr.config.specs import DataSpec
from mgsr.data.builtin_records import load_builtin
from mgsr.data.prepare import prepare
from mgsr.data.records import load_records


def run(out: Path, source: str = "builtin", data_dir: Path | None = None) -> Any:
    spec = DataSpec(source=source, data_dir=data_dir and str(data_dir), split="paper", code="")  # type: ignore[arg-type]
    prepare(spec, out, out.parent / "lock.json")
    return json.loads((out / "manifest.json").read_text())


def test_equal_bytes_and_records(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    assert first == second and first["train_rows_in_a_test_set"] == {}
    assert all(file.read_bytes() == (tmp_path / "b" / file.name).read_bytes() for file in (tmp_path / "a").iterdir())
    assert load_records(tmp_path / "a", "sni") == load_builtin()["sni"].records


def test_drops_duplicates_and_overlap_are_reported(tmp_path: Path) -> None:
    row = '{"instruction": "%s", "output": "%s"}\n'
    for name in ("validation", *TEST_SETS):
        (tmp_path / f"{name}.jsonl").write_text(row % (name, "answer"))
    train = row % ("a", "b") + row % ("a", "b") + row % ("c", " ") + row % ("vicuna", "answer")
    (tmp_path / "train.jsonl").write_text(train)
    manifest = run(tmp_path / "out", "local", tmp_path)
    assert manifest["sets"]["train"]["rows"] == 3 and manifest["sets"]["train"]["duplicates"] == 1
    assert manifest["sets"]["train"]["dropped"] == {"empty response": 1}
    assert manifest["train_rows_in_a_test_set"] == {"train-3": "vicuna"}


def test_pitfall_22_references_stay_with_their_row(tmp_path: Path) -> None:
    run(tmp_path / "a")
    records = load_records(tmp_path / "a", "dolly")
    assert len(records) == len(load_builtin()["dolly"].records)
    with pytest.raises(Exception, match="does not exist"):
        load_records(tmp_path / "a", "nothing")
