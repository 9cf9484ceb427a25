"""Raw sets in; prepared records out, with a manifest of where they came from and what was left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from mgsr.config.record_sets import Split
from mgsr.config.specs import DataSpec, TestSetSpec, read_spec
from mgsr.data.records import RawData, RawSet, Record, load_records, read_records
from mgsr.errors import MgsrError
from mgsr.hub import lock_path
from mgsr.storage import digest, file_digest, new_folder, write_json, write_jsonl

PAPER_VALIDATION_ROWS = 500  # of MiniLLM's validation rows; the others train (recipe of the paper)


def load_training(spec: DataSpec, root: Path) -> RawData:
    """Training and validation set from their source. Only `hub` uses the network."""
    if spec.source == "builtin":
        from mgsr.data.builtin_records import load_builtin

        return load_builtin()
    if spec.source == "local":
        from mgsr.data.local_records import load_training

        return load_training(Path(spec.place or ""))
    from mgsr.data.hub_records import fetch_training

    return fetch_training(lock_path(root))


def load_test_set(spec: TestSetSpec, root: Path) -> RawSet:
    """A test set from its own file, or else from the source."""
    name, test_set = spec.name, spec.test_set
    if test_set.file:
        file = Path(spec.place or "")
        return RawSet(read_records(file, name), "own file", files={file.name: file_digest(file)})
    if spec.source == "builtin":
        from mgsr.data.builtin_records import load_builtin

        sets = load_builtin()
        if name not in sets:
            raise MgsrError(f"data.test_sets.{name}: source 'builtin' has no such set; give its `file`")
        return sets[name]
    if spec.source == "local":
        from mgsr.data.local_records import load_test_set

        return load_test_set(Path(spec.place or ""), name, test_set)
    from mgsr.data.hub_records import fetch_test_set

    return fetch_test_set(name, test_set, lock_path(root))


def split_dolly(data: RawData, split: Split) -> RawData:
    """Split `paper`: the first 500 of a published split's validation rows stay, all others train. `minillm`: as published."""
    train, validation = data["train"], data["validation"]
    if split == "minillm" or not validation.published_split:
        return data
    kept, moved = validation.records[:PAPER_VALIDATION_ROWS], validation.records[PAPER_VALIDATION_ROWS:]
    return {
        "train": replace(
            train,
            records=train.records + moved,
            files=train.files | validation.files,
            rule=f"{train.rule}; then, of validation, those after the first {len(kept)}",
        ),
        "validation": replace(validation, records=kept, rule=f"the first {len(kept)} of: {validation.rule}"),
    }


def _usable(raw: RawSet, name: str) -> tuple[list[Record], dict[str, Any]]:
    """Rows with an instruction and no empty reference, and what the manifest says of their set."""
    kept, dropped = [], Counter[str]()
    for record in raw.records:
        if not record.instruction.strip():
            dropped["empty instruction"] += 1
        elif not all(reference.strip() for reference in record.references):
            dropped["empty response"] += 1
        else:
            kept.append(record)
    if not kept:
        raise MgsrError(f"{raw.source}: set {name} has no usable row ({dict(dropped)})")
    return kept, {
        "source": raw.source,
        "revision": raw.revision,
        "source_files": raw.files,
        "rule": raw.rule,
        "rows": len(kept),
        "dropped": dict(sorted(dropped.items())),
        "duplicates": len(kept) - len({record.content for record in kept}),
    }


def _check_contents(spec: DataSpec | TestSetSpec, sets: list[RawSet]) -> None:
    """The records must be those that the name of their folder stands for."""
    if sets[0].revision is not None and spec.source == "hub":
        read = {raw.revision for raw in sets}
    else:
        read = {checksum for raw in sets for checksum in raw.files.values()}
    if read != set(spec.contents.values()):
        sources = ", ".join(sorted({raw.source for raw in sets}))
        raise MgsrError(
            f"the records ({sources}) are not those that were there when the run was planned; run the same command again, so "
            "that the names of results follow"
        )


def prepare_data(root: Path, name: str) -> None:
    """Write `data/<name>`: train.jsonl, validation.jsonl and manifest.json. `name`: digest of a DataSpec in `specs`.

    Equal inputs give equal bytes. Raises MgsrError.
    """
    spec = read_spec(root, name, DataSpec)
    data = split_dolly(load_training(spec, root), spec.split)
    _check_contents(spec, [data["train"], data["validation"]])
    sets: dict[str, dict[str, Any]] = {}
    with new_folder(root / "data" / name) as folder:
        for split in ("train", "validation"):
            records, sets[split] = _usable(data[split], split)
            write_jsonl(folder / f"{split}.jsonl", (record.to_json() for record in records))
            sets[split]["sha256"] = file_digest(folder / f"{split}.jsonl")
        checksums = {split: facts["sha256"] for split, facts in sets.items()}
        write_json(
            folder / "manifest.json",
            {"schema": 1, "source": spec.source, "split": spec.split, "sets": sets, "digest": digest(checksums)},
        )


def prepare_test_set(root: Path, name: str) -> None:
    """Write `test_sets/<name>`: records.jsonl and manifest.json, which names the training rows that ask the same as a row of
    the set (they are kept, as the papers kept them). `name`: digest of a TestSetSpec in `specs`.

    Equal inputs give equal bytes. Raises MgsrError.
    """
    spec = read_spec(root, name, TestSetSpec)
    raw = load_test_set(spec, root)
    _check_contents(spec, [raw])
    records, facts = _usable(raw, spec.name)
    questions = {record.question for record in records}
    training = load_records(root / "data" / spec.data, "train")
    with new_folder(root / "test_sets" / name) as folder:
        write_jsonl(folder / "records.jsonl", (record.to_json() for record in records))
        facts["sha256"] = file_digest(folder / "records.jsonl")
        overlap = [record.id for record in training if record.question in questions]
        manifest = {"schema": 1, "set": spec.name, "licence": spec.test_set.licence, **facts, "train_rows_in_the_set": overlap}
        write_json(folder / "manifest.json", manifest)
