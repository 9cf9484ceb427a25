"""Tables of kind `exposure`: ExAccErr by method and length, in per cent (Arora et al. 2022; 0 is no exposure bias)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mgsr.config.table_specs import TableSpec
from mgsr.errors import MgsrError
from mgsr.tables import paper
from mgsr.tables.render import FAMILY, Block, CsvLine, Table, document, number
from mgsr.tables.results import MethodResult, TableResults
from mgsr.tables.rows import Measured, Row
from mgsr.tables.scores import other_pair_blocks, row_notes

LEGEND = (
    "ExAccErr says by how many per cent errors add up more on the student's own prefixes than on the teacher's, up to a "
    "response length in tokens. 0 is no exposure bias; below 0 the student does better on its own prefixes. It is a mean "
    "over training seeds with their deviation in parentheses, or one seed's number with its 95 % interval (percentile "
    "bootstrap over prompts)."
)
RUNNING_NOTE = (
    "running: the share of the student's samples (the teacher's) that are so long; where few are, the number says nothing."
)


@dataclass(frozen=True, kw_only=True)
class ExcessError(Measured):
    """ExAccErr at one length: a mean over training seeds; with one seed its interval, with several their deviation.

    `running_student`, `running_teacher`: share of the samples that are so long. None where no sample is.
    """

    accumulated: float | None = None
    expected: float | None = None
    running_student: float | None = None
    running_teacher: float | None = None
    training_deviation: float | None = None
    low: float | None = None
    high: float | None = None
    printed_digits: ClassVar[int] = 0
    difference_digits: ClassVar[int] = 1

    @property
    def own_text(self) -> str:
        if self.value is None:
            return number(None)
        interval = f"{number(self.low, 1)} to {number(self.high, 1)}"
        return f"{number(self.value, 1)} ({interval if self.low is not None else number(self.training_deviation, 1)})"

    def text(self, own_pair: bool) -> str:
        return f"{super().text(own_pair)}, running {number(self.running_student)} ({number(self.running_teacher)})"


def exposures(method: MethodResult) -> list[dict[str, Any]]:
    """The measured exposure bias of each training seed."""
    known = [run.exposure for run in method.runs if run.exposure is not None]
    if len(known) < len(method.runs) or any(exposure["lengths"] != known[0]["lengths"] for exposure in known):
        raise MgsrError(f"{method.family}, {method.title}: an exposure bias is missing or of other lengths; measure it anew")
    return known


def exposure_table(spec: TableSpec, results: TableResults) -> Table:
    """One row for each family and method, and of it a CSV line for each length; no error where no sample is so long."""
    rows = [_row(spec, method) for method in results.methods]
    lengths = list(dict.fromkeys(length for row in rows for length in row.lengths))
    texts = tuple(
        (row.family, row.label, *(row.numbers[str(n)].text(row.own_pair) if n in row.lengths else "" for n in lengths))
        for row in rows
    )
    printed = sorted({int(name) for row in rows for name, error in row.numbers.items() if error.printed is not None})
    pairs = other_pair_blocks("", rows, {str(length): f"{length} tokens" for length in printed})
    blocks = [Block("exposure bias", (FAMILY, "method", *(f"{length} tokens" for length in lengths)), texts), *pairs]
    sizes = sorted({(value["rows"], value["samples"]) for method in results.methods for value in exposures(method)})
    title = results.title(results.sets[0])
    made = "; ".join(f"{prompts} prompts of {title}'s test rows, {samples} samples each" for prompts, samples in sizes)
    notes = [
        LEGEND, RUNNING_NOTE, f"It was measured on {made}, at T = 1 without any repetition rule.",
        *row_notes(spec.name, rows),
    ]  # fmt: skip
    return Table([line for row in rows for line in row.lines()], document(spec, spec.title, blocks, notes))


@dataclass(frozen=True, kw_only=True)
class ExposureRow(Row):
    """`numbers`: by length as text; lengths that the paper has and the run has not are there too, for other pairs than its own.
    `lengths`: those that were measured."""

    numbers: Mapping[str, ExcessError]
    lengths: tuple[int, ...]

    def lines(self) -> Iterator[CsvLine]:
        for length in self.lengths:
            error = self.numbers[str(length)]
            yield {
                "family": self.family, "method": self.method.method, "title": self.method.title,
                "training_seeds": len(self.method.runs), "student_steps_unused": self.student_steps_unused,
                "length": float(length), "excess_error": error.value,
                "excess_error_training_deviation": error.training_deviation, "excess_error_low": error.low,
                "excess_error_high": error.high, "excess_error_paper": error.printed, "paper_family": self.pair,
                "excess_error_difference": error.difference, "accumulated": error.accumulated, "expected": error.expected,
                "running_student": error.running_student, "running_teacher": error.running_teacher,
            }  # fmt: skip


def _row(spec: TableSpec, method: MethodResult) -> ExposureRow:
    values = exposures(method)
    lengths = tuple(values[0]["lengths"])
    pair, numbers = paper.numbers(spec.name, method.family)
    printed = numbers.get(method.method, {})
    errors = {} if pair == method.family else {length: ExcessError(value=None, printed=p) for length, p in printed.items()}
    samples = [value["rows"] * value["samples"] for value in values]
    for place, length in enumerate(lengths):
        seeds = {name: [value[name][place] for value in values] for name in ("excess_error", "accumulated", "expected")}
        for name in ("running_student", "running_teacher"):
            seeds[name] = [value[name][place] / count for value, count in zip(values, samples, strict=True)]
        means = {name: None if None in numbers else float(np.mean(numbers)) for name, numbers in seeds.items()}
        mean, lone = means.pop("excess_error"), len(values) == 1
        deviation = None if mean is None or lone else float(np.std(seeds["excess_error"], ddof=1))
        low, high = (lone and values[0]["intervals"][place]) or (None, None)
        bounds = {"training_deviation": deviation, "low": low, "high": high}
        errors[str(length)] = ExcessError(value=mean, printed=printed.get(str(length)), **bounds, **means)
    return ExposureRow(method=method, pair=pair, numbers=errors, lengths=lengths)
