"""What MGSR gains over SFT and over itself without SCRG, by the student's size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mgsr.tables import figures
from mgsr.tables.checks.check import (
    REFERENCE,
    UNDECIDED,
    Check,
    Difference,
    Line,
    by_method,
    differences,
    interval_text,
    score_lines,
)
from mgsr.tables.render import MISSING, Block
from mgsr.tables.results import Cells
from mgsr.tables.scores import TIE, headings, preset_notes

BASES = ("sft", "mgsr_without_scrg")


def small_students(cells: Cells) -> Check:
    """What MGSR gains over SFT and over itself without SCRG, by the student's size."""
    first = cells.protocols[0]
    lines: list[Line] = []
    gains: dict[str, list[tuple[int, str, Difference]]] = {name: [] for name in BASES}
    for family in cells.families:
        groups = by_method(cells, family)
        size = int(next(iter(groups.values())).cells[0].card["parameters"])
        lines.append(Line(family, "parameters", "student", float(size)))
        for protocol in cells.protocols:
            lines += score_lines(groups.values(), cells.sets, protocol)
            for base in BASES:
                pair = {name: groups[name] for name in (base, REFERENCE) if name in groups}
                if len(pair) == 2:
                    (one,) = differences(pair, base, cells.sets, protocol)
                    lines.append(one.line)
                    gains[base] += [(size, family, one)] if protocol == first else []
    for found in gains.values():
        found.sort(key=lambda entry: entry[:2])
    titles = {base: found[0][2].reference.title for base, found in gains.items() if found}
    series = {
        f"minus {titles[base]}": {
            f"{family} ({size:,})": (one.interval.difference, one.interval.low, one.interval.high)
            for size, family, one in found
        }
        for base, found in gains.items()
        if found
    }
    rows = {(size, family) for found in gains.values() for size, family, _ in found}
    texts = {(base, family): one.marked for base, found in gains.items() for _, family, one in found}
    block = Block(
        f"MGSR's gain, ROUGE-L, average of sets, protocol {first}",
        ("student", "parameters", *(f"minus {title}" for title in titles.values())),
        tuple((family, f"{size:,}", *(texts.get((base, family), MISSING) for base in titles)) for size, family in sorted(rows)),
    )
    sentences = [_gain_sentence(found, titles[base]) for base, found in gains.items() if found]
    apart = [f"over {titles[base]} {_gap_text(found)}" for base, found in gains.items() if len(found) > 1]
    sentences += [f"The smallest student's gain minus the largest's: {'; '.join(apart)}."] if apart else []
    figure = figures.forest(series, "MGSR's gain in ROUGE-L, average of sets (95 %)")
    notes = (
        *preset_notes(cells),
        f"{TIE}: undecided, its interval or its p-value does not tell it from 0; no correction over students.",
        "The difference of two students' gains takes them as independent.",
    )
    title = headings(cells, "Very small students")
    return Check("small_students", title, tuple(sentences) or ("No student was trained both ways.",), tuple(lines), (block,),
                 figure, notes)  # fmt: skip


def _gain_sentence(found: Sequence[tuple[int, str, Difference]], base: str) -> str:
    decided = sum(one.outcome != UNDECIDED for *_, one in found)
    (small, small_name, one), (large, large_name, two) = found[0], found[-1]
    ends = [f"{small_name} ({small:,} parameters) {one.text}"]
    ends += [f"{large_name} ({large:,}) {two.text}"] if len(found) > 1 else []
    return f"MGSR's gain over {base} is decided for {decided} of {len(found)} students: {'; '.join(ends)}."


def _gap_text(found: Sequence[tuple[int, str, Difference]]) -> str:
    """The smallest student's gain minus the largest's, as if independent."""
    one, two = found[0][2].interval, found[-1][2].interval
    gap = one.difference - two.difference
    half = math.hypot(*((each.high - each.low) / 2 for each in (one, two)))
    return interval_text(gap, gap - half, gap + half) + (f", {UNDECIDED}" if abs(gap) <= half else "")
