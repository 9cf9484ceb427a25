"""Typed rows of tables: numbers of ours beside the paper's, comparisons, marks. CSV lines and texts are projections of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

from mgsr.tables.render import MARK, Bold, CsvLine, number
from mgsr.tables.results import MethodResult
from mgsr.tables.statistics import Comparison, Spread

ALPHA = 0.05
TIE = "="
Mark = Literal["best", "tie"]


@dataclass(frozen=True)
class Measured:
    """A number of ours beside the paper's; None where one of them does not exist."""

    value: float | None
    printed: float | None = None
    printed_digits: ClassVar[int] = 2
    difference_digits: ClassVar[int] = 2

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.value is None or self.printed is None else self.value - self.printed

    @property
    def own_text(self) -> str:
        return number(self.value)

    @property
    def paper_text(self) -> str:
        """`the paper's; ours minus it`; empty where the paper has no number."""
        if self.printed is None:
            return ""
        difference = "" if self.difference is None else f"; {number(self.difference, self.difference_digits)}"
        return number(self.printed, self.printed_digits) + difference

    def text(self, own_pair: bool) -> str:
        """Our number, with the paper's in square brackets where that is of the same pair of models."""
        return f"{self.own_text} [{self.paper_text}]" if own_pair and self.paper_text else self.own_text

    def columns(self, name: str) -> CsvLine:
        return {name: self.value, f"{name}_paper": self.printed, f"{name}_difference": self.difference}


@dataclass(frozen=True)
class Fact(Measured):
    """A number that the paper never has, so that it is one column."""

    def columns(self, name: str) -> CsvLine:
        return {name: self.value}


@dataclass(frozen=True)
class Score(Measured):
    """A mean score with its deviations over training and over decoding seeds."""

    training: float | None = None
    decoding: float | None = None

    @classmethod
    def of(cls, spread: Spread, printed: float | None = None) -> Self:
        return cls(spread.mean, printed, spread.training, spread.decoding)

    @property
    def own_text(self) -> str:
        return f"{number(self.value)} ± {number(self.decoding)} ({number(self.training)})"

    def columns(self, name: str) -> CsvLine:
        deviations: CsvLine = {f"{name}_training_deviation": self.training, f"{name}_decoding_deviation": self.decoding}
        columns = super().columns(name)
        return {f"{name}_mean": columns.pop(name), **deviations, **columns}


def comparison_columns(name: str, comparison: Comparison | None) -> CsvLine:
    """CSV columns of a comparison; `name` says what minus what. They are None where a row is not compared."""
    columns = (name, f"{name}_low", f"{name}_high", f"{name}_p", f"{name}_rows_to_decide")
    if comparison is None:
        return dict.fromkeys(columns)
    interval = comparison.interval
    values = (interval.difference, interval.low, interval.high, comparison.p, comparison.rows_to_decide)
    return dict(zip(columns, values, strict=True))


def comparison_text(comparison: Comparison | None) -> str:
    """`difference (low to high; p)`, marked where p is not below `ALPHA`."""
    if comparison is None:
        return ""
    interval, p = comparison.interval, comparison.p
    chance = "p < 0.001" if p < 0.001 else f"p {number(p, 3)}"
    text = f"{number(interval.difference)} ({number(interval.low)} to {number(interval.high)}; {chance})"
    return f"{text} {TIE}" if p >= ALPHA else text


def _marked(text: str, mark: Mark | None) -> str:
    return Bold(text) if mark == "best" else f"{text} {TIE}" if mark == "tie" else text


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method in a table.

    `numbers`, `reference`, `comparisons` and `marks` are by column: its numbers, the method that it is compared with, the
    comparison, and whether it is the best of its family or not told apart from the highest. `pair` is the family that the
    paper's numbers are of. `protocol` and `metric` are empty where a table has none.
    """

    method: MethodResult
    pair: str
    numbers: Mapping[str, Measured]
    reference: Mapping[str, MethodResult] = field(default_factory=dict)
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    marks: Mapping[str, Mark] = field(default_factory=dict)
    protocol: str = ""
    metric: str = ""

    @property
    def family(self) -> str:
        return self.method.family

    @property
    def own_pair(self) -> bool:
        return self.pair == self.family

    @property
    def has_paper_number(self) -> bool:
        return any(number.printed is not None for number in self.numbers.values())

    @property
    def student_steps_unused(self) -> bool:
        """True where the method asks for text of the student, and no step was trained on any."""
        return self.method.student_step_share == 0

    @property
    def label(self) -> str:
        return self.method.title + (f" {MARK}" if self.student_steps_unused else "")

    def labels(self) -> CsvLine:
        """The columns that a CSV line of a table of scores begins with."""
        method = self.method
        return {
            **({"protocol": self.protocol} if self.protocol else {}), "metric": self.metric, "family": self.family,
            "method": method.method, "title": method.title, "role": method.role, "training_seeds": len(method.runs),
            "learning_rate": method.learning_rates if method.runs else None,
            "student_steps_unused": self.student_steps_unused, "paper_family": self.pair,
        }  # fmt: skip

    def texts(self, columns: Iterable[str]) -> tuple[str, ...]:
        return tuple(_marked(self.numbers[name].text(self.own_pair), self.marks.get(name)) for name in columns)

    def comparison_texts(self, columns: Iterable[str]) -> tuple[str, ...]:
        return tuple(comparison_text(self.comparisons.get(name)) for name in columns)
