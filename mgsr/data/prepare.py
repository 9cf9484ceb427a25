"""Raw sets in; the records of every split and a manifest of where they came from and what was left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from mgsr.config.base import TEST_SETS
from mgsr.config.specs import DataSpec
from mgsr.data.records import RawData, RawSet, Record
from mgsr.errors import MgsrError
from mgsr.storage import digest, file_digest, new_folder, write_json, write_jsonl

PAPER_VALIDATION_ROWS = 500  # of MiniLLM's validation rows; the others train (recipe of the paper)
SPLITS = ("train", "validation", *TEST_SETS)


def load_raw(spec: DataSpec, lock: Path) -> RawData:
    """All sets from their source. Only `hub` uses the network."""
    if spec.source == "builtin":
        from mgsr.data.builtin_records import load_builtin

        return load_builtin()
    if spec.source == "local":
        from mgsr.data.local_records import load_local

        return load_local(Path(spec.data_dir or ""))
    from mgsr.data.hub_records import fetch_hub

    return fetch_hub(lock)


def split_dolly(data: RawData, split: str) -> RawData:
    """Split `paper`: the first 500 of a published split's validation rows stay, all others train. `minillm`: as published."""
    train, validation = data["train"], data["validation"]
    if split == "minillm" or not validation.published_split:
        return data
    kept, moved = validation.records[:PAPER_VALIDATION_ROWS], validation.records[PAPER_VALIDATION_ROWS:]
    return {
        **data,
        "train": replace(
            train,
            records=train.records + moved,
            files=train.files | validation.files,
            rule=f"{train.rule}; then, of validation, those after the first {len(kept)}",
        ),
        "validation": replace(validation, records=kept, rule=f"the first {len(kept)} of: {validation.rule}"),
    }


def _usable(raw: RawSet) -> tuple[list[Record], dict[str, int]]:
    """Rows with an instruction and no empty reference, and how many were dropped, by reason."""
    kept, dropped = [], Counter[str]()
    for record in raw.records:
        if not record.instruction.strip():
            dropped["empty instruction"] += 1
        elif not all(reference.strip() for reference in record.references):
            dropped["empty response"] += 1
        else:
            kept.append(record)
    return kept, dict(sorted(dropped.items()))


def prepare(spec: DataSpec, out: Path, lock: Path) -> None:
    """Write `<split>.jsonl` for each split and manifest.json. Equal inputs give equal bytes. Raises MgsrError."""
    data = split_dolly(load_raw(spec, lock), spec.split)
    if absent := [name for name in SPLITS if name not in data]:
        raise MgsrError(f"source {spec.source}: the sets {', '.join(absent)} are missing")
    records: dict[str, list[Record]] = {}
    sets: dict[str, dict[str, Any]] = {}
    for name in SPLITS:
        raw = data[name]
        records[name], dropped = _usable(raw)
        if not records[name]:
            raise MgsrError(f"source {spec.source}: set {name} has no usable row ({dropped})")
        sets[name] = {
            "source": raw.source,
            "revision": raw.revision,
            "source_files": raw.files,
            "rule": raw.rule,
            "rows": len(records[name]),
            "dropped": dropped,
            "duplicates": len(records[name]) - len({record.content for record in records[name]}),
        }
    tested = {record.question: name for name in TEST_SETS for record in records[name]}
    overlap = {record.id: tested[record.question] for record in records["train"] if record.question in tested}
    with new_folder(out) as folder:
        for name in SPLITS:
            write_jsonl(folder / f"{name}.jsonl", (record.to_json() for record in records[name]))
            sets[name]["sha256"] = file_digest(folder / f"{name}.jsonl")
        manifest = {
            "schema": 1,
            "source": spec.source,
            "split": spec.split,
            "sets": sets,
            "train_rows_in_a_test_set": overlap,  # kept, as the papers kept them
            "digest": digest({name: sets[name]["sha256"] for name in SPLITS}),
        }
        write_json(folder / "manifest.json", manifest)
