"""Prepared folders: equal bytes, names by content, manifests that say what was dropped, repeated and shared with a test set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mgsr.config.base import Strict
from mgsr.config.plan_files import write_specs
from mgsr.config.plan_records import plan_records
from mgsr.config.record_sets import DataConfig
from mgsr.config.specs import DataSpec, spec_digest
from mgsr.data.builtin_records import load_builtin
from mgsr.data.prepare import prepare_data, prepare_test_set
from mgsr.data.records import load_records
from mgsr.errors import MgsrError
from tests.records_support import PAPER_SETS, manifest, plant_spec, prepare, records_of

ROW = '{"instruction": "%s", "output": "%s"}\n'


def own_folder(folder: Path) -> Path:
    for name in ("train", "validation", *PAPER_SETS):
        (folder / f"{name}.jsonl").write_text(ROW % (name, "answer"))
    return folder


def test_equal_bytes_and_the_generators_records(tmp_path: Path) -> None:
    first, second = (prepare(tmp_path / name, source="builtin") for name in "ab")
    for one, other in zip(first.values(), second.values(), strict=True):
        assert {file.name: file.read_bytes() for file in one.iterdir()} == {f.name: f.read_bytes() for f in other.iterdir()}
    assert records_of(first) == {name: raw.records for name, raw in load_builtin().items()}
    assert all(manifest(first[name])["train_rows_in_the_set"] == [] for name in PAPER_SETS)


def test_drops_duplicates_and_overlap_are_reported(tmp_path: Path) -> None:
    records = own_folder(tmp_path)
    (records / "train.jsonl").write_text(ROW % ("a", "b") + ROW % ("a", "b") + ROW % ("c", " ") + ROW % ("vicuna", "answer"))
    folders = prepare(tmp_path / "results", source="local", data_dir=str(records))
    train = manifest(folders["training"])["sets"]["train"]
    assert (train["rows"], train["duplicates"], train["dropped"]) == (3, 1, {"empty response": 1})
    assert manifest(folders["vicuna"])["train_rows_in_the_set"] == ["train-3"]
    assert manifest(folders["dolly"])["train_rows_in_the_set"] == []
    assert manifest(folders["dolly"])["licence"] == "CC BY-SA 3.0"


def test_a_file_of_ones_own_is_a_test_set_beside_any_source(tmp_path: Path) -> None:
    """As other programs write it: with a byte order mark, and with blank lines."""
    mine = tmp_path / "mine.jsonl"
    mine.write_text("\ufeff" + ROW % ("one", "1") + "\n \n" + ROW % ("two", "2"), encoding="utf-8")
    sets = {**PAPER_SETS, "mine": {"title": "Mine", "file": str(mine)}}
    folders = prepare(tmp_path / "results", source="builtin", test_sets=sets)
    records = load_records(folders["mine"], "records")
    assert [(record.id, record.instruction) for record in records] == [("mine-0", "one"), ("mine-1", "two")]
    mine.write_text(mine.read_text() + "{\n")
    with pytest.raises(MgsrError, match=r"mine\.jsonl, line 5: not valid JSON"):
        prepare(tmp_path / "results", source="builtin", test_sets=sets)


def test_a_folder_that_was_moved_has_the_same_records_and_is_read_where_it_lies_now(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    own_folder(tmp_path / "first")
    plans: list[dict[str, Strict]] = []
    for place in (tmp_path / "first", tmp_path / "second"):
        if not place.exists():
            (tmp_path / "first").rename(place)
        sets = {"dolly": PAPER_SETS["dolly"], "mine": {"title": "Mine", "file": str(place / "sni.jsonl")}}
        config = DataConfig.model_validate({"source": "local", "data_dir": str(place), "test_sets": sets})
        data, test_sets = plan_records(config, tmp_path / "results")
        plans.append({spec_digest(spec): spec for spec in (data, *test_sets.values())})
        write_specs(tmp_path / "results", plans[-1])
    assert plans[0].keys() == plans[1].keys()
    for name, spec in plans[1].items():
        (prepare_data if isinstance(spec, DataSpec) else prepare_test_set)(tmp_path / "results", name)


def test_edited_records_have_another_name_and_so_has_what_depends_on_them(tmp_path: Path) -> None:
    config = DataConfig.model_validate({"source": "local", "data_dir": str(own_folder(tmp_path)), "test_sets": PAPER_SETS})
    data, sets = plan_records(config, tmp_path / "results")
    assert {Path(file).name for file in data.contents} == {"train.jsonl", "validation.jsonl"}
    (tmp_path / "sni.jsonl").write_text(ROW % ("sni", "other"))
    data_2, sets_2 = plan_records(config, tmp_path / "results")
    assert data_2 == data and {name for name in sets if sets[name] != sets_2[name]} == {"sni"}
    (tmp_path / "train.jsonl").write_text(ROW % ("train", "other"))
    data_3, sets_3 = plan_records(config, tmp_path / "results")
    assert data_3 != data and all(sets_3[name].data == spec_digest(data_3) for name in sets)
    (tmp_path / "train.jsonl").write_text(ROW % ("train", "and another"))
    with pytest.raises(MgsrError, match="not those that were there when the run was planned"):
        prepare_data(tmp_path / "results", plant_spec(tmp_path / "results", data_3))


def test_the_title_of_a_test_set_and_the_rows_used_are_no_part_of_its_records(tmp_path: Path) -> None:
    other = {name: {**test_set.model_dump(), "title": "x", "rows": 3} for name, test_set in PAPER_SETS.items()}
    plans = [plan_records(DataConfig(source="builtin", test_sets=sets), tmp_path) for sets in (PAPER_SETS, other)]
    assert plans[0] == plans[1]


def test_data_sets_of_the_hub_are_known_by_their_locked_commits(tmp_path: Path) -> None:
    config = DataConfig(test_sets=PAPER_SETS)
    data, sets = plan_records(config, tmp_path / "paper")
    assert data.contents == {} and sets["sni"].contents == {}
    lock = {"MiniLLM/dolly": "a" * 40, "MiniLLM/sinst": "b" * 40}
    (tmp_path / "hub.lock.json").write_text(json.dumps({"datasets": lock, "models": {}}))
    data, sets = plan_records(config, tmp_path / "paper")
    assert data.contents == {"MiniLLM/dolly": "a" * 40} and sets["sni"].contents == {"MiniLLM/sinst": "b" * 40}


def test_pitfall_22_references_stay_with_their_row(tmp_path: Path) -> None:
    folder = prepare(tmp_path, source="builtin")["dolly"]
    assert len(load_records(folder, "records")) == len(load_builtin()["dolly"].records)
    with pytest.raises(MgsrError, match="does not exist"):
        load_records(folder, "nothing")
