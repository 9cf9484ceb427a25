"""Records from the Hugging Face hub, at the commits in the lock file. Only this step uses the network."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

from mgsr.config.record_files import TRAINING_REPOSITORY
from mgsr.config.record_sets import TestSetConfig
from mgsr.data.records import RawData, RawSet, Record, first_unni_rows, read_records
from mgsr.errors import MgsrError
from mgsr.hub import Repository, download, resolve
from mgsr.storage import file_digest, write_jsonl

DEV_ROWS = 1000  # --dev-num of MiniLLM's processing script
LONG = "11_"  # folder of S-NI and UnNI rows whose first reference has at least 11 GPT-2 tokens


def fetch_training(lock_path: Path) -> RawData:
    """Training and validation set. MiniLLM's Dolly has no file of either: its script splits the rows of `raw`, and `valid` is
    the TEST set. Raises MgsrError: missing, gated, no network, or a repository whose files do not fit."""
    raw = _fetch(TRAINING_REPOSITORY, ("raw",), "dolly-raw", lock_path, published_split=True)
    count, script = len(raw.records), f"(--dev-num {DEV_ROWS} of MiniLLM's processing)"
    if count <= DEV_ROWS:
        raise MgsrError(f"{raw.source}: raw has {count} rows; more than {DEV_ROWS} are needed to split it")
    train = f"rows {DEV_ROWS + 1:,} to {count:,} of raw {script}"
    return {
        "train": replace(raw, records=raw.records[DEV_ROWS:], rule=train),
        "validation": replace(raw, records=raw.records[:DEV_ROWS], rule=f"the first {DEV_ROWS:,} rows of raw {script}"),
    }


def fetch_test_set(name: str, test_set: TestSetConfig, lock_path: Path) -> RawSet:
    """One test set. Raises MgsrError likewise."""
    if not test_set.repository:
        raise MgsrError(f"data.test_sets.{name}: source 'hub' needs its `repository`, or a `file` of your own")
    raw = _fetch(test_set.repository, test_set.stems, name, lock_path)
    return first_unni_rows(raw) if name == "unni" else raw


def _fetch(name: str, stems: tuple[str, ...], prefix: str, lock_path: Path, published_split: bool = False) -> RawSet:
    repository = resolve("dataset", name, lock_path)
    files = choose_files(repository, stems)
    folder = download(repository, files)
    return RawSet(
        _read([folder / file for file in files], prefix),
        source=f"hub {name}",
        revision=repository.revision,
        files={file: file_digest(folder / file) for file in files},
        published_split=published_split,
    )


def choose_files(repository: Repository, stems: tuple[str, ...]) -> list[str]:
    """The JSONL or Parquet file (or its shards, in order) of one split; anything but exactly one choice is an error."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for file in repository.files:
        path = PurePosixPath(file)
        stem = re.sub(r"-\d{5}-of-\d{5}$", "", path.stem)
        if path.suffix in (".jsonl", ".parquet") and stem in stems:
            groups.setdefault((str(path.parent), stem, path.suffix), []).append(file)
    if any(LONG in PurePosixPath(folder).parts for folder, _, _ in groups):
        groups = {group: files for group, files in groups.items() if LONG in PurePosixPath(group[0]).parts}
    if len(groups) != 1:
        wanted = " or ".join(f"{stem}.jsonl/.parquet" for stem in stems)
        raise MgsrError(
            f"{repository}: expected one {wanted}, found {len(groups)} among {', '.join(repository.files) or 'no files'}; "
            "download it by hand, arrange it like MiniLLM's folders and use source=local"
        )
    return sorted(next(iter(groups.values())))


def _read(files: list[Path], prefix: str) -> list[Record]:
    if len(files) == 1 and files[0].suffix == ".jsonl":
        return read_records(files[0], prefix)
    with tempfile.TemporaryDirectory() as folder:  # shards become one file, so that ids count through
        whole = Path(folder) / f"{prefix}.jsonl"
        if files[0].suffix == ".jsonl":
            whole.write_bytes(b"".join(file.read_bytes().rstrip(b"\n") + b"\n" for file in files))
        else:
            from pyarrow import parquet  # type: ignore[import-untyped]

            write_jsonl(whole, (row for file in files for row in parquet.read_table(file).to_pylist()))
        return read_records(whole, prefix)
