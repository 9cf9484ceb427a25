"""Tables of kind `exposure`: ExAccErr by method and length, in per cent (Arora et al. 2022; 0 is no exposure bias)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mgsr.config.table_specs import TableSpec
from mgsr.errors import MgsrError
from mgsr.tables import paper
from mgsr.tables.legends import legend
from mgsr.tables.render import FAMILY, Block, CsvLine, Table, document, number
from mgsr.tables.results import MethodResult, TableResults
from mgsr.tables.rows import Measured, Row
from mgsr.tables.scores import other_pair_blocks, row_notes


@dataclass(frozen=True, kw_only=True)
class ExcessError(Measured):
    """ExAccErr at one length: a mean over training seeds; with one seed its interval, with several their deviation.

    `running_student`, `running_teacher`: share of the samples that are at least so long; None at a length that the paper alone
    has. The other numbers are None also where no sample is so long. The paper prints whole per cent.
    """

    printed_digits: ClassVar[int] = 0
    difference_digits: ClassVar[int] = 1
    accumulated: float | None = None
    expected: float | None = None
    running_student: float | None = None
    running_teacher: float | None = None
    training_deviation: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def own_text(self) -> str:
        if self.value is None:
            return number(None)
        interval = f"{number(self.low, 1)} to {number(self.high, 1)}"
        return f"{number(self.value, 1)} ({interval if self.low is not None else number(self.training_deviation, 1)})"

    @property
    def sums_text(self) -> str:
        return f"{number(self.accumulated)} ({number(self.expected)})"

    def text(self, own_pair: bool) -> str:
        return f"{super().text(own_pair)}, running {number(self.running_student)} ({number(self.running_teacher)})"


def exposures(method: MethodResult) -> list[dict[str, Any]]:
    """The measured exposure bias of each training seed."""
    known = [run.exposure for run in method.runs if run.exposure is not None]
    if len(known) < len(method.runs) or any(exposure["lengths"] != known[0]["lengths"] for exposure in known):
        raise MgsrError(f"{method.family}, {method.title}: an exposure bias is missing or of other lengths; measure it anew")
    return known


def exposure_table(spec: TableSpec, results: TableResults) -> Table:
    """The table has one row for each family and method, and its CSV one line for each row and length. ExAccErr is missing at
    lengths that no sample has."""
    rows = [_row(spec, method) for method in results.methods]
    columns = {name: f"{name} tokens" for row in rows for name in _measured(row)}
    texts = tuple(
        (row.family, row.label, *(row.texts([name])[0] if name in _measured(row) else "" for name in columns)) for row in rows
    )
    sums = tuple(
        (row.family, row.label, *(_measured(row)[name].sums_text if name in _measured(row) else "" for name in columns))
        for row in rows
    )
    printed = sorted({int(name) for row in rows for name, error in row.numbers.items() if error.printed is not None})
    header = (FAMILY, "method", *columns.values())
    blocks = [Block("exposure bias", header, texts), Block("R(l), and l ε(l) in parentheses (nats)", header, sums)]
    blocks += other_pair_blocks("", rows, {str(length): f"{length} tokens" for length in printed})
    sizes = sorted({(value["rows"], value["samples"]) for method in results.methods for value in exposures(method)})
    title = results.title(results.sets[0])
    prompts = "; ".join(f"{count} prompts of {title}'s test rows, {samples} samples each" for count, samples in sizes)
    lines = [_line(row, name, error) for row in rows for name, error in _measured(row).items()]
    return Table(lines, document(spec, spec.title, blocks, legend("exposure", prompts=prompts) + row_notes(spec.name, rows)))


def _row(spec: TableSpec, method: MethodResult) -> Row:
    """A method's row: by length our numbers and, at lengths that were not measured, those that the paper has of another
    pair."""
    values = exposures(method)
    pair, numbers = paper.numbers(spec.name, method.family)
    printed = numbers.get(method.method, {})
    errors: dict[str, ExcessError] = {}
    if pair != method.family:
        errors = {name: ExcessError(value=None, printed=error) for name, error in printed.items()}
    samples = [value["rows"] * value["samples"] for value in values]
    for place, length in enumerate(values[0]["lengths"]):
        seeds = {name: [value[name][place] for value in values] for name in ("excess_error", "accumulated", "expected")}
        for name in ("running_student", "running_teacher"):
            seeds[name] = [value[name][place] / count for value, count in zip(values, samples, strict=True)]
        means = {name: None if None in numbers else float(np.mean(numbers)) for name, numbers in seeds.items()}
        mean, lone = means.pop("excess_error"), len(values) == 1
        deviation = None if mean is None or lone else float(np.std(seeds["excess_error"], ddof=1))
        low, high = (lone and values[0]["intervals"][place]) or (None, None)
        errors[str(length)] = ExcessError(
            value=mean, printed=printed.get(str(length)), training_deviation=deviation, low=low, high=high, **means
        )
    return Row(method=method, pair=pair, numbers=errors)


def _measured(row: Row) -> dict[str, ExcessError]:
    return {
        name: error
        for name, error in row.numbers.items()
        if isinstance(error, ExcessError) and error.running_student is not None
    }


def _line(row: Row, length: str, error: ExcessError) -> CsvLine:
    return {
        "family": row.family, "method": row.method.method, "title": row.method.title,
        "training_seeds": len(row.method.runs), "student_steps_unused": row.student_steps_unused, "length": float(length),
        "excess_error": error.value, "excess_error_training_deviation": error.training_deviation,
        "excess_error_low": error.low, "excess_error_high": error.high, "excess_error_paper": error.printed,
        "paper_family": row.pair, "excess_error_difference": error.difference, "accumulated": error.accumulated,
        "expected": error.expected, "running_student": error.running_student, "running_teacher": error.running_teacher,
    }  # fmt: skip
