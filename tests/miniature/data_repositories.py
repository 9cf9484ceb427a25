"""The five data sets under their names on the hub, in MiniLLM's layout, filled with generated records."""

from __future__ import annotations

from mgsr.data.builtin_records import load_builtin
from mgsr.data.prompts import format_prompt
from mgsr.data.records import Record
from mgsr.storage import canonical_json

TRAINING_ROWS = 600  # of raw.jsonl, beside the 1,000 that validate
UNNI_ROWS = 10_100  # more than the 10,000 that are used
README = b"---\nlanguage: en\n---\nA stand-in with generated records.\n"


def _files(stem: str, records: list[Record], *, several_references: bool = False) -> dict[str, bytes]:
    """A JSONL file, and its twin of plain text."""
    rows, texts = [], []
    for record in records:
        output = list(record.references) if several_references else record.response
        row = {"instruction": record.instruction, "input": record.input, "output": output}
        rows.append(canonical_json(row) + "\n")
        texts.append((format_prompt(record) + record.response).replace("\n", "<n>") + "\n")
    return {f"{stem}.jsonl": "".join(rows).encode(), f"{stem}.txt": "".join(texts).encode()}


def data_sets() -> dict[str, dict[str, bytes]]:
    """{"datasets/owner/name": {path: content}}; equal on every call and machine."""
    records = {name: raw.records for name, raw in load_builtin().items()}
    raw = records["train"][: 1000 + TRAINING_ROWS]
    unni = (records["unni"] * (UNNI_ROWS // len(records["unni"]) + 1))[:UNNI_ROWS]
    sets = {
        "dolly": _files("raw", raw) | _files("valid", records["dolly"]),
        "self-inst": _files("valid", records["self_instruct"]),
        "Vicuna": _files("valid", records["vicuna"]),
        "sinst": _files("11_/valid", records["sni"], several_references=True) | _files("0_2/valid", records["vicuna"]),
        "uinst": _files("11_/valid", unni) | _files("0_2/valid", records["vicuna"]),
    }
    return {f"datasets/MiniLLM/{name}": {"README.md": README, **files} for name, files in sets.items()}
