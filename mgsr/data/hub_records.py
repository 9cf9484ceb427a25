"""Records from the Hugging Face hub: MiniLLM's data sets, at the commits in the lock file. Only this step uses the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mgsr.data.records import RawData, RawSet, first_unni_rows, read_records
from mgsr.errors import MgsrError
from mgsr.hub import download, resolve
from mgsr.storage import file_digest

# set: repository, file, id prefix. MiniLLM's Dolly has no file of training rows: they are `raw`, and `valid` is the TEST set.
SOURCES = {
    "raw": ("MiniLLM/dolly", "raw.jsonl", "dolly-raw"),
    "dolly": ("MiniLLM/dolly", "valid.jsonl", "dolly"),
    "self_instruct": ("MiniLLM/self-inst", "valid.jsonl", "self_instruct"),
    "vicuna": ("MiniLLM/Vicuna", "valid.jsonl", "vicuna"),
    "sni": ("MiniLLM/sinst", "11_/valid.jsonl", "sni"),  # first reference of at least 11 GPT-2 tokens
    "unni": ("MiniLLM/uinst", "11_/valid.jsonl", "unni"),
}
DEV_ROWS = 1000  # --dev-num of MiniLLM's processing script


def fetch_hub(lock_path: Path) -> RawData:
    """All sets. Raises MgsrError: missing, gated, no network, or a repository without the file."""
    data = {name: _fetch(*source, lock_path) for name, source in SOURCES.items()}
    return {**split_raw(data.pop("raw")), **data, "unni": first_unni_rows(data["unni"])}


def split_raw(raw: RawSet) -> RawData:
    """MiniLLM's split of the rows that are not tested: its script takes the first ones for validation. Raises MgsrError where
    none would be left to train on."""
    count = len(raw.records)
    if count <= DEV_ROWS:
        raise MgsrError(f"{raw.source}: raw.jsonl has {count} rows; more than {DEV_ROWS} are needed to split it")
    script = f"(--dev-num {DEV_ROWS} of MiniLLM's processing)"
    validation = f"the first {DEV_ROWS:,} rows of raw.jsonl {script}"
    train = f"rows {DEV_ROWS + 1:,} to {count:,} of raw.jsonl {script}"
    return {
        "train": replace(raw, records=raw.records[DEV_ROWS:], rule=train),
        "validation": replace(raw, records=raw.records[:DEV_ROWS], rule=validation),
    }


def _fetch(name: str, file: str, prefix: str, lock_path: Path) -> RawSet:
    repository = resolve("dataset", name, lock_path)
    if file not in repository.files:
        raise MgsrError(
            f"{repository} has no {file}; it has {', '.join(repository.files) or 'no files'}. Download it by hand, arrange it "
            "like MiniLLM's folders and use source=local"
        )
    path = download(repository, [file]) / file
    return RawSet(
        read_records(path, prefix),
        source=f"hub {name}",
        revision=repository.revision,
        files={file: file_digest(path)},
        published_split=name == "MiniLLM/dolly",
    )
