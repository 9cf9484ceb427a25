"""The notes that stand below tables and open checks, from legends.yaml beside this module."""

from __future__ import annotations

from pathlib import Path

import yaml

LEGENDS: dict[str, list[str]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def legend(name: str, **values: str) -> list[str]:
    """The notes of that name, with `values` in place of the words in braces."""
    return [note.format(**values) for note in LEGENDS[name]]
