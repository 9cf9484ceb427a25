"""Does SCRG make rollouts, or the trained student's answers, less varied?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mgsr.evaluation.diversity import MEASURES, response_diversity
from mgsr.tables import figures
from mgsr.tables.checks import check
from mgsr.tables.decisions import UNDECIDED, AgainstBest, compare
from mgsr.tables.render import FAMILY, MISSING, Block, document
from mgsr.tables.results import MethodResult, TableResults
from mgsr.tables.statistics import paired_differences

UNREVISED = "mgsr_without_scrg"
NAMED = 3  # check.differences that a sentence names
TITLES = {name: name.replace("_", "-") for name in MEASURES}


# --- answers of trained students --------------------------------------------------------------------------------------


def _answer_measures(method: MethodResult, test_set: str, protocol: str) -> dict[str, list[dict[str, float]]]:
    """By measure, one mapping for each training seed: the value by prompt id, averaged over decoding seeds. Answers that are
    too short for a measure are left out."""
    measures: dict[str, list[dict[str, float]]] = {measure: [] for measure in MEASURES}
    for run in method.runs:
        values: dict[str, dict[str, list[float]]] = {measure: {} for measure in MEASURES}
        for row in run.evaluation.rows():
            if (row["set"], row["protocol"]) == (test_set, protocol):
                for measure, value in response_diversity(row["text"]).items():
                    if value is not None:
                        values[measure].setdefault(row["id"], []).append(value)
        for measure, by_id in values.items():
            measures[measure].append({name: float(np.mean(seeds)) for name, seeds in by_id.items()})
    return measures


def _common(*systems: Sequence[Mapping[str, float]]) -> list[list[dict[str, float]]]:
    """The systems on the prompts that all of their seeds have a value for."""
    names = sorted(set.intersection(*(set(seed) for system in systems for seed in system)))
    return [[{name: seed[name] for name in names} for seed in system] for system in systems]


def answer_lines(methods: Mapping[str, MethodResult], test_set: str, protocol: str) -> list[check.Line]:
    """How diverse the evaluation's answers to a set are, and how much each method differs in this from MGSR without SCRG: one
    family of questions, over methods and measures."""
    lines, family = list[check.Line](), dict[check.Place, AgainstBest]()
    measured = {name: _answer_measures(method, test_set, protocol) for name, method in methods.items()}
    for name, method in methods.items():
        for measure in MEASURES:
            seeds, key = measured[name][measure], f"answers_{measure}"
            means = [np.mean(list(seed.values())) for seed in seeds if seed]
            value = float(np.mean(means)) if means else None
            lines.append(check.Line(method.family, key, method.title, value, test_set, protocol))
            if name == UNREVISED or UNREVISED not in methods:
                continue
            pair = _common(seeds, measured[UNREVISED][measure])
            if pair[0][0]:
                place = (method.family, key, method.title, test_set, methods[UNREVISED].title)
                family[place] = AgainstBest((compare([paired_differences(*pair)]),))
    return lines + check.difference_lines(family, protocol)


def _answer_texts(answers: Sequence[check.Line], ending: str) -> tuple[tuple[str, ...], ...]:
    """A row for each method and a column for each measure: values, or, with the ending `DIFFERENCE`, differences with
    intervals."""
    texts: dict[tuple[str, str], dict[str, str]] = {}
    for line in answers:
        for name in MEASURES:
            if line.measure == f"answers_{name}{ending}" and line.value is not None:
                text = check.interval_text(line.value, line.low, line.high, 3, signed=bool(ending))
                texts.setdefault((line.family, line.subject), {})[name] = text
    return tuple((*key, *(by_measure.get(name, MISSING) for name in MEASURES)) for key, by_measure in texts.items())


def _answer_sentence(answers: Sequence[check.Line], results: TableResults) -> str:
    compared = [line for line in answers if line.measure.endswith(check.DIFFERENCE)]
    if not compared:
        return "No trained student was compared with MGSR without SCRG."
    decided = [line for line in compared if line.decided]
    named = [
        f"{f'{line.family}, ' if len(results.families) > 1 else ''}{line.subject}, "
        f"{TITLES[line.measure.removeprefix('answers_').removesuffix(check.DIFFERENCE)]} "
        f"{check.interval_text(line.value or 0.0, line.low, line.high, 3)}"
        for line in decided
    ]
    count = f"in {len(named)} of {len(compared)} comparisons"
    return _with_names(f"Answers of trained students differ from those of MGSR without SCRG {count}", named)


def _with_names(text: str, named: Sequence[str]) -> str:
    listed = f": {'; '.join(named[:NAMED])}{'; ...' if len(named) > NAMED else ''}" if named else ""
    return f"{text}, the others are {UNDECIDED}{listed}."


# --- rollouts ---------------------------------------------------------------------------------------------------------


def _rollout_lines(family: str, part: Mapping[str, Any]) -> list[check.Line]:
    """Lines of the probe's texts: those of the SFT student, the revised ones, and the references."""
    lines = [check.entry_line(family, entry["measure"], entry["source"], entry, "mean") for entry in part["summary"]]
    lines += [
        check.entry_line(family, f"{entry['measure']}{check.DIFFERENCE}", "scrg", entry, "difference", against="student")
        for entry in part["differences"]
    ]
    for entry in part["corpus"]:
        scores = {name: value for name, value in entry.items() if name.startswith("distinct")}
        lines += [check.Line(family, f"corpus_{name}", entry["source"], value) for name, value in scores.items()]
    return lines


def diversity(results: TableResults) -> check.Check:
    """Does SCRG make rollouts, or the trained student's answers, less varied?"""
    first, test_set = results.protocols[0], results.sets[0]
    lines, answers = list[check.Line](), list[check.Line]()
    sentences, rows = list[str](), list[tuple[str, ...]]()
    series: dict[str, dict[str, check.Bounds]] = {}
    for family, probe in results.probes():
        part, lead = probe["diversity"], results.lead(family)
        lines += _rollout_lines(family, part)
        by_source: dict[str, dict[str, Any]] = {}
        for entry in part["summary"]:
            by_source.setdefault(entry["source"], {})[entry["measure"]] = entry
            if entry["measure"] != "words" and entry["mean"] is not None:
                bounds = (entry["mean"], entry["low"], entry["high"])
                series.setdefault(entry["source"], {})[f"{lead}{entry['measure']}"] = bounds
        for source, entries in by_source.items():
            texts = (
                check.entry_text(entries[name], "mean", 1, 3, signed=False) if name in entries else MISSING for name in MEASURES
            )
            rows.append((family, source, *texts))
        changes = {entry["measure"]: entry for entry in part["differences"]}
        change_texts = {name: check.entry_text(entry, "difference", digits=3) for name, entry in changes.items()}
        rows.append((family, "scrg minus student", *(change_texts.get(name, MISSING) for name in MEASURES)))
        named = [f"{TITLES[name]} {change_texts[name]}" for name in MEASURES if name in changes and check.side(changes[name])]
        count = f"{len(named)} of {len(changes)} measures"
        sentences.append(_with_names(f"{lead}SCRG changes {count} of the SFT student's rollouts", named))
    for family in results.families:
        for protocol in results.protocols:
            answer = answer_lines(results.of_family(family), test_set, protocol)
            lines += answer
            answers += answer if protocol == first else []
    sentences.append(_answer_sentence(answers, results))
    title, header = results.title(test_set), (FAMILY, "method", *TITLES.values())
    blocks = (
        Block("texts of the SFT student and references, each by itself", (FAMILY, "text", *TITLES.values()), tuple(rows)),
        Block(f"answers of trained students on {title}, protocol {first}", header, _answer_texts(answers, "")),
        Block(f"answers on {title} minus those of MGSR without SCRG, protocol {first}", header,
              _answer_texts(answers, check.DIFFERENCE)),
    )  # fmt: skip
    figure = figures.forest(series, "share (95 %)", reference=None)
    notes = (
        "distinct-n divides the different n-grams of a response by all its n-grams; repetition is the share of its 4-grams "
        "that came before; words are split at white space. Longer texts have a lower distinct-n in any case.",
        f"Answers are compared with those of MGSR without SCRG over {title}'s prompts; these comparisons are one "
        "family (Holm). The changes of rollouts are not corrected over measures.",
    )
    return check.Check(document(results.spec, "Diversity", blocks, notes), sentences, lines, figure)
