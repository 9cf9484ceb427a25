"""Writes what the workflow's jobs read: `specs/<digest>.json` by content, `plan/<name>.json` by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mgsr.config.base import Strict
from mgsr.storage import write_json


def write_specs(root: Path, specs: Mapping[str, Strict]) -> None:
    """Write the specs by digest."""
    for name, spec in specs.items():
        _write_changed(root / "specs" / f"{name}.json", spec)


def write_plan(root: Path, parts: Mapping[str, Strict]) -> None:
    """Write what tables, open checks, pages and cards are made of, by name. A file whose content stays the same keeps its date,
    which decides what is made again."""
    for name, part in parts.items():
        _write_changed(root / "plan" / f"{name}.json", part)


def _write_changed(path: Path, value: Strict) -> None:
    stated = value.model_dump(mode="json")
    try:
        unchanged = json.loads(path.read_text(encoding="utf-8")) == stated
    except (OSError, ValueError):
        unchanged = False
    if not unchanged:
        write_json(path, stated)
