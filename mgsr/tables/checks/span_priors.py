"""Scores of the span priors against phrases, and what each prior makes of references, rollouts and revised rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mgsr.tables import figures
from mgsr.tables.checks import check
from mgsr.tables.render import FAMILY, MISSING, Block, document, metric_title, number
from mgsr.tables.results import TableResults

REFERENCE_TITLE = "phrases"  # what MGSR's own spans are
NAMED = 2  # variants that a sentence names
TERM_DIGITS = 4
SHAPES = {  # heading and digits of a summary's columns
    "spans_per_response": ("spans a response", 1),
    "tokens_per_span": ("tokens a span", 1),
    "covered": ("share of tokens", 2),
    "one_token": ("one-token share", 2),
}


def span_priors(results: TableResults) -> check.Check:
    """Scores of the span priors against phrases, and what each prior makes of references, rollouts and revised rollouts."""
    lines, compared = list[check.Line](), list[check.Line]()
    sentences, rows = list[str](), list[tuple[str, ...]]()
    for family in results.families:
        family_lines, family_differences = check.against_reference(results, family)
        lines, compared = lines + family_lines, compared + family_differences
        if family_differences:
            named = check.telling(family_differences, NAMED)
            counts = check.count_text(family_differences, REFERENCE_TITLE)
            sentences.append(check.capital(f"{results.lead(family)}{counts}; {named[0].lower()}{named[1:]}."))
    series: dict[str, dict[str, check.Bounds]] = {}
    for family, probe in results.probes():
        summary = probe["spans"]["summary"]
        for entry in summary:
            scope = f"{entry['source']}, {entry['category']}"
            for name in SHAPES:
                lines.append(check.Line(family, name, entry["priors"], entry[name], scope, prompts=entry["prompts"]))
            lines.append(check.entry_line(family, "span_term", entry["priors"], entry, "span_term", scope=scope))
            shape = (number(entry[name], digits) for name, (_, digits) in SHAPES.items())
            term = check.entry_text(entry, "span_term", digits=TERM_DIGITS, signed=False)
            rows.append((family, entry["source"], entry["priors"], entry["category"], *shape, term))
            if entry["category"] == check.ALL and entry["span_term"] is not None:
                label = f"{results.lead(family)}{entry['source']}"
                series.setdefault(entry["priors"], {})[label] = (entry["span_term"], entry["low"], entry["high"])
        sentences += _span_sentences(summary, results.lead(family))
    heading = f"minus phrases, {metric_title(results.metric)}, average of sets, protocol {results.protocols[0]}"
    header = (FAMILY, "text", "priors", "category", *(title for title, _ in SHAPES.values()), "span term (95 %)")
    spans = Block("spans by kind of text and category of Dolly", header, tuple(rows))
    blocks = [check.difference_block(compared, heading, results), spans]
    figure = figures.forest(series, "span term of the starting student (95 %)", reference=None)
    return check.Check(document(results.spec, "Span priors", blocks, [check.TIES]), sentences, lines, figure)


def _span_sentences(summary: Sequence[Mapping[str, Any]], lead: str) -> list[str]:
    whole = [entry for entry in summary if entry["category"] == check.ALL and entry["source"] == "reference"]
    shapes = [f"{entry['priors']} {number(100 * entry['covered'], 0)} % ({number(entry['tokens_per_span'], 1)} tokens a span)"
              for entry in whole if entry["covered"] is not None]  # fmt: skip
    phrases = [entry for entry in summary if entry["priors"] == "phrases" and entry["span_term"] is not None]
    terms = [f"{_term(entry)} ({entry['source']})" for entry in phrases if entry["category"] == check.ALL]
    kinds = [entry for entry in phrases if entry["source"] == "reference" and entry["category"] != check.ALL]
    category = ""
    if kinds:
        low, high = (choose(kinds, key=lambda entry: float(entry["span_term"])) for choose in (min, max))
        apart = low["high"] is not None and high["low"] is not None and low["high"] < high["low"]
        category = f"; by category of references from {_term(low)} ({low['category']}) to {_term(high)} ({high['category']})"
        category += "" if apart else check.DOUBT
    return [
        f"{lead}Of the references' tokens the priors cover: {', '.join(shapes) or MISSING}.",
        f"The span term of phrases is {', '.join(terms) or MISSING}{category}.",
    ]


def _term(entry: Mapping[str, Any]) -> str:
    return number(entry["span_term"], TERM_DIGITS)
