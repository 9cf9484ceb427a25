"""Which files hold the records, and the digests of their contents.

A local folder has MiniLLM's layout, the originals' formats, or JSONL of the user's own (`train.jsonl`, `validation.jsonl` and
`<test set>.jsonl`). It may be the folder that holds `minillm/` or `originals/`, or one of these. The forms are never mixed: the
first that is there is read, in the order just given, and what it lacks is an error of the job that reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from mgsr.config.record_sets import TestSetConfig
from mgsr.storage import file_digest

TRAINING_REPOSITORY = "MiniLLM/dolly"  # of the hub: training and validation rows

# In MiniLLM's Dolly `dev` is for validation and `valid` is the TEST set of the papers.
MINILLM = {"train": "dolly/train.jsonl", "validation": "dolly/dev.jsonl"}
DOLLY = "dolly/databricks-dolly-15k.jsonl"
ORIGINALS = {
    "dolly": (DOLLY,),
    "self_instruct": ("self_instruct/user_oriented_instructions.jsonl",),
    "vicuna": ("vicuna/question.jsonl", "vicuna/answer_gpt35.jsonl"),
}
OWN = {"train": "train.jsonl", "validation": "validation.jsonl"}

Form = Literal["MiniLLM's layout", "the originals' formats", "own JSONL"]


@dataclass(frozen=True)
class LocalFolder:
    """A folder of records and the form that they have there."""

    root: Path
    form: Form

    def training_files(self) -> list[Path]:
        """The files of the training and the validation set, in this order; one file where a single one holds both."""
        if self.form == "the originals' formats":
            return [self.root / DOLLY]
        return [self.root / file for file in (MINILLM if self.form == "MiniLLM's layout" else OWN).values()]

    def test_set_files(self, name: str, test_set: TestSetConfig) -> list[Path]:
        """The files of a test set; none where MiniLLM's layout has no place for it."""
        if self.form == "MiniLLM's layout":
            return [self.root / test_set.path] if test_set.path else []
        originals = ORIGINALS.get(name) if self.form == "the originals' formats" else None
        return [self.root / file for file in originals or (f"{name}.jsonl",)]


def local_folder(data_dir: Path) -> LocalFolder | None:
    """The records of `data_dir`; None where it holds none."""
    for root in (data_dir / "minillm", data_dir):
        if any((root / file).is_file() for file in MINILLM.values()):
            return LocalFolder(root, "MiniLLM's layout")
    for root in (data_dir / "originals", data_dir):
        if (root / DOLLY).is_file():
            return LocalFolder(root, "the originals' formats")
    return LocalFolder(data_dir, "own JSONL") if (data_dir / OWN["train"]).is_file() else None


def contents(files: Iterable[Path], root: Path) -> dict[str, str]:
    """SHA-256 by path below `root`. A file that does not exist has no entry: the job that reads it says so."""
    return {
        str(file.relative_to(root)): _contents(file, stat.st_size, stat.st_mtime_ns)
        for file in files
        if file.is_file() and (stat := file.stat())
    }


@cache
def _contents(file: Path, size: int, mtime_ns: int) -> str:
    """A file's digest; size and date tell an edited file from the one that was read before."""
    return file_digest(file)
