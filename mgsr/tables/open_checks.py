"""The questions that the paper leaves open: ROOT/plan/<check>.json in; CSV, SVG and Markdown out, with an answer in words."""

from __future__ import annotations

from pathlib import Path

from mgsr.config.table_specs import CheckSpec, read_plan
from mgsr.errors import MgsrError
from mgsr.storage import write_text
from mgsr.tables.checks.check import Check
from mgsr.tables.checks.clipping_range import clipping_range
from mgsr.tables.checks.injected_errors import injected_errors
from mgsr.tables.checks.rollout_diversity import diversity
from mgsr.tables.checks.sensitivity import sensitivity
from mgsr.tables.checks.small_students import small_students
from mgsr.tables.checks.span_priors import span_priors
from mgsr.tables.render import csv_text, markdown
from mgsr.tables.results import TableResults, load_results

BUILDERS = (injected_errors, clipping_range, span_priors, sensitivity, diversity, small_students)
CHECKS = {builder.__name__: builder for builder in BUILDERS}


def build_check(results: TableResults) -> Check:
    if results.spec.name not in CHECKS:
        raise MgsrError(f"there is no open check '{results.spec.name}'; checks are {', '.join(CHECKS)}")
    return CHECKS[results.spec.name](results)


def write_check(root: Path, name: str) -> None:
    """Write ROOT/open_checks/<name>.csv, .svg and .md."""
    folder, check = root / "open_checks", build_check(load_results(read_plan(root, name, CheckSpec), root))
    write_text(folder / f"{name}.csv", csv_text(check.csv_lines, "%.6g"))
    write_text(folder / f"{name}.svg", check.figure)
    heading, _, rest = markdown(check.document).partition("\n\n")
    answer = f"{' '.join(check.sentences)}\n\n![{check.document.title}]({name}.svg)"
    write_text(folder / f"{name}.md", f"{heading}\n\n{answer}\n\n{rest}")
