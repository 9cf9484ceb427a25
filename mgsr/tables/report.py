"""ROOT/plan/<page>.json in; one self-contained HTML page out: tables, claims, open checks, curves, warnings. It loads nothing.

The page's layout is report.html, beside this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mgsr.config.table_specs import PageSpec, TableSpec, read_plan
from mgsr.errors import MgsrError
from mgsr.storage import write_text
from mgsr.tables.claims import claims_table
from mgsr.tables.figures import BAND, CURVES, bar_chart, courses, data_uri, hit_positions
from mgsr.tables.open_checks import build_check
from mgsr.tables.registry import build_table
from mgsr.tables.render import MISSING, Bold, heading, metric_title, number
from mgsr.tables.results import MethodResult, TableResults, load_results

TEMPLATE = Path(__file__).with_name("report.html")
BAND_KEY = "band/kept_classes"


def _heldout_rows(methods: Sequence[MethodResult]) -> list[tuple[str, ...]]:
    base = {method.family: method.heldout("forward_kl") for method in methods if method.method == "sft"}
    rows: list[tuple[str, ...]] = []
    for method in methods:
        forward, sft, reverse = method.heldout("forward_kl"), base.get(method.family), method.heldout("reverse_kl")
        change = None if forward is None or sft is None else forward - sft
        rows.append((method.family, method.title, number(forward, 4), number(reverse, 4), number(change, 4)))
    return rows


def scrg_hits(methods: Iterable[MethodResult]) -> dict[str, list[tuple[int, int]]]:
    """By run, (position, response length) of each correction in the logged steps; runs without one are left out."""
    hits = {
        f"{method.title}, seed {run.row.seed}": [
            (int(position), int(length)) for line in run.metrics() for position, length in line.get("scrg_hits") or ()
        ]
        for method in methods
        for run in method.runs
    }
    return {label: places for label, places in hits.items() if places}


def build_report(spec: PageSpec, root: Path) -> str:
    """The page's HTML. Charts and lists show each run of the tables once; the warnings and the list of runs show those of
    the open checks too. The bar charts are of the first table."""
    if not spec.tables:
        raise MgsrError(f"{spec.name} names no table; a report needs at least one")
    tables, checks = ([load_results(shown, root) for shown in group] for group in (spec.tables, spec.checks))
    first, methods = tables[0], _methods(tables)
    charted = _charted(zip(spec.tables, tables, strict=True))
    bands = {
        label: [method for method in part if any(BAND_KEY in line for run in method.runs for line in run.metrics())]
        for label, part in charted.items()
    }
    hits = {family: scrg_hits(part) for family, part in _by_family(methods).items()}
    runs = [(method, run) for method in _methods([*tables, *checks]) for run in method.runs]
    documents = [build_table(table, results).document for table, results in zip(spec.tables, tables, strict=True)]
    values: dict[str, Any] = {
        "heading": heading(first.spec, "results"),
        "note": first.spec.note.strip(),
        "documents": [*documents, *([claims_table(spec.claims, root).document] if spec.claims else [])],
        "checks": {results.spec.name: build_check(results) for results in checks},
        "protocol": first.protocols[0],
        "bars": [
            (f"{family}, {metric_title(metric)}", data_uri(bar_chart(part, first, metric)))
            for family, part in _by_family(first.methods).items()
            for metric in first.spec.metrics
        ],
        "curves": [(label, data_uri(courses(part, CURVES))) for label, part in charted.items()],
        "bands": [(label, data_uri(courses(part, BAND))) for label, part in bands.items() if part],
        "hits": [(family, data_uri(hit_positions(places))) for family, places in hits.items() if places],
        "heldout": _heldout_rows(methods),
        "warnings": [
            (method.family, method.title, str(run.row.seed), warning["name"], warning["message"])
            for method, run in runs
            for warning in run.card["warnings"]
        ],
        "runs": runs,
    }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["emphasised"] = lambda cell: Markup("<b>{}</b>").format(cell) if isinstance(cell, Bold) else cell
    environment.filters |= {"image": data_uri, "number": number, "or_missing": lambda value: value or MISSING}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(values)


def _charted(tables: Iterable[tuple[TableSpec, TableResults]]) -> dict[str, list[MethodResult]]:
    """By figure, the methods whose curves it shows: those of one table and family, as more could not be told apart. A table
    gets no figure where earlier ones have shown all its methods."""
    charted: dict[str, list[MethodResult]] = {}
    shown: set[tuple[str, str]] = set()
    for spec, results in tables:
        for family, methods in _by_family(results.methods).items():
            names = {(family, method.method) for method in methods}
            if not names <= shown:
                charted[f"{spec.title}, {family}"] = methods
                shown |= names
    return charted


def _by_family(methods: Iterable[MethodResult]) -> dict[str, list[MethodResult]]:
    families: dict[str, list[MethodResult]] = {}
    for method in methods:
        families.setdefault(method.family, []).append(method)
    return families


def _methods(tables: Iterable[TableResults]) -> list[MethodResult]:
    """Each method of these tables once, in their order, as the first table that has it names it."""
    methods: dict[tuple[str, str], MethodResult] = {}
    for results in tables:
        for method in results.methods:
            methods.setdefault((method.family, method.method), method)
    return list(methods.values())


def write_report(root: Path, name: str) -> None:
    """Write ROOT/<name>.html."""
    write_text(root / f"{name}.html", build_report(read_plan(root, name, PageSpec), root))
