"""A frame and its document in; CSV, Markdown and LaTeX out, in bytes that depend on nothing but the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mgsr.storage import write_text
from mgsr.tables.statistics import Spread

MISSING = "n/a"
TICK, CROSS, MARK = "✓", "–", "†"

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--", "<": "$<$", ">": "$>$",
    "→": r"$\rightarrow$",
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


def number(value: float | None, digits: int = 2) -> str:
    """A rounded number; None and NaN print as n/a, and a rounded 0 has no sign."""
    return MISSING if value is None or pd.isna(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def spread_text(spread: Spread) -> str:
    """mean ± decoding deviation (training deviation)."""
    return f"{number(spread.mean)} ± {number(spread.decoding)} ({number(spread.training)})"


def _markdown_cell(cell: str) -> str:
    text = cell.replace("|", r"\|")
    return f"**{text}**" if isinstance(cell, Bold) else text


def markdown(document: Document) -> str:
    parts = [f"# {document.title}"]
    for block in document.blocks:
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
    """One table environment a block; needs the packages booktabs and amssymb."""
    parts = ["% \\usepackage{amssymb,booktabs}"]
    for number_, block in enumerate(document.blocks, 1):
        lines = [" & ".join(map(_escape, line)) + r" \\" for line in (block.header, *block.rows)]
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering\small",
                    rf"\caption{{{_escape(f'{document.title}. {block.heading}.')}}}",
                    rf"\label{{tab:{name.replace('_', '-')}-{number_}}}",
                    rf"\begin{{tabular}}{{{'l' * len(block.header)}}}",
                    r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )  # fmt: skip
    parts.append("\n".join([r"\begin{itemize}", *(rf"\item {_escape(n)}" for n in document.notes), r"\end{itemize}"]))
    return "\n\n".join(parts) + "\n"


def write_table(frame: pd.DataFrame, folder: Path, name: str, document: Document) -> None:
    """folder/name.csv (4 decimals), .md and .tex. Only the CSV's last columns, named *_seconds, hold timings."""
    write_text(folder / f"{name}.csv", frame.to_csv(index=False, float_format="%.4f", na_rep=MISSING, lineterminator="\n"))
    write_text(folder / f"{name}.md", markdown(document))
    write_text(folder / f"{name}.tex", latex(document, name))
