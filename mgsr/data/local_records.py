"""Records of a local folder: MiniLLM's layout, the originals' formats, or a user's own JSONL. No network.

The folder may be the one that holds `minillm/` or `originals/`, or one of these. The forms are never mixed: the first that is
there is read, in the order just given, and what it lacks is an error.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from mgsr.config.base import TEST_SETS
from mgsr.data.records import RawData, RawSet, Record, first_unni_rows, read_records, read_rows, references_field, text_field
from mgsr.errors import MgsrError
from mgsr.storage import file_digest

# set: file, id prefix. In MiniLLM's Dolly `dev` is for validation and `valid` is the TEST set of the papers.
MINILLM = {
    "train": ("dolly/train.jsonl", "dolly-train"),
    "validation": ("dolly/dev.jsonl", "dolly-validation"),
    "dolly": ("dolly/valid.jsonl", "dolly"),
    "self_instruct": ("self-inst/valid.jsonl", "self_instruct"),
    "vicuna": ("vicuna/valid.jsonl", "vicuna"),
    "sni": ("sinst/11_/valid.jsonl", "sni"),
    "unni": ("uinst/11_/valid.jsonl", "unni"),
}
DOLLY = "dolly/databricks-dolly-15k.jsonl"
SELF_INSTRUCT = "self_instruct/user_oriented_instructions.jsonl"
QUESTIONS, ANSWERS = "vicuna/question.jsonl", "vicuna/answer_gpt35.jsonl"
OWN = {name: (f"{name}.jsonl", name) for name in ("train", "validation", *TEST_SETS)}
TEST_ROWS, VALIDATION_ROWS = 500, 1000  # of Dolly, as in MiniLLM's files


def load_local(data_dir: Path) -> RawData:
    """All sets that the folder has. Raises MgsrError: nothing there, files missing, a malformed line."""
    if not data_dir.is_dir():
        raise MgsrError(f"data_dir {data_dir} is not a folder; set data_dir to the folder of the records")
    for root in (data_dir / "minillm", data_dir):
        if any((root / file).is_file() for file, _ in MINILLM.values()):
            data = _read(root, MINILLM, "MiniLLM's layout")
            return {**data, "unni": first_unni_rows(data["unni"])}
    for root in (data_dir / "originals", data_dir):
        if (root / DOLLY).is_file():
            return _originals(root)
    if (data_dir / OWN["train"][0]).is_file():
        return _read(data_dir, OWN, "own JSONL")
    raise MgsrError(
        f"data_dir {data_dir} holds no records: looked for {MINILLM['train'][0]} (MiniLLM's layout), {DOLLY} (the originals) "
        f"and {OWN['train'][0]} (own JSONL), also in its folders minillm and originals"
    )


def _require(root: Path, files: dict[str, str], form: str) -> None:
    if absent := [f"{name} ({file})" for name, file in files.items() if not (root / file).is_file()]:
        raise MgsrError(f"{root}: {form}, but these sets are missing: {', '.join(absent)}; add the files")


def _read(root: Path, layout: dict[str, tuple[str, str]], form: str) -> RawData:
    _require(root, {name: file for name, (file, _) in layout.items()}, form)
    return {
        name: RawSet(
            read_records(root / file, prefix),
            source=f"local, {form}",
            files={file: file_digest(root / file)},
            published_split=layout is MINILLM and file.startswith("dolly/"),
        )
        for name, (file, prefix) in layout.items()
    }


def _originals(root: Path) -> RawData:
    """Dolly, Self-Instruct and Vicuna as published; S-NI and UnNI as `sni.jsonl` and `unni.jsonl` beside them."""
    extra = {name: (f"{name}.jsonl", name) for name in ("sni", "unni")}
    files = {"self_instruct": SELF_INSTRUCT, "vicuna": QUESTIONS, "vicuna's answers": ANSWERS}
    _require(root, files | {name: file for name, (file, _) in extra.items()}, "the originals' formats")

    def raw(records: list[Record], *names: str, published: bool = False) -> RawSet:
        hashes = {name: file_digest(root / name) for name in names}
        return RawSet(records, "local, the originals' formats", files=hashes, published_split=published)

    train, validation, test = _split_dolly(_dolly(root / DOLLY))
    return {
        "train": raw(train, DOLLY, published=True),
        "validation": raw(validation, DOLLY, published=True),
        "dolly": raw(test, DOLLY, published=True),
        "self_instruct": raw(_self_instruct(root / SELF_INSTRUCT), SELF_INSTRUCT),
        "vicuna": raw(_vicuna(root / QUESTIONS, root / ANSWERS), QUESTIONS, ANSWERS),
        **_read(root, extra, "the originals' formats"),
    }


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
