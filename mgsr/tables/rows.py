"""Typed rows of tables: numbers of ours beside the paper's, and verdicts. CSV lines and texts are projections of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

from mgsr.tables.decisions import UNDECIDED
from mgsr.tables.power import Verdict
from mgsr.tables.render import MARK, Bold, CsvLine, bounds_text, number
from mgsr.tables.results import MethodResult
from mgsr.tables.statistics import Spread

TIE, DETECTABLE = "=", "detectable"


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


@dataclass(frozen=True)
class Difference:
    """A row's score minus the highest one of those that it is compared with. `verdict`: None for a row that is one of them,
    about which nothing is asked."""

    effect: float
    verdict: Verdict | None

    @property
    def text(self) -> str:
        """`difference (low to high; p; detectable)`, marked where it is undecided."""
        if self.verdict is None:
            return number(self.effect)
        one = self.verdict
        chance = "p < 0.001" if one.p < 0.001 else f"p {number(one.p, 3)}"
        text = f"{number(self.effect)} ({bounds_text(one.low, one.high)}; {chance}; {DETECTABLE} {number(one.detectable)})"
        return f"{text} {TIE}" if one.outcome == UNDECIDED else text


def difference_columns(name: str, difference: Difference | None) -> CsvLine:
    """CSV columns of a difference; `name` says what minus what. They are None where nothing is compared or asked."""
    verdict = difference.verdict if difference else None
    values = {field: getattr(verdict, field) if verdict else None for field in ("low", "high", "p", "alpha", DETECTABLE)}
    return {name: difference.effect if difference else None, **{f"{name}_{field}": value for field, value in values.items()}}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method in a table.

    `numbers`, `reference` and `differences` are by column: its numbers, the method with the highest score among those that it
    is compared with, and the difference to it. `bold`: the columns in which it is above every other student row. `pair` is the
    family that the paper's numbers are of. `protocol` and `metric` are empty where a table has none.
    """

    method: MethodResult
    pair: str
    numbers: Mapping[str, Measured]
    reference: Mapping[str, MethodResult] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)
    bold: Collection[str] = ()
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
        texts = {name: self.numbers[name].text(self.own_pair) for name in columns}
        return tuple(Bold(text) if name in self.bold else text for name, text in texts.items())

    def difference_texts(self, columns: Iterable[str]) -> tuple[str, ...]:
        return tuple(self.differences[name].text if name in self.differences else "" for name in columns)
