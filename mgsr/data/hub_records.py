"""Records from the Hugging Face hub: MiniLLM's data sets, at the commits in the lock file. Only this step uses the network."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path, PurePosixPath

from mgsr.data.records import RawData, RawSet, Record, read_records
from mgsr.errors import MgsrError
from mgsr.hub import Repository, download, resolve
from mgsr.storage import file_digest, write_jsonl

# set: repository, the names its file may have, id prefix. In MiniLLM's Dolly `dev` is for validation, `valid` for the test.
SOURCES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "train": ("MiniLLM/dolly", ("train",), "dolly-train"),
    "validation": ("MiniLLM/dolly", ("dev", "validation"), "dolly-validation"),
    "dolly": ("MiniLLM/dolly", ("valid", "test"), "dolly"),
    "self_instruct": ("MiniLLM/self-inst", ("valid", "test"), "self_instruct"),
    "vicuna": ("MiniLLM/Vicuna", ("valid", "test"), "vicuna"),
    "sni": ("MiniLLM/sinst", ("valid", "test"), "sni"),
    "unni": ("MiniLLM/uinst", ("valid", "test"), "unni"),
}
LONG = "11_"  # folder of S-NI and UnNI rows whose first reference has at least 11 GPT-2 tokens


def fetch_hub(lock_path: Path) -> RawData:
    """All sets. Raises MgsrError: missing, gated, no network, or a repository whose files do not fit."""
    repositories = {name: resolve("dataset", name, lock_path) for name in sorted({row[0] for row in SOURCES.values()})}
    data: RawData = {}
    for key, (name, stems, prefix) in SOURCES.items():
        repository = repositories[name]
        files = choose_files(repository, stems)
        folder = download(repository, files)
        data[key] = RawSet(
            _read([folder / file for file in files], prefix),
            source=f"hub {name}",
            revision=repository.revision,
            files={file: file_digest(folder / file) for file in files},
            published_split=name == "MiniLLM/dolly",
        )
    return data


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
