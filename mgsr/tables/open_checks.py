"""The questions that the paper leaves open: a check's cells file in; CSV, SVG and Markdown out, with an answer in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mgsr.errors import MgsrError
from mgsr.storage import write_text
from mgsr.tables.checks.check import Check
from mgsr.tables.checks.clipping_range import clipping_range
from mgsr.tables.checks.injected_errors import injected_errors
from mgsr.tables.checks.rollout_diversity import diversity
from mgsr.tables.checks.sensitivity import sensitivity
from mgsr.tables.checks.small_students import small_students
from mgsr.tables.checks.span_priors import span_priors
from mgsr.tables.render import MISSING, markdown
from mgsr.tables.results import Cells, load_cells

CHECKS: dict[str, Callable[[Cells], Check]] = {
    "injected_errors": injected_errors,
    "clipping_range": clipping_range,
    "span_priors": span_priors,
    "sensitivity": sensitivity,
    "diversity": diversity,
    "small_students": small_students,
}


def build_check(cells: Cells) -> Check:
    if cells.table not in CHECKS:
        raise MgsrError(f"there is no open check '{cells.table}'; checks are {', '.join(CHECKS)}")
    return CHECKS[cells.table](cells)


def write(cells_path: Path, folder: Path) -> None:
    """folder/<check>.csv, .svg and .md from a cells file."""
    check = build_check(load_cells(cells_path))
    table = check.frame.to_csv(index=False, float_format="%.6g", na_rep=MISSING, lineterminator="\n")
    write_text(folder / f"{check.name}.csv", table)
    write_text(folder / f"{check.name}.svg", check.figure)
    heading, _, rest = markdown(check.document).partition("\n\n")
    answer = f"{' '.join(check.sentences)}\n\n![{check.title}]({check.name}.svg)"
    write_text(folder / f"{check.name}.md", f"{heading}\n\n{answer}\n\n{rest}")
