"""Records of a local folder: MiniLLM's layout, the originals' formats, or a user's own JSONL. No network."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mgsr.config.record_files import DOLLY, MINILLM, OWN, LocalFolder, local_folder
from mgsr.config.record_sets import TestSetConfig
from mgsr.data.records import RawData, RawSet, Record, first_unni_rows, read_records, read_rows, references_field, text_field
from mgsr.errors import MgsrError
from mgsr.storage import file_digest

TEST_ROWS, VALIDATION_ROWS = 500, 1000  # of Dolly, as in MiniLLM's files


def load_training(data_dir: Path) -> RawData:
    """Training and validation set. Raises MgsrError: nothing there, a file is missing, a malformed line."""
    folder = _folder(data_dir)
    files = folder.training_files()
    _require(folder, files)
    if folder.form == "the originals' formats":
        train, validation, _ = _split_dolly(_dolly(files[0]))
        return {name: _raw(folder, files, rows, True) for name, rows in (("train", train), ("validation", validation))}
    published = folder.form == "MiniLLM's layout"
    return {
        name: _raw(folder, [file], read_records(file, f"dolly-{name}" if published else name), published)
        for name, file in zip(("train", "validation"), files, strict=True)
    }


def load_test_set(data_dir: Path, name: str, test_set: TestSetConfig) -> RawSet:
    """One test set. Raises MgsrError likewise, and where MiniLLM's layout has no place for it."""
    folder = _folder(data_dir)
    files = folder.test_set_files(name, test_set)
    if not files:
        raise MgsrError(
            f"data.test_sets.{name}: {folder.root} has {folder.form}; state the `path` there, or a `file` of your own"
        )
    _require(folder, files)
    if folder.form == "the originals' formats" and name == "dolly":
        records = _split_dolly(_dolly(files[0]))[2]
    elif folder.form == "the originals' formats" and name == "self_instruct":
        records = _self_instruct(files[0])
    elif folder.form == "the originals' formats" and name == "vicuna":
        records = _vicuna(*files)
    else:
        records = read_records(files[0], name)
    raw = _raw(folder, files, records)
    return first_unni_rows(raw) if folder.form == "MiniLLM's layout" and name == "unni" else raw


def _folder(data_dir: Path) -> LocalFolder:
    if not data_dir.is_dir():
        raise MgsrError(f"data_dir {data_dir} is not a folder; set data_dir to the folder of the records")
    folder = local_folder(data_dir)
    if folder is None:
        raise MgsrError(
            f"data_dir {data_dir} holds no records: looked for {MINILLM['train']} (MiniLLM's layout), {DOLLY} (the originals) "
            f"and {OWN['train']} (own JSONL), also in its folders minillm and originals"
        )
    return folder


def _require(folder: LocalFolder, files: list[Path]) -> None:
    if absent := [str(file.relative_to(folder.root)) for file in files if not file.is_file()]:
        raise MgsrError(f"{folder.root} has {folder.form}, but these files are missing: {', '.join(absent)}; add them")


def _raw(folder: LocalFolder, files: list[Path], records: list[Record], published_split: bool = False) -> RawSet:
    hashes = {str(file.relative_to(folder.root)): file_digest(file) for file in files}
    return RawSet(records, f"local, {folder.form}", files=hashes, published_split=published_split)


def _dolly(path: Path) -> list[Record]:
    return [
        Record(
            f"dolly-{index}",
            text_field(row, "instruction", where),
            text_field(row, "context", where),
            (text_field(row, "response", where),),
            text_field(row, "category", where),
        )
        for index, (where, row) in enumerate(read_rows(path))
    ]


def _split_dolly(records: list[Record]) -> tuple[list[Record], list[Record], list[Record]]:
    """Train, validation and test rows, each in file order. The original has no split: rows of the lowest content hash are
    tested, the next validate, so that the file's order (it differs between copies) decides nothing."""
    if len(records) <= TEST_ROWS + VALIDATION_ROWS:
        raise MgsrError(f"{DOLLY} has {len(records)} rows; more than {TEST_ROWS + VALIDATION_ROWS} are needed to split it")
    ranked = sorted(range(len(records)), key=lambda index: hashlib.sha256(records[index].content.encode()).digest())
    test, validation = ranked[:TEST_ROWS], ranked[TEST_ROWS : TEST_ROWS + VALIDATION_ROWS]
    train = ranked[TEST_ROWS + VALIDATION_ROWS :]
    return tuple([records[index] for index in sorted(part)] for part in (train, validation, test))  # type: ignore[return-value]


def _self_instruct(path: Path) -> list[Record]:
    records = []
    for index, (where, row) in enumerate(read_rows(path)):
        instances = row.get("instances")
        if not isinstance(instances, list) or len(instances) != 1 or not isinstance(instances[0], dict):
            raise MgsrError(f'{where}: field "instances" is not a list of one object; mend or remove the line')
        records.append(
            Record(
                f"self_instruct-{index}",
                text_field(row, "instruction", where),
                text_field(instances[0], "input", where),
                references_field(instances[0], "output", where),
                text_field(row, "motivation_app", where, default=""),
            )
        )
    return records


def _vicuna(questions: Path, answers: Path) -> list[Record]:
    texts = {row.get("question_id"): text_field(row, "text", where) for where, row in read_rows(answers)}
    records = []
    for index, (where, row) in enumerate(read_rows(questions)):
        turns, key = row.get("turns"), row.get("question_id")
        if not isinstance(turns, list) or not turns or not isinstance(turns[0], str):
            raise MgsrError(f'{where}: field "turns" is not a list that starts with a string; mend or remove the line')
        if key not in texts:
            raise MgsrError(f"{where}: question_id {key!r} has no answer in {answers}; add it or remove the line")
        records.append(Record(f"vicuna-{index}", turns[0], "", (texts[key],), text_field(row, "category", where, default="")))
    return records
