"""Scores of the span priors against phrases, and what each prior makes of references, rollouts and revised rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mgsr.tables import figures
from mgsr.tables.checks.check import (
    TIES,
    UNDECIDED,
    Bounds,
    Check,
    Difference,
    Line,
    against_mgsr,
    by_method,
    capital,
    count_text,
    difference_block,
    telling,
)
from mgsr.tables.checks.probe_results import ALL, probe_line, probes, value_text
from mgsr.tables.render import MISSING, Block, number
from mgsr.tables.results import Cells
from mgsr.tables.scores import headings, preset_notes

REFERENCE_TITLE = "phrases"  # what MGSR's own spans are
NAMED = 2  # variants that a sentence names
TERM_DIGITS = 4


def span_priors(cells: Cells) -> Check:
    """Scores of the span priors against phrases, and what each prior makes of references, rollouts and revised rollouts."""
    several, first = max(len(cells.families), len(cells.probe)) > 1, cells.protocols[0]
    lines: list[Line] = []
    shown: list[Difference] = []
    sentences, rows = [], []
    for family in cells.families:
        groups = by_method(cells, family)
        told, own = against_mgsr(cells, groups)
        lines, shown = lines + told, shown + own
        if own:
            lead_text = f"{family}: " if several else ""
            told_text = telling(own, NAMED)
            sentences.append(capital(f"{lead_text}{count_text(own, REFERENCE_TITLE)}; {told_text[0].lower()}{told_text[1:]}."))
    series: dict[str, dict[str, Bounds]] = {}
    for family, probe in probes(cells):
        lead = (family,) if several else ()
        summary = probe["spans"]["summary"]
        for entry in summary:
            scope = f"{entry['source']}, {entry['category']}"
            measures = ("spans_per_response", "tokens_per_span", "covered", "one_token")
            lines += [Line(family, name, entry["priors"], entry[name], scope, prompts=entry["prompts"]) for name in measures]
            lines.append(probe_line(family, "span_term", entry["priors"], entry, "span_term", scope=scope))
            rows.append((*lead, entry["source"], entry["priors"], entry["category"], number(entry["spans_per_response"], 1),
                         number(entry["tokens_per_span"], 1), number(entry["covered"]), number(entry["one_token"]),
                         value_text(entry, "span_term", digits=TERM_DIGITS, signed=False)))  # fmt: skip
            if entry["category"] == ALL and entry["span_term"] is not None:
                label = f"{family}: {entry['source']}" if several else entry["source"]
                series.setdefault(entry["priors"], {})[label] = (entry["span_term"], entry["low"], entry["high"])
        sentences += _span_sentences(summary, f"{family}: " if several else "")
    header = (*(("family",) if several else ()), "text", "priors", "category", "spans a response", "tokens a span",
              "share of tokens", "one-token share", "span term (95 %)")  # fmt: skip
    blocks = (
        difference_block(shown, f"minus phrases, ROUGE-L, average of sets, protocol {first}", len(cells.families) > 1),
        Block("spans by kind of text and category of Dolly", header, tuple(rows)),
    )
    figure = figures.forest(series, "span term of the SFT student (95 %)", reference=None)
    notes = (*preset_notes(cells), TIES)
    return Check("span_priors", headings(cells, "Span priors"), tuple(sentences), tuple(lines), blocks, figure, notes)


def _span_sentences(summary: Sequence[Mapping[str, Any]], family: str) -> list[str]:
    whole = [entry for entry in summary if entry["category"] == ALL and entry["source"] == "reference"]
    shapes = [f"{entry['priors']} {number(100 * entry['covered'], 0)} % ({number(entry['tokens_per_span'], 1)} tokens a span)"
              for entry in whole if entry["covered"] is not None]  # fmt: skip
    phrases = [entry for entry in summary if entry["priors"] == "phrases" and entry["span_term"] is not None]
    of_source = [f"{_term(entry)} ({entry['source']})" for entry in phrases if entry["category"] == ALL]
    kinds = [entry for entry in phrases if entry["source"] == "reference" and entry["category"] != ALL]
    category = ""
    if kinds:
        low, high = (chosen(kinds, key=lambda entry: float(entry["span_term"])) for chosen in (min, max))
        apart = low["high"] is not None and high["low"] is not None and low["high"] < high["low"]
        category = f"; by category of references from {_term(low)} ({low['category']}) to {_term(high)} ({high['category']})"
        category += "" if apart else f", {UNDECIDED}"
    return [
        f"{family}Of the references' tokens the priors cover: {', '.join(shapes) or MISSING}.",
        f"The span term of phrases is {', '.join(of_source) or MISSING}{category}.",
    ]


def _term(entry: Mapping[str, Any]) -> str:
    return number(entry["span_term"], TERM_DIGITS)
