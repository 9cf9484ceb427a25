"""Local records: the three forms, their errors, and the real files where they are present."""

import json
from pathlib import Path

import pytest

from mgsr.data.local_records import load_test_set, load_training
from mgsr.data.prompts import format_prompt
from mgsr.data.records import RawData, read_rows
from mgsr.errors import MgsrError
from tests.records_support import PAPER_SETS, manifest, prepare, records_of

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real records are not beside the repository")


def load_local(folder: Path) -> RawData:
    """All sets of a folder."""
    return load_training(folder) | {name: load_test_set(folder, name, test_set) for name, test_set in PAPER_SETS.items()}


def own(folder: Path, **changed: str) -> Path:
    row = {"instruction": "Say hello.", "output": ["Hello.", "Hi."]}
    for name in ("train", "validation", *PAPER_SETS):
        (folder / f"{name}.jsonl").write_text(changed.get(name, json.dumps({**row, "instruction": f"Say {name}."}) + "\n"))
    return folder


def test_own_jsonl_keeps_all_references(tmp_path: Path) -> None:
    data = load_local(own(tmp_path))
    assert data["sni"].records[0].references == ("Hello.", "Hi.") and data["sni"].records[0].id == "sni-0"
    assert not data["validation"].published_split


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"output": "x"}', '{"instruction": 1, "output": "x"}', '{"instruction": "a", "output": []}']
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str) -> None:
    good = '{"instruction": "a", "output": "b"}\n'
    with pytest.raises(MgsrError, match=r"sni\.jsonl, line 2"):
        load_local(own(tmp_path, sni=good + line + "\n"))


def test_missing_files_are_named(tmp_path: Path) -> None:
    (own(tmp_path) / "unni.jsonl").unlink()
    with pytest.raises(MgsrError, match=r"these files are missing: unni\.jsonl"):
        load_local(tmp_path)
    with pytest.raises(MgsrError, match="not a folder"):
        load_local(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MgsrError, match="holds no records: looked for"):
        load_local(tmp_path / "empty")


def test_minillms_layout_must_have_a_place_for_a_set(tmp_path: Path) -> None:
    (tmp_path / "dolly").mkdir()
    (tmp_path / "dolly/train.jsonl").touch()
    elsewhere = PAPER_SETS["sni"].model_copy(update={"path": None})
    with pytest.raises(MgsrError, match=r"data\.test_sets\.sni: .* has MiniLLM's layout; state the `path` there"):
        load_test_set(tmp_path, "sni", elsewhere)


@needs_data
def test_pitfall_24_validation_and_test_of_minillm_are_not_mixed_up(tmp_path: Path) -> None:
    """The papers' test set is the file called valid."""
    data = load_local(DATA)
    assert data["dolly"].records == load_local(DATA / "minillm")["dolly"].records
    assert {name: len(raw.records) for name, raw in data.items()} == {
        "train": 11435, "validation": 1000, "dolly": 500, "self_instruct": 242, "vicuna": 80, "sni": 1694, "unni": 24
    }  # fmt: skip
    for split, rows in {"paper": (11935, 500), "minillm": (11435, 1000)}.items():
        folders = prepare(tmp_path, source="local", data_dir=str(DATA), split=split)
        records = records_of(folders)
        assert (len(records["train"]), len(records["validation"])) == rows
    assert manifest(folders["training"])["sets"]["train"]["duplicates"] == 11


@needs_data
def test_prompts_equal_minillms_byte_for_byte() -> None:
    data = load_local(DATA)
    files = {name: test_set.path for name, test_set in PAPER_SETS.items()}  # the training file has no prompts
    for name, file in {**files, "validation": "dolly/dev.jsonl"}.items():
        rows = read_rows(DATA / "minillm" / str(file))
        assert [row["prompt"] for _, row in rows] == [format_prompt(record) for record in data[name].records]


@needs_data
def test_the_originals_are_read(tmp_path: Path) -> None:
    (tmp_path / "originals").mkdir()
    for folder in (DATA / "originals").iterdir():
        (tmp_path / "originals" / folder.name).symlink_to(folder)
    with pytest.raises(MgsrError, match=r"missing: sni\.jsonl"):
        load_local(tmp_path)
    for name in ("sni", "unni"):
        (tmp_path / "originals" / f"{name}.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    data = load_local(tmp_path)
    sizes = [len(data[name].records) for name in ("train", "validation", "dolly", "self_instruct", "vicuna")]
    assert sizes == [13511, 1000, 500, 252, 80]
    assert len({record.id for name in ("train", "validation", "dolly") for record in data[name].records}) == 15011
