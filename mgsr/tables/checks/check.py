"""What all open checks share: their lines, the comparison of variants with a reference, and words for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

import pandas as pd

from mgsr.tables.render import Block, Document, number
from mgsr.tables.results import AVERAGE, Cells, Group
from mgsr.tables.scores import ALPHA, SET_TITLES, TIE
from mgsr.tables.statistics import Interval, holm

REFERENCE = "mgsr"
TIES = f"{TIE}: undecided, its interval or its p-value (Holm, over the variants) does not tell it from 0."
ABOVE, BELOW, UNDECIDED = "above", "below", "undecided"
POWER = 0.8
Bounds = tuple[float, float | None, float | None]


@dataclass(frozen=True)
class Line:
    """One number of a check's CSV; every check has these columns. None: does not apply, or not defined."""

    family: str
    measure: str
    subject: str
    value: float | None
    scope: str = ""  # test set, category, kind of error
    protocol: str = ""
    against: str = ""  # what `value` is the difference to
    low: float | None = None
    high: float | None = None
    p: float | None = None  # scores: Holm's, over all comparisons of this family and protocol, the average apart from the sets
    prompts: int | None = None


@dataclass(frozen=True)
class Check:
    """An open check with its answer. `figure`: SVG."""

    name: str
    title: str
    sentences: tuple[str, ...]
    lines: tuple[Line, ...]
    blocks: tuple[Block, ...]
    figure: str
    notes: tuple[str, ...] = ()

    @property
    def document(self) -> Document:
        return Document(self.title, self.blocks, self.notes)

    @property
    def frame(self) -> pd.DataFrame:
        frame = pd.DataFrame([vars(line) for line in self.lines], columns=list(Line.__dataclass_fields__))
        return frame.astype(dict.fromkeys(("value", "low", "high", "p"), "float64") | {"prompts": "Int64"})


@dataclass(frozen=True)
class Difference:
    """A variant minus the reference on one scope; `p` is corrected over the variants."""

    group: Group
    reference: Group
    protocol: str
    scope: str
    interval: Interval
    p: float

    @property
    def outcome(self) -> str:
        """`above` or `below` where interval and corrected p-value agree that it is not chance."""
        if not self.interval.excludes_zero or self.p >= ALPHA:
            return UNDECIDED
        return ABOVE if self.interval.difference > 0 else BELOW

    @property
    def text(self) -> str:
        """Difference with its interval, and that it is undecided where it is."""
        return self.bounds + ("" if self.outcome != UNDECIDED else f", {UNDECIDED}")

    @property
    def marked(self) -> str:
        """Difference with its interval, as a table has it."""
        return self.bounds + ("" if self.outcome != UNDECIDED else f" {TIE}")

    @property
    def bounds(self) -> str:
        return interval_text(self.interval.difference, self.interval.low, self.interval.high)

    @property
    def line(self) -> Line:
        interval = self.interval
        return Line(self.group.family, "rouge_l_difference", self.group.title, interval.difference, self.scope, self.protocol,
                    self.reference.title, interval.low, interval.high, self.p, interval.rows)  # fmt: skip


def interval_text(value: float, low: float | None, high: float | None, digits: int = 2, *, signed: bool = True) -> str:
    """value (low to high); a difference has its sign."""
    sign = "+" if signed and round(value, digits) > 0 else ""
    bounds = f" ({number(low, digits)} to {number(high, digits)})" if low is not None and high is not None else ""
    return f"{sign}{number(value, digits)}{bounds}"


def by_method(cells: Cells, family: str) -> dict[str, Group]:
    return {group.method: group for group in cells.groups if group.family == family}


def differences(
    groups: Mapping[str, Group], reference: str, sets: Sequence[str], protocol: str, *, each_set: bool = False
) -> list[Difference]:
    """Every method minus the reference, on the average over sets and, if asked for, on each set. p-values are corrected over
    the methods, those of single sets over methods and sets together."""
    if reference not in groups:
        return []
    base, found = groups[reference], []
    others = [group for name, group in groups.items() if name != reference]
    for scopes in ((AVERAGE,), tuple(sets) if each_set else ()):
        pairs = [(group, scope) for scope in scopes for group in others]
        results = [group.compare(base, sets if scope == AVERAGE else (scope,), protocol) for group, scope in pairs]
        corrected = holm([result.p for result in results])
        found += [
            Difference(group, base, protocol, scope, result.interval, p)
            for (group, scope), result, p in zip(pairs, results, corrected, strict=True)
        ]
    return found


def score_lines(groups: Iterable[Group], sets: Sequence[str], protocol: str) -> list[Line]:
    """ROUGE-L of each method by set and on average."""
    return [
        Line(group.family, "rouge_l", group.title, spread.mean, name, protocol)
        for group in groups
        for name, spread in group.spreads(sets, protocol).items()
    ]


def against_mgsr(cells: Cells, groups: Mapping[str, Group], *, each_set: bool = False) -> tuple[list[Line], list[Difference]]:
    """A family's scores and differences to MGSR as lines, under every protocol; and the differences under the first."""
    lines: list[Line] = []
    by_protocol = []
    for protocol in cells.protocols:
        by_protocol.append(differences(groups, REFERENCE, cells.sets, protocol, each_set=each_set))
        lines += score_lines(groups.values(), cells.sets, protocol) + [one.line for one in by_protocol[-1]]
    return lines, by_protocol[0]


def detectable(half_widths: Sequence[float]) -> float:
    """The difference that the median variant would have shown with this power at Holm's strictest level, alpha over the number
    of variants; `half_widths`: of the 95 % intervals. Normal approximation."""
    normal = NormalDist()
    needed = normal.inv_cdf(1 - ALPHA / 2 / len(half_widths)) + normal.inv_cdf(POWER)
    return median(half_widths) * needed / normal.inv_cdf(1 - ALPHA / 2)


def count_text(found: Sequence[Difference], reference: str) -> str:
    """How many of some variants differ from the reference, and what could have been seen."""
    counts = {word: sum(one.outcome == word for one in found) for word in (ABOVE, BELOW, UNDECIDED)}
    told = f"{counts[ABOVE]} are above {reference}, {counts[BELOW]} below, {counts[UNDECIDED]} undecided"
    text = f"of {len(found)} variants, {told}"
    if not counts[UNDECIDED]:
        return text
    seen = detectable([(one.interval.high - one.interval.low) / 2 for one in found])
    return f"{text} ({found[0].interval.rows:,} prompts can show about {number(seen, 1)} points of ROUGE-L or more)"


def difference_block(found: Sequence[Difference], heading: str, several: bool) -> Block:
    """Subjects by scope: difference with interval, marked where it is undecided."""
    scopes = list(dict.fromkeys(one.scope for one in found))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for one in found:
        rows.setdefault((one.group.family, one.group.title), {})[one.scope] = one.marked
    header = (*(("family",) if several else ()), "variant", *(SET_TITLES.get(scope, scope) for scope in scopes))
    cells = [((family,) if several else ()) + (title, *(own[s] for s in scopes)) for (family, title), own in rows.items()]
    return Block(heading, header, tuple(cells))


def forest_series(found: Sequence[Difference], scope: str = AVERAGE) -> dict[str, dict[str, Bounds]]:
    """By family, what `figures.forest` draws."""
    series: dict[str, dict[str, Bounds]] = {}
    for one in found:
        if one.scope == scope:
            interval = one.interval
            series.setdefault(one.group.family, {})[one.group.title] = (interval.difference, interval.low, interval.high)
    return series


def telling(found: Sequence[Difference], most: int) -> str:
    """The decided differences in words, the largest first; where there is none, the lowest and the highest."""
    decided = sorted((one for one in found if one.outcome != UNDECIDED), key=lambda one: -abs(one.interval.difference))
    ends = [choose(found, key=lambda one: one.interval.difference) for choose in (min, max)]
    named = dict.fromkeys(f"{one.group.title} {one.bounds}" for one in decided[:most] or ends)
    return f"{'Decided' if decided else 'The lowest and the highest'}: {'; '.join(named)}"


def capital(text: str) -> str:
    return text[0].upper() + text[1:]
