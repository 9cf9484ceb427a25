"""Does SCRG make rollouts, or the trained student's answers, less varied?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mgsr.evaluation.diversity import MEASURES, response_diversity
from mgsr.tables import figures
from mgsr.tables.checks import check
from mgsr.tables.decisions import UNDECIDED, AgainstBest, compare
from mgsr.tables.legends import legend
from mgsr.tables.render import FAMILY, Block, document
from mgsr.tables.results import MethodResult, RunResult, TableResults, mean
from mgsr.tables.statistics import paired_differences

UNREVISED = "mgsr_without_scrg"
NAMED = 3  # differences that a sentence names
TITLES = {name: name.replace("_", "-") for name in MEASURES}


def _by_prompt(run: RunResult, test_set: str, protocol: str) -> dict[str, dict[str, float]]:
    """By measure and prompt id, the mean over decoding seeds. Answers that are too short for a measure are left out."""
    values: dict[str, dict[str, list[float]]] = {measure: defaultdict(list) for measure in MEASURES}
    for row in run.evaluation.rows():
        if (row["set"], row["protocol"]) == (test_set, protocol):
            for measure, value in response_diversity(row["text"]).items():
                if value is not None:
                    values[measure][row["id"]].append(value)
    return {measure: {name: float(np.mean(seeds)) for name, seeds in by_id.items()} for measure, by_id in values.items()}


def _common(*systems: Sequence[Mapping[str, float]]) -> list[list[dict[str, float]]]:
    """The systems on the prompts that all of their seeds have a value for."""
    names = sorted(set.intersection(*(set(seed) for system in systems for seed in system)))
    return [[{name: seed[name] for name in names} for seed in system] for system in systems]


def answer_lines(methods: Mapping[str, MethodResult], test_set: str, protocol: str) -> list[check.Line]:
    """How diverse the evaluation's answers to a set are, and how much each method differs in this from MGSR without SCRG: one
    family of questions, over methods and measures."""
    lines, family = list[check.Line](), dict[check.Place, AgainstBest]()
    measured = {name: [_by_prompt(run, test_set, protocol) for run in method.runs] for name, method in methods.items()}
    for name, method in methods.items():
        for measure in MEASURES:
            seeds, key = [run[measure] for run in measured[name]], f"answers_{measure}"
            value = mean(float(np.mean(list(seed.values()))) for seed in seeds if seed)
            lines.append(check.Line(method.family, key, method.title, value, test_set, protocol))
            if name == UNREVISED or UNREVISED not in methods:
                continue
            pair = _common(seeds, [run[measure] for run in measured[UNREVISED]])
            if pair[0][0]:
                place = (method.family, key, method.title, test_set, methods[UNREVISED].title)
                family[place] = AgainstBest((compare([paired_differences(*pair)]),))
    return lines + check.difference_lines(family, protocol)


def _answer_sentence(answers: Sequence[check.Line], results: TableResults) -> str:
    compared = [line for line in answers if line.measure.endswith(check.DIFFERENCE)]
    if not compared:
        return "No trained student was compared with MGSR without SCRG."
    words = {f"{results.lead(line.family)}{line.subject}, {_in_words(line)}": line for line in compared}
    return _sentence("Answers of trained students differ from those of MGSR without SCRG in", words, "comparisons")


def _texts(lines: Iterable[check.Line], ending: str = "", row: str = "") -> tuple[tuple[str, ...], ...]:
    """A row for each subject (or the one `row`) and a column for each measure; with the ending `DIFFERENCE`, of differences."""
    cells = [
        (line.family, row or line.subject, _measure(line), line.text(digits=3, signed=bool(ending)))
        for line in lines
        if _measure(line) in MEASURES and line.measure.endswith(check.DIFFERENCE) == bool(ending)
    ]
    return check.grid(cells, MEASURES)


def _measure(line: check.Line) -> str:
    return line.measure.removeprefix("answers_").removesuffix(check.DIFFERENCE)


def _in_words(line: check.Line) -> str:
    return f"{TITLES[_measure(line)]} {line.text(digits=3)}"


def _sentence(beginning: str, compared: Mapping[str, check.Line], end: str) -> str:
    """How many of the differences are decided, and the first of these in words, which are the keys of `compared`."""
    named = [words for words, line in compared.items() if line.decided]
    listed = f": {'; '.join(named[:NAMED])}{'; ...' if len(named) > NAMED else ''}" if named else ""
    return f"{beginning} {len(named)} of {len(compared)} {end}, the others are {UNDECIDED}{listed}."


def _rollout_lines(family: str, part: Mapping[str, Any]) -> list[check.Line]:
    """Lines of the probe's texts: those of the student at the start, the revised ones, and the references."""
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
        lead, rollouts = results.lead(family), _rollout_lines(family, probe["diversity"])
        lines += rollouts
        rows += [*_texts(rollouts), *_texts(rollouts, check.DIFFERENCE, "scrg minus student")]
        for line in rollouts:
            if line.measure in MEASURES and line.measure != "words" and line.value is not None:
                series.setdefault(line.subject, {})[f"{lead}{line.measure}"] = line.bounds
        changes = {_in_words(line): line for line in rollouts if line.measure.endswith(check.DIFFERENCE)}
        sentences.append(_sentence(f"{lead}SCRG changes", changes, "measures of the starting student's rollouts"))
    for family in results.families:
        for protocol in results.protocols:
            answer = answer_lines(results.of_family(family), test_set, protocol)
            lines += answer
            answers += answer if protocol == first else []
    sentences.append(_answer_sentence(answers, results))
    title, header = results.title(test_set), (FAMILY, "method", *TITLES.values())
    blocks = (
        Block("texts of the starting student and references, each by itself", (FAMILY, "text", *TITLES.values()), tuple(rows)),
        Block(f"answers of trained students on {title}, protocol {first}", header, _texts(answers)),
        Block(
            f"answers on {title} minus those of MGSR without SCRG, protocol {first}", header, _texts(answers, check.DIFFERENCE)
        ),
    )
    figure = figures.forest(series, "share (95 %)", reference=None)
    return check.Check(document(results.spec, "Diversity", blocks, legend("diversity", title=title)), sentences, lines, figure)
