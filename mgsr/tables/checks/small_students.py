"""What MGSR gains over SFT and over itself without SCRG, by the student's size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from mgsr.tables import figures
from mgsr.tables.checks import check
from mgsr.tables.decisions import AgainstBest
from mgsr.tables.legends import legend
from mgsr.tables.render import Block, document, metric_title
from mgsr.tables.results import TableResults
from mgsr.tables.rows import TIE

BASES = ("sft", "mgsr_without_scrg")


class Student(NamedTuple):
    parameters: int
    name: str


Gains = Sequence[tuple[Student, check.Line]]  # over one base, the smallest student first


def small_students(results: TableResults) -> check.Check:
    """What MGSR gains over SFT and over itself without SCRG, by the student's size."""
    first, metric = results.protocols[0], metric_title(results.metric)
    lines = list[check.Line]()
    by_base: dict[str, list[tuple[Student, check.Line]]] = {name: [] for name in BASES}
    students: dict[str, Student] = {}
    for family in results.families:
        parameters = next(iter(results.of_family(family).values())).runs[0].card["parameters"]
        students[family] = Student(int(parameters), family)
        lines.append(check.Line(family, "parameters", "student", float(parameters)))
    for protocol in results.protocols:
        questions, bases = dict[check.Place, AgainstBest](), dict[check.Place, str]()
        for methods in map(results.of_family, results.families):
            lines += check.score_lines(methods.values(), results, protocol)
            for base in BASES:
                pair = {name: methods[name] for name in (base, check.REFERENCE) if name in methods}
                asked = check.questions(pair, base, results, protocol)
                questions, bases = questions | asked, bases | dict.fromkeys(asked, base)
        answers = check.difference_lines(questions, protocol)
        lines += answers
        for base, gain in zip(bases.values(), answers, strict=True):
            by_base[base] += [(students[gain.family], gain)] if protocol == first else []
    gains = {pairs[0][1].against: sorted(pairs, key=lambda pair: pair[0]) for pairs in by_base.values() if pairs}
    series = {
        f"minus {title}": {f"{student.name} ({student.parameters:,})": gain.bounds for student, gain in pairs}
        for title, pairs in gains.items()
    }
    shown = sorted((student, title, gain.text(f" {TIE}")) for title, pairs in gains.items() for student, gain in pairs)
    cells = [(student.name, f"{student.parameters:,}", title, text) for student, title, text in shown]
    header = ("student", "parameters", *(f"minus {title}" for title in gains))
    block = Block(f"MGSR's gain, {metric}, average of sets, protocol {first}", header, check.grid(cells, gains))
    sentences = [_gain_sentence(pairs, title) for title, pairs in gains.items()]
    gaps = [f"over {title} {_gap_text(pairs)}" for title, pairs in gains.items() if len(pairs) > 1]
    sentences += [f"The smallest student's gain minus the largest's: {'; '.join(gaps)}."] if gaps else []
    figure = figures.forest(series, f"MGSR's gain in {metric}, average of sets (95 %)")
    sentences = sentences or ["No student was trained both ways."]
    notes = legend("small_students", tie=TIE)
    return check.Check(document(results.spec, "Very small students", [block], notes), sentences, lines, figure)


def _gain_sentence(gains: Gains, base: str) -> str:
    decided = sum(gain.decided for _, gain in gains)
    (small, small_gain), (large, large_gain) = gains[0], gains[-1]
    ends = [f"{small.name} ({small.parameters:,} parameters) {small_gain.text(check.DOUBT)}"]
    ends += [f"{large.name} ({large.parameters:,}) {large_gain.text(check.DOUBT)}"] if len(gains) > 1 else []
    return f"MGSR's gain over {base} is decided for {decided} of {len(gains)} students: {'; '.join(ends)}."


def _gap_text(gains: Gains) -> str:
    """The smallest student's gain minus the largest's, as if the two were independent."""
    (_, small), (_, large) = gains[0], gains[-1]
    gap, half = small.effect - large.effect, math.hypot(small.half_width, large.half_width)
    return check.interval_text(gap, gap - half, gap + half) + (check.DOUBT if abs(gap) <= half else "")
