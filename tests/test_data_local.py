"""Local records: the three forms, their errors, and the real files where they are present."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mgsr.config.base import TEST_SETS
from mgsr.config.specs import DataSpec
from mgsr.data.local_records import MINILLM, OWN, load_local
from mgsr.data.prepare import prepare
from mgsr.data.prompts import format_prompt
from mgsr.data.records import load_records, read_rows
from mgsr.errors import MgsrError

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real records are not beside the repository")


def own(folder: Path, **changed: str) -> Path:
    row = {"instruction": "Say hello.", "output": ["Hello.", "Hi."]}
    for name, (file, _) in OWN.items():
        (folder / file).write_text(changed.get(name, json.dumps({**row, "instruction": f"Say {name}."}) + "\n"))
    return folder


def test_own_jsonl_keeps_all_references(tmp_path: Path) -> None:
    data = load_local(own(tmp_path))
    assert set(data) == {"train", "validation", *TEST_SETS}
    assert data["sni"].records[0].references == ("Hello.", "Hi.") and data["sni"].records[0].id == "sni-0"
    assert not data["validation"].published_split


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"output": "x"}', '{"instruction": 1, "output": "x"}', '{"instruction": "a", "output": []}']
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str) -> None:
    good = '{"instruction": "a", "output": "b"}\n'
    with pytest.raises(MgsrError, match=r"sni\.jsonl, line 2"):
        load_local(own(tmp_path, sni=good + line + "\n"))


def test_missing_sets_are_named(tmp_path: Path) -> None:
    (own(tmp_path) / "unni.jsonl").unlink()
    with pytest.raises(MgsrError, match=r"missing: unni \(unni\.jsonl\)"):
        load_local(tmp_path)
    with pytest.raises(MgsrError, match="not a folder"):
        load_local(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MgsrError, match="holds no records: looked for"):
        load_local(tmp_path / "empty")


@needs_data
def test_pitfall_24_validation_and_test_of_minillm_are_not_mixed_up(tmp_path: Path) -> None:
    """The papers' test set is the file called valid."""
    data = load_local(DATA)
    assert data["dolly"].records == load_local(DATA / "minillm")["dolly"].records
    assert {name: len(raw.records) for name, raw in data.items()} == {
        "train": 11435, "validation": 1000, "dolly": 500, "self_instruct": 242, "vicuna": 80, "sni": 1694, "unni": 24
    }  # fmt: skip
    for split, rows in {"paper": (11935, 500), "minillm": (11435, 1000)}.items():
        prepare(DataSpec(source="local", data_dir=str(DATA), split=split, code=""), tmp_path / split, tmp_path / "lock")  # type: ignore[arg-type]
        assert (len(load_records(tmp_path / split, "train")), len(load_records(tmp_path / split, "validation"))) == rows
    sets = json.loads((tmp_path / "minillm" / "manifest.json").read_text())["sets"]
    assert sets["train"]["duplicates"] == 11


@needs_data
def test_prompts_equal_minillms_byte_for_byte() -> None:
    data = load_local(DATA)
    for name, (file, _) in MINILLM.items():
        if name != "train":  # the one file without prompts
            assert [row["prompt"] for _, row in read_rows(DATA / "minillm" / file)] == [
                format_prompt(r) for r in data[name].records
            ]


@needs_data
def test_the_originals_are_read(tmp_path: Path) -> None:
    (tmp_path / "originals").mkdir()
    for folder in (DATA / "originals").iterdir():
        (tmp_path / "originals" / folder.name).symlink_to(folder)
    with pytest.raises(MgsrError, match="missing: sni"):
        load_local(tmp_path)
    for name in ("sni", "unni"):
        (tmp_path / "originals" / f"{name}.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    data = load_local(tmp_path)
    sizes = [len(data[name].records) for name in ("train", "validation", "dolly", "self_instruct", "vicuna")]
    assert sizes == [13511, 1000, 500, 252, 80]
    assert len({record.id for name in ("train", "validation", "dolly") for record in data[name].records}) == 15011
