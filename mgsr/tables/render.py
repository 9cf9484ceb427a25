"""Lines and a document in; CSV, Markdown and LaTeX out, in bytes that depend on nothing but the numbers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from mgsr.config.table_specs import CheckSpec, ClaimsSpec, TableSpec
from mgsr.storage import write_text

MISSING = "n/a"
TICK, CROSS, MARK = "✓", "–", "†"
FAMILY = "family"  # header of a first column that a document of one family does without
METRIC_TITLES = {"rouge_l": "ROUGE-L"}

Value = str | bool | int | float | None
CsvLine = dict[str, Value]

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--", "<": "$<$", ">": "$>$",
    "→": r"$\rightarrow$", "ε": r"$\epsilon$",
    TICK: r"$\checkmark$", MARK: r"$^\dagger$",
}  # fmt: skip


class Bold(str):
    """Text of a cell that is printed in bold."""

    __slots__ = ()


@dataclass(frozen=True)
class Block:
    """One grid of text: a protocol's part of a table."""

    heading: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Document:
    """A table as people read it."""

    title: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]
    checks: tuple[str, ...] = ()

    @property
    def shown(self) -> tuple[Block, ...]:
        """The blocks as they are printed: their first column, `family`, is left out where all of them speak of one family."""
        several = len({row[0] for block in self.blocks if block.header[0] == FAMILY for row in block.rows}) > 1
        return tuple(
            block
            if several or block.header[0] != FAMILY
            else Block(block.heading, block.header[1:], tuple(row[1:] for row in block.rows))
            for block in self.blocks
        )


Shown = TableSpec | CheckSpec | ClaimsSpec


def heading(spec: Shown, title: str) -> str:
    return f"{title} (preset {spec.preset}, recipe {spec.recipe})"


def document(spec: Shown, title: str, blocks: Iterable[Block], notes: Iterable[str], checks: Iterable[str] = ()) -> Document:
    """The document of a table, with the preset's note before the table's own."""
    preset = [spec.note.strip()] if spec.note.strip() else []
    return Document(heading(spec, title), tuple(blocks), (*preset, *notes), tuple(checks))


@dataclass(frozen=True)
class Table:
    """One table, twice: the lines of its CSV, all with the same columns, and the document that people read."""

    lines: Sequence[CsvLine]
    document: Document


def number(value: float | None, digits: int = 2) -> str:
    """A rounded number; None and NaN print as n/a, and a rounded 0 has no sign."""
    return MISSING if value is None or math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def bounds_text(low: float, high: float, digits: int = 2) -> str:
    """`low to high`; a bound that too few prompts leave open is unbounded."""
    return " to ".join("unbounded" if math.isinf(bound) else number(bound, digits) for bound in (low, high))


def metric_title(metric: str) -> str:
    """A metric as tables print it: a user's own, `module:name`, by its name."""
    return METRIC_TITLES.get(metric, metric.rpartition(":")[2])


def csv_text(lines: Sequence[Mapping[str, Value]], float_format: str = "%.4f") -> str:
    """Lines with the same columns as CSV; None and NaN are n/a."""

    def text(value: Value) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return MISSING
        return float_format % value if isinstance(value, float) else str(value)

    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: text(value) for name, value in line.items()} for line in lines)
    return buffer.getvalue()


def _markdown_cell(cell: str) -> str:
    text = cell.replace("|", r"\|")
    return f"**{text}**" if isinstance(cell, Bold) else text


def markdown(document: Document) -> str:
    parts = [f"# {document.title}"]
    for block in document.shown:
        lines = [block.header, tuple("---" for _ in block.header), *block.rows]
        table = "\n".join("| " + " | ".join(map(_markdown_cell, line)) + " |" for line in lines)
        parts += [f"## {block.heading}", table]
    parts.append("\n".join(f"- {note}" for note in document.notes))
    if document.checks:
        parts += ["## Checks", "\n".join(f"- {check}" for check in document.checks)]
    return "\n\n".join(parts) + "\n"


def _escape(text: str) -> str:
    escaped = "".join(LATEX.get(character, character) for character in text)
    return rf"\textbf{{{escaped}}}" if isinstance(text, Bold) else escaped


def latex(document: Document, name: str) -> str:
    """Each block as a table environment, laid out as render.tex says. It needs the packages booktabs and amssymb."""
    environment = jinja2.Environment("<%", "%>", "<<", ">>", trim_blocks=True, keep_trailing_newline=True)
    environment.filters["escaped"] = _escape
    template = Path(__file__).with_suffix(".tex").read_text(encoding="utf-8")
    return environment.from_string(template).render(document=document, name=name)


def write_files(table: Table, folder: Path, name: str) -> None:
    """folder/name.csv (4 decimals), .md and .tex. Timings stand in the CSV's last columns, named
    *_seconds; a table of kind `efficiency` is made of them."""
    write_text(folder / f"{name}.csv", csv_text(table.lines))
    write_text(folder / f"{name}.md", markdown(table.document))
    write_text(folder / f"{name}.tex", latex(table.document, name))
