"""What all open checks share: their lines, the comparison of variants with a reference, and words for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from mgsr.config.table_entries import AVERAGE
from mgsr.tables.decisions import ABOVE, BELOW, UNDECIDED, AgainstBest, outcome
from mgsr.tables.power import verdicts
from mgsr.tables.render import FAMILY, MISSING, Block, CsvLine, Document, bounds_text, metric_title, number
from mgsr.tables.results import MethodResult, TableResults
from mgsr.tables.rows import TIE

REFERENCE = "mgsr"
TIES = (
    f"{TIE} marks what is undecided. All comparisons of a family of models and protocol, over variants, test sets and their "
    "average, are one family (Holm); an interval has the level that the correction leaves to it."
)
DOUBT = f", {UNDECIDED}"  # after a number in a sentence
DIFFERENCE = "_difference"
Bounds = tuple[float, float | None, float | None]  # value, low, high
Place = tuple[str, str, str, str, str]  # of a difference: family, measure, subject, scope, against


@dataclass(frozen=True)
class Line:
    """One number of a check's CSV; every check has these columns. None says that a column does not apply or is not defined."""

    family: str
    measure: str  # a difference's ends with `DIFFERENCE`
    subject: str
    value: float | None
    scope: str = ""  # test set, category, kind of error
    protocol: str = ""
    against: str = ""  # what `value` is the difference to
    low: float | None = None
    high: float | None = None
    p: float | None = None  # Holm's, over all comparisons that are read together
    prompts: int | None = None
    detectable: float | None = None  # the smallest difference that would have been decided with a chance of 0.8

    # Of a difference, whose numbers are all there:

    @property
    def effect(self) -> float:
        return self.value or 0.0

    @property
    def bounds(self) -> Bounds:
        return self.effect, self.low, self.high

    @property
    def half_width(self) -> float:
        return 0.0 if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def outcome(self) -> str:
        """`above` or `below` where the interval excludes 0."""
        return UNDECIDED if self.low is None or self.high is None else outcome(self.low, self.high)

    @property
    def decided(self) -> bool:
        return self.outcome != UNDECIDED

    def text(self, if_undecided: str = "", digits: int = 2, *, signed: bool = True) -> str:
        """The value with its interval, and what is to be said where that is undecided."""
        text = MISSING if self.value is None else interval_text(*self.bounds, digits, signed=signed)
        return text + ("" if self.decided else if_undecided)


@dataclass(frozen=True)
class Check:
    """An open check with its answer in words. `figure`: SVG."""

    document: Document
    sentences: Sequence[str]
    lines: Sequence[Line]
    figure: str

    @property
    def csv_lines(self) -> list[CsvLine]:
        """The lines as CSV has them: each number but `prompts` is a float, so that its text does not depend on where it
        comes from."""
        lines, floats = [dict(vars(line)) for line in self.lines], ("value", "low", "high", "p", "detectable")
        return [line | {name: None if line[name] is None else float(line[name]) for name in floats} for line in lines]


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def interval_text(value: float, low: float | None, high: float | None, digits: int = 2, *, signed: bool = True) -> str:
    """`value (low to high)`; a difference has its sign."""
    sign = "+" if signed and round(value, digits) > 0 else ""
    bounds = f" ({bounds_text(low, high, digits)})" if low is not None and high is not None else ""
    return f"{sign}{number(value, digits)}{bounds}"


def grid(cells: Iterable[tuple[str, str, str, str]], columns: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """A document's rows from (family, row, column, text): one for each family and row, with a text for each of `columns`."""
    texts: dict[tuple[str, str], dict[str, str]] = {}
    for family, row, column, text in cells:
        texts.setdefault((family, row), {})[column] = text
    names = list(columns)
    return tuple((*key, *(by_column.get(name, MISSING) for name in names)) for key, by_column in texts.items())


# --- entries of the probe (probe.json: `mgsr.evaluation.probe` says what it holds) --------------------------------------

ALL = "all"  # the category that stands for all of them


def entry_line(family: str, measure: str, subject: str, entry: Mapping[str, Any], value: str, **more: Any) -> Line:
    """A line from an entry, which has low, high and prompts beside its value."""
    return Line(family, measure, subject, entry[value], low=entry.get("low"), high=entry.get("high"),
                prompts=entry.get("prompts"), **more)  # fmt: skip


def entry_text(entry: Mapping[str, Any], value: str, scale: float = 1.0, digits: int = 2, *, signed: bool = True) -> str:
    """`value (low to high)` of an entry, times `scale`."""
    if entry[value] is None:
        return MISSING
    low, high = (None if entry[name] is None else scale * entry[name] for name in ("low", "high"))
    return interval_text(scale * entry[value], low, high, digits, signed=signed)


def side(entry: Mapping[str, Any]) -> int:
    """Side of 0 on which an entry's interval lies; 0 where it holds 0 or there is none."""
    low, high = entry["low"], entry["high"]
    return 0 if low is None or high is None else (low > 0) - (high < 0)


# --- variants and a reference -----------------------------------------------------------------------------------------


def questions(
    methods: Mapping[str, MethodResult], reference: str, results: TableResults, protocol: str, *, each_set: bool = False
) -> dict[Place, AgainstBest]:
    """Each method minus the reference, on the average over sets and, with `each_set`, on each set."""
    family = dict[Place, AgainstBest]()
    for scope in (AVERAGE, *(results.sets if each_set else ())):
        for method in (method for name, method in methods.items() if reference in methods and name != reference):
            base, sets = methods[reference], results.sets if scope == AVERAGE else (scope,)
            place = (method.family, results.metric, method.title, scope, base.title)
            family[place] = AgainstBest((method.compare(base, results.metric, sets, protocol),))
    return family


def difference_lines(family: Mapping[Place, AgainstBest], protocol: str) -> list[Line]:
    """A line for each difference; they are decided together."""
    return [
        Line(name, f"{measure}{DIFFERENCE}", subject, one.effect, scope, protocol, against, one.low, one.high, one.p,
             one.prompts, one.detectable)
        for (name, measure, subject, scope, against), one in verdicts(family).items()
    ]  # fmt: skip


def score_lines(methods: Iterable[MethodResult], results: TableResults, protocol: str) -> list[Line]:
    """The scores of each method by metric, set and on average."""
    return [
        Line(method.family, metric, method.title, spread.mean, name, protocol)
        for metric in results.spec.metrics
        for method in methods
        for name, spread in method.spreads(metric, results.sets, protocol).items()
    ]


def against_reference(results: TableResults, family: str, *, each_set: bool = False) -> tuple[list[Line], list[Line]]:
    """The lines of a family, under every protocol: its scores and the differences to MGSR; and apart the differences under
    the first protocol."""
    methods, lines, first = results.of_family(family), list[Line](), list[Line]()
    for protocol in results.protocols:
        compared = difference_lines(questions(methods, REFERENCE, results, protocol, each_set=each_set), protocol)
        lines += score_lines(methods.values(), results, protocol) + compared
        first = first or compared
    return lines, first


def count_text(compared: Sequence[Line], reference: str) -> str:
    """A sentence's beginning: how many variants differ from the reference, and how large a difference could have been seen."""
    counts = {word: sum(line.outcome == word for line in compared) for word in (ABOVE, BELOW, UNDECIDED)}
    text = f"of {len(compared)} variants, {counts[ABOVE]} are above {reference}, {counts[BELOW]} below, "
    text += f"{counts[UNDECIDED]} undecided"
    if not counts[UNDECIDED]:
        return text
    visible, metric = [line.detectable for line in compared if line.detectable], compared[0].measure.removesuffix(DIFFERENCE)
    points = f"{number(median(visible) if visible else None, 1)} points of {metric_title(metric)}"
    return f"{text} ({compared[0].prompts:,} prompts can show about {points} or more)"


def telling(compared: Sequence[Line], most: int) -> str:
    """The decided differences in words, the largest first; where there is none, the lowest and the highest."""
    decided = sorted((line for line in compared if line.decided), key=lambda line: -abs(line.effect))
    ends = [choose(compared, key=lambda line: line.effect) for choose in (min, max)]
    named = dict.fromkeys(f"{line.subject} {line.text()}" for line in decided[:most] or ends)
    return f"{'Decided' if decided else 'The lowest and the highest'}: {'; '.join(named)}"


def difference_block(compared: Sequence[Line], heading: str, results: TableResults) -> Block:
    """A row for each variant and a column for each scope: the difference with its interval, marked where it is undecided."""
    scopes = list(dict.fromkeys(line.scope for line in compared))
    texts = grid([(line.family, line.subject, line.scope, line.text(f" {TIE}")) for line in compared], scopes)
    return Block(heading, (FAMILY, "variant", *results.titles(scopes).values()), texts)


def forest_series(compared: Iterable[Line]) -> dict[str, dict[str, Bounds]]:
    """By family, the differences on the average over sets: what `figures.forest` draws."""
    series: dict[str, dict[str, Bounds]] = {}
    for line in compared:
        if line.scope == AVERAGE:
            series.setdefault(line.family, {})[line.subject] = line.bounds
    return series
