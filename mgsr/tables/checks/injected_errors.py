"""Do SCRG's scores find planted errors, and does correcting there help?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mgsr.tables import figures
from mgsr.tables.checks.check import UNDECIDED, Bounds, Check, Line, interval_text
from mgsr.tables.checks.probe_results import probe_line, probes, side, value_text
from mgsr.tables.render import MISSING, Block
from mgsr.tables.results import Cells
from mgsr.tables.scores import headings, preset_notes

PRINTED = "kl_student_teacher"  # the detection score as the paper prints it
BASELINES = ("student_entropy", "random")
CHANCE = "random"  # a candidate at random
AT_ERROR = "at_error"  # where the error is, not where a score says
AT = "at"
WINDOWS = {AT: "at k", "after": "k+1 to k+5", "before": "k-5 to k-1"}
GAINS = {"rouge_l": "ROUGE-L (points)", "teacher_logp": "teacher's log-probability (nats a token)"}


def injected_errors(cells: Cells) -> Check:
    """Do SCRG's scores find planted errors, and does correcting there help?"""
    several = len(cells.probe) > 1
    lines: list[Line] = []
    sentences, found_rows, helped_rows = [], [], []
    series: dict[str, dict[str, Bounds]] = {}
    for family, probe in probes(cells):
        part, lead = probe["injected_errors"], (family,) if several else ()
        detection, correction = part["detection"], part["correction"]
        cellwise = {(entry["error"], entry["detector"], entry["window"]): entry for entry in detection}
        for entry in detection:
            scope = f"{entry['error']}, {entry['window']}"
            shared = {"scope": scope, "prompts": entry["prompts"]}
            lines += [Line(family, name, entry["detector"], entry[name], **shared) for name in ("rate", "twin_rate")]
            lines.append(probe_line(family, "rate_minus_twin_rate", entry["detector"], entry, "difference", scope=scope))
            for name in (f"above_{baseline}" for baseline in BASELINES):
                bounds = _bounds(entry, name)
                lines.append(Line(family, f"rate_{name}", entry["detector"], entry[name], **bounds, **shared))
            if entry["window"] == AT and entry["difference"] is not None:
                label = f"{family}: {entry['error']}" if several else entry["error"]
                low, high = (None if entry[name] is None else 100 * entry[name] for name in ("low", "high"))
                series.setdefault(entry["detector"], {})[label] = (100 * entry["difference"], low, high)
        for error, detector in dict.fromkeys((error, detector) for error, detector, _ in cellwise):
            texts = (value_text(cellwise[error, detector, window], "difference", 100, 1) for window in WINDOWS)
            above = "" if detector == CHANCE else value_text(_above(cellwise[error, detector, AT]), "value", 100, 1)
            found_rows.append((*lead, error, detector, *texts, above))
        gains = {(entry["error"], entry["start"], entry["measure"]): entry for entry in correction}
        for error, start in dict.fromkeys((error, start) for error, start, _ in gains):
            pair = [gains[error, start, measure] for measure in GAINS]
            counts = dict.fromkeys(str(entry["prompts"]) for entry in pair)
            helped_rows.append((*lead, error, start, *(value_text(entry, "gain") for entry in pair), " / ".join(counts)))
        for entry in correction:
            scope = f"{entry['error']}, {entry['start']}"
            lines += [Line(family, name, entry["measure"], entry[name], scope=scope) for name in ("kept", "corrected")]
            lines.append(probe_line(family, "gain", entry["measure"], entry, "gain", scope=scope))
        lines += [Line(family, "prompts_without_this_error", error, float(count)) for error, count in part["skipped"].items()]
        sentences += _sentences(cellwise, gains, f"{family}: " if several else "")
    header = ("family",) if several else ()
    blocks = (
        Block("chosen position, rate minus the twin's rate (percentage points)",
              (*header, "error", "score", *WINDOWS.values(), "at k, minus a random candidate"), tuple(found_rows)),
        Block("correcting there, minus going on after the error",
              (*header, "error", "corrected at", *GAINS.values(), "prompts"), tuple(helped_rows)),
    )  # fmt: skip
    figure = figures.forest(series, "chosen exactly: rate minus the twin's rate (percentage points, 95 %)")
    notes = (
        *preset_notes(cells),
        "A twin is the same response without the error; k is the error's first token. A KL at k reads y_<k alone, so it is "
        "the twin's there: k is chosen more often only because the planted token makes it a candidate, as for `random`.",
        "Log-probability: the teacher's mean over what the student then wrote. An early correction leaves less of the "
        "reference, so ROUGE-L is fair to `at_error` alone.",
        "No correction over errors and scores: one interval in twenty excludes 0 by chance.",
    )
    return Check("injected_errors", headings(cells, "Injected errors"), tuple(sentences), tuple(lines), blocks, figure, notes)


def _bounds(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {bound: entry[f"{name}_{bound}"] for bound in ("low", "high")}


def _above(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The rate minus that of a random candidate, with its interval."""
    return {"value": entry[f"above_{CHANCE}"], **_bounds(entry, f"above_{CHANCE}")}


def _sentences(
    cellwise: Mapping[tuple[str, str, str], Mapping[str, Any]],
    gains: Mapping[tuple[str, str, str], Mapping[str, Any]],
    family: str,
) -> list[str]:
    """Whether the printed KL finds errors, which score does best, and what correcting is worth."""
    above = {(error, name): _above(entry) for (error, name, window), entry in cellwise.items() if window == AT}
    above = {key: entry for key, entry in above.items() if entry["value"] is not None and key[1] not in BASELINES}
    printed = {error: entry for (error, name), entry in above.items() if name == PRINTED}
    better = [error for error, entry in printed.items() if side(entry) > 0]
    best: dict[str, list[str]] = {}
    for error in printed:
        top = max((name for of, name in above if of == error), key=lambda name: above[error, name]["value"])
        best.setdefault(top, []).append(f"{error} {_points(above[error, top])}")
    scores = "; ".join(f"{top} ({', '.join(errors)})" for top, errors in best.items())
    at_error = _range([entry for (_, *key), entry in gains.items() if key == [AT_ERROR, "rouge_l"]], 1, "points")
    where_printed = _range([entry for (_, *key), entry in gains.items() if key == [PRINTED, "teacher_logp"]], 2, "nats a token")
    return [
        f"{family}The printed KL chooses the planted token more often than a random candidate for "
        f"{', '.join(better) or 'no kind of error'}; in points: "
        f"{', '.join(f'{error} {_points(entry)}' for error, entry in printed.items()) or MISSING}.",
        f"The best score is {scores or MISSING}, in points above a random candidate.",
        f"Correcting at the error instead of going on after it changes ROUGE-L by {at_error}; where the printed KL "
        f"says, the teacher's log-probability of what follows changes by {where_printed}.",
    ]


def _points(entry: Mapping[str, Any]) -> str:
    return interval_text(100 * entry["value"], None, None, 1) + ("" if side(entry) else f" ({UNDECIDED})")


def _range(entries: Sequence[Mapping[str, Any]], digits: int, unit: str) -> str:
    """Least to largest gain over the kinds of errors, and which are undecided."""
    known = sorted((entry for entry in entries if entry["gain"] is not None), key=lambda entry: float(entry["gain"]))
    if not known:
        return MISSING
    ends = [known[0], known[-1]] if len(known) > 1 else known
    text = " to ".join(f"{interval_text(entry['gain'], None, None, digits)} ({entry['error']})" for entry in ends)
    doubtful = [entry["error"] for entry in known if not side(entry)]
    return f"{text} {unit}" + (f" ({UNDECIDED} for {', '.join(doubtful)})" if doubtful else "")
