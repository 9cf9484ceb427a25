"""Does SCRG make rollouts, or the trained student's answers, less varied?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mgsr.evaluation.diversity import MEASURES, response_diversity
from mgsr.storage import read_jsonl
from mgsr.tables import figures
from mgsr.tables.checks.check import UNDECIDED, Bounds, Check, Line, by_method, interval_text
from mgsr.tables.checks.probe_results import probe_line, probes, side, value_text
from mgsr.tables.render import MISSING, Block
from mgsr.tables.results import Cells, Group
from mgsr.tables.scores import headings, preset_notes
from mgsr.tables.statistics import compare, paired_differences

UNREVISED = "mgsr_without_scrg"
NAMED = 3  # differences that a sentence names
ANSWER_SET = "dolly"
DIFFERENCE = "_difference"
TITLES = {name: name.replace("_", "-") for name in MEASURES}


def _answer_measures(group: Group, protocol: str) -> dict[str, list[dict[str, float]]]:
    """By measure, each training seed's values by prompt id, averaged over decoding seeds; answers too short to tell are left
    out."""
    found: dict[str, list[dict[str, float]]] = {measure: [] for measure in MEASURES}
    for cell in group.cells:
        values: dict[str, dict[str, list[float]]] = {measure: {} for measure in MEASURES}
        for row in read_jsonl(cell.evaluation_path.with_name("rows.jsonl")):
            if (row["set"], row["protocol"]) == (ANSWER_SET, protocol):
                for measure, value in response_diversity(row["text"]).items():
                    if value is not None:
                        values[measure].setdefault(row["id"], []).append(value)
        for measure, by_id in values.items():
            found[measure].append({name: float(np.mean(own)) for name, own in by_id.items()})
    return found


def _common(*systems: Sequence[Mapping[str, float]]) -> list[list[dict[str, float]]]:
    """The systems on the prompts that all of their seeds have a value for."""
    names = sorted(set.intersection(*(set(seed) for system in systems for seed in system)))
    return [[{name: seed[name] for name in names} for seed in system] for system in systems]


def answer_lines(groups: Mapping[str, Group], protocol: str) -> list[Line]:
    """Diversity of the evaluation's answers on Dolly, and each method's difference to MGSR without SCRG over prompts."""
    lines = []
    measured = {name: _answer_measures(group, protocol) for name, group in groups.items()}
    for name, group in groups.items():
        for measure in MEASURES:
            own = measured[name][measure]
            means = [np.mean(list(seed.values())) for seed in own if seed]
            value = float(np.mean(means)) if means else None
            lines.append(Line(group.family, f"answers_{measure}", group.title, value, ANSWER_SET, protocol))
            if name == UNREVISED or UNREVISED not in groups:
                continue
            pair = _common(own, measured[UNREVISED][measure])
            if pair[0][0]:
                result = compare([paired_differences(*pair)])
                interval, base = result.interval, groups[UNREVISED].title
                lines.append(Line(group.family, f"answers_{measure}_difference", group.title, interval.difference, ANSWER_SET,
                                  protocol, base, interval.low, interval.high, result.p, interval.rows))  # fmt: skip
    return lines


def diversity(cells: Cells) -> Check:
    """Does SCRG make rollouts, or the trained student's answers, less varied?"""
    several, first = max(len(cells.families), len(cells.probe)) > 1, cells.protocols[0]
    lines: list[Line] = []
    sentences, rows, answers = [], [], []
    series: dict[str, dict[str, Bounds]] = {}
    for family, probe in probes(cells):
        part, lead = probe["diversity"], (family,) if several else ()
        for entry in part["summary"]:
            lines.append(probe_line(family, entry["measure"], entry["source"], entry, "mean"))
        changed = {entry["measure"]: entry for entry in part["differences"]}
        for entry in part["differences"]:
            lines.append(probe_line(family, f"{entry['measure']}_difference", "scrg", entry, "difference", against="student"))
        for entry in part["corpus"]:
            scores = {name: value for name, value in entry.items() if name.startswith("distinct")}
            lines += [Line(family, f"corpus_{name}", entry["source"], value) for name, value in scores.items()]
        by_source: dict[str, dict[str, Any]] = {}
        for entry in part["summary"]:
            by_source.setdefault(entry["source"], {})[entry["measure"]] = entry
        for source, own in by_source.items():
            rows.append(
                (
                    *lead,
                    source,
                    *(value_text(own[name], "mean", 1, 3, signed=False) if name in own else MISSING for name in MEASURES),
                )
            )
            for name, entry in own.items():
                if name != "words" and entry["mean"] is not None:
                    label = f"{family}: {name}" if several else name
                    series.setdefault(source, {})[label] = (entry["mean"], entry["low"], entry["high"])
        texts = (value_text(changed[name], "difference", 1, 3) if name in changed else MISSING for name in MEASURES)
        rows.append((*lead, "scrg minus student", *texts))
        parts = [f"{TITLES[name]} {value_text(changed[name], 'difference', digits=3)}"
                 for name in MEASURES if name in changed and side(changed[name])]  # fmt: skip
        told = f"SCRG changes {len(parts)} of {len(changed)} measures of the SFT student's rollouts"
        sentences.append(_with_names(f"{family}: {told}" if several else told, parts))
    for family in cells.families:
        groups = by_method(cells, family)
        for protocol in cells.protocols:
            found = answer_lines(groups, protocol)
            lines += found
            if protocol == first:
                answers += found
    sentences += _answer_sentences(answers, several)
    lead_header = ("family",) if several else ()
    columns = tuple(TITLES[name] for name in MEASURES)
    blocks = (
        Block("texts of the SFT student and references, each by itself", (*lead_header, "text", *columns), tuple(rows)),
        Block(f"answers of trained students on Dolly, protocol {first}", (*lead_header, "method", *columns),
              _answer_rows(answers, "", several)),
        Block(f"answers on Dolly minus those of MGSR without SCRG, protocol {first}", (*lead_header, "method", *columns),
              _answer_rows(answers, DIFFERENCE, several)),
    )  # fmt: skip
    figure = figures.forest(series, "share (95 %)", reference=None)
    notes = (
        *preset_notes(cells),
        "distinct-n: different n-grams over all n-grams of a response; repetition: share of its 4-grams that came before; "
        "words by white space. Longer texts have a lower distinct-n of themselves.",
        "Differences of answers are to MGSR without SCRG over Dolly's prompts; no correction over measures.",
    )
    return Check("diversity", headings(cells, "Diversity"), tuple(sentences), tuple(lines), blocks, figure, notes)


def _answer_rows(answers: Sequence[Line], ending: str, several: bool) -> tuple[tuple[str, ...], ...]:
    """Methods by measures: the values (no ending), or the differences with their intervals."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for line in answers:
        for name in MEASURES:
            if line.measure == f"answers_{name}{ending}" and line.value is not None:
                text = interval_text(line.value, line.low, line.high, 3, signed=bool(ending))
                found.setdefault((line.family, line.subject), {})[name] = text
    return tuple(
        (*((family,) if several else ()), title, *(own.get(name, MISSING) for name in MEASURES))
        for (family, title), own in found.items()
    )


def _answer_sentences(answers: Sequence[Line], several: bool) -> list[str]:
    compared = [line for line in answers if line.measure.endswith(DIFFERENCE)]
    if not compared:
        return ["No trained student was compared with MGSR without SCRG."]
    decided = [line for line in compared if line.low is not None and line.high is not None and line.low * line.high > 0]
    named = [
        f"{f'{line.family}, ' if several else ''}{line.subject}, "
        f"{TITLES[line.measure.removeprefix('answers_').removesuffix(DIFFERENCE)]} "
        f"{interval_text(line.value or 0.0, line.low, line.high, 3)}"
        for line in decided
    ]
    told = f"Answers of trained students differ from those of MGSR without SCRG in {len(named)} of {len(compared)} comparisons"
    return [_with_names(told, named)]


def _with_names(told: str, named: Sequence[str]) -> str:
    listed = f": {'; '.join(named[:NAMED])}{'; ...' if len(named) > NAMED else ''}" if named else ""
    return f"{told}, the others are {UNDECIDED}{listed}."
