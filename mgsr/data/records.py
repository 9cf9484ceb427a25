"""One record: an instruction, perhaps an input, and one or more reference answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mgsr.errors import MgsrError
from mgsr.storage import canonical_json, check_folder, numbered_jsonl, read_jsonl


@dataclass(frozen=True)
class Record:
    """A row of a set. `id` is `<set>-<index in the source file>` and never changes when rows move or are dropped."""

    id: str
    instruction: str
    input: str
    references: tuple[str, ...]
    category: str

    @property
    def response(self) -> str:
        """The reference that training uses."""
        return self.references[0]

    @property
    def question(self) -> tuple[str, str]:
        """What the model is asked: two rows of equal question have the same prompt."""
        return self.instruction, self.input

    @property
    def content(self) -> str:
        """Everything but the id: equal for duplicates."""
        return canonical_json([self.instruction, self.input, list(self.references)])

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "references": list(self.references)}


@dataclass(frozen=True)
class RawSet:
    """A set as its source has it, before rows are dropped or moved.

    `revision` is the commit of a hub set, else null. `files` maps the names of the source files to their SHA-256. `rule` says
    which rows of the files these are. `published_split` says that the set belongs to Dolly's published split, which
    `DataSpec.split` may redistribute.
    """

    records: list[Record]
    source: str
    revision: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    rule: str = "all rows"
    published_split: bool = False


UNNI_ROWS = 10_000


def first_unni_rows(unni: RawSet) -> RawSet:
    """The rows of UnNI that the papers use, of MiniLLM's file of 23,916."""
    kept = unni.records[:UNNI_ROWS]
    return replace(unni, records=kept, rule=f"the first {len(kept):,} of {len(unni.records):,} rows, as in the papers")


RawData = dict[str, RawSet]
"""The sets of a source by name; "train" and "validation" are those that training reads."""


def text_field(row: dict[str, Any], name: str, where: str, default: str | None = None) -> str:
    """A string field of a row; a missing one (without default) or another type is an error naming `where`."""
    value = row.get(name, default)
    if isinstance(value, str):
        return value
    problem = "is missing" if name not in row else f"is {type(value).__name__}, not a string"
    raise MgsrError(f'{where}: field "{name}" {problem}; mend or remove the line')


def references_field(row: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
    """A field that holds one reference or a list of them; a list is not empty."""
    value = row.get(name)
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return tuple(value)
    problem = "is missing" if name not in row else "is neither a string nor a non-empty list of strings"
    raise MgsrError(f'{where}: field "{name}" {problem}; mend or remove the line')


def read_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a JSONL file, each with its place ("file, line n") for error messages."""
    rows = []
    for number, row in numbered_jsonl(path):
        where = f"{path}, line {number}"
        if not isinstance(row, dict):
            raise MgsrError(f"{where}: a {type(row).__name__}, not a JSON object; mend or remove the line")
        rows.append((where, row))
    return rows


def read_records(path: Path, prefix: str) -> list[Record]:
    """Records of a file with the fields instruction, input (optional), output (text or list), and category or topic.

    MiniLLM's files and a user's own have this form. Ids are `<prefix>-<index>`.
    """
    return [
        Record(
            id=f"{prefix}-{index}",
            instruction=text_field(row, "instruction", where),
            input=text_field(row, "input", where, default=""),
            references=references_field(row, "output", where),
            category=text_field(row, "category" if "category" in row else "topic", where, default=""),
        )
        for index, (where, row) in enumerate(read_rows(path))
    ]


def load_records(folder: Path, name: str) -> list[Record]:
    """The prepared records of `<folder>/<name>.jsonl`, in order. Raises MgsrError where they are not as they were written."""
    check_folder(folder, f"{name}.jsonl")
    return [Record(**{**row, "references": tuple(row["references"])}) for row in read_jsonl(folder / f"{name}.jsonl")]
