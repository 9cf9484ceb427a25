"""Do SCRG's scores find planted errors, and does correcting there help?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mgsr.tables import figures
from mgsr.tables.checks import check
from mgsr.tables.legends import legend
from mgsr.tables.render import FAMILY, MISSING, Block, document
from mgsr.tables.results import TableResults

PRINTED = "kl_student_teacher"  # the detection score as the paper prints it
BASELINES = ("student_entropy", "random")
CHANCE = "random"  # a candidate at random
AT_ERROR = "at_error"  # where the error is, not where a score says
AT = "at"
WINDOWS = {AT: "at k", "after": "k+1 to k+5", "before": "k-5 to k-1"}
GAINS = {"rouge_l": "ROUGE-L (points)", "teacher_logp": "teacher's log-probability (nats a token)"}
Entries = Mapping[tuple[str, str, str], Mapping[str, Any]]


def injected_errors(results: TableResults) -> check.Check:
    """Do SCRG's scores find planted errors, and does correcting there help?"""
    lines, sentences = list[check.Line](), list[str]()
    detection_rows, correction_rows = list[tuple[str, ...]](), list[tuple[str, ...]]()
    series: dict[str, dict[str, check.Bounds]] = {}
    for family, probe in results.probes():
        part, lead = probe["injected_errors"], results.lead(family)
        detection: Entries = {(entry["error"], entry["detector"], entry["window"]): entry for entry in part["detection"]}
        gains: Entries = {(entry["error"], entry["start"], entry["measure"]): entry for entry in part["correction"]}
        for (error, detector, window), entry in detection.items():
            lines += _detection_lines(family, entry)
            if window == AT and entry["difference"] is not None:
                low, high = (None if entry[name] is None else 100 * entry[name] for name in ("low", "high"))
                series.setdefault(detector, {})[f"{lead}{error}"] = (100 * entry["difference"], low, high)
        for error, detector in dict.fromkeys((error, detector) for error, detector, _ in detection):
            texts = (check.entry_text(detection[error, detector, window], "difference", 100, 1) for window in WINDOWS)
            above = "" if detector == CHANCE else check.entry_text(_above(detection[error, detector, AT]), "value", 100, 1)
            detection_rows.append((family, error, detector, *texts, above))
        for error, start in dict.fromkeys((error, start) for error, start, _ in gains):
            pair = [gains[error, start, measure] for measure in GAINS]
            counts = dict.fromkeys(str(entry["prompts"]) for entry in pair)
            texts = (check.entry_text(entry, "gain") for entry in pair)
            correction_rows.append((family, error, start, *texts, " / ".join(counts)))
        for (error, start, measure), entry in gains.items():
            scope = f"{error}, {start}"
            lines += [check.Line(family, name, measure, entry[name], scope=scope) for name in ("kept", "corrected")]
            lines.append(check.entry_line(family, "gain", measure, entry, "gain", scope=scope))
        lines += [
            check.Line(family, "prompts_without_this_error", error, float(count)) for error, count in part["skipped"].items()
        ]
        sentences += _sentences(detection, gains, lead)
    detection_header = (FAMILY, "error", "score", *WINDOWS.values(), "at k, minus a random candidate")
    correction_header = (FAMILY, "error", "corrected at", *GAINS.values(), "prompts")
    blocks = (
        Block("chosen position, rate minus the original's rate (percentage points)", detection_header, tuple(detection_rows)),
        Block("correcting there, minus going on after the error", correction_header, tuple(correction_rows)),
    )
    figure = figures.forest(series, "chosen exactly: rate minus the original's rate (percentage points, 95 %)")
    return check.Check(document(results.spec, "Injected errors", blocks, legend("injected_errors")), sentences, lines, figure)


def _detection_lines(family: str, entry: Mapping[str, Any]) -> list[check.Line]:
    detector, scope, prompts = entry["detector"], f"{entry['error']}, {entry['window']}", entry["prompts"]
    lines = [check.Line(family, name, detector, entry[name], scope, prompts=prompts) for name in ("rate", "original_rate")]
    lines.append(check.entry_line(family, "rate_minus_original_rate", detector, entry, "difference", scope=scope))
    for name in (f"above_{baseline}" for baseline in BASELINES):
        low, high = entry[f"{name}_low"], entry[f"{name}_high"]
        lines.append(check.Line(family, f"rate_{name}", detector, entry[name], scope, low=low, high=high, prompts=prompts))
    return lines


def _above(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The rate minus that of a random candidate, with its interval."""
    name = f"above_{CHANCE}"
    return {"value": entry[name], "low": entry[f"{name}_low"], "high": entry[f"{name}_high"]}


def _sentences(detection: Entries, gains: Entries, lead: str) -> list[str]:
    """Whether the printed KL finds errors, which score does best, and what correcting is worth."""
    above = {(error, name): _above(entry) for (error, name, window), entry in detection.items() if window == AT}
    above = {key: entry for key, entry in above.items() if entry["value"] is not None and key[1] not in BASELINES}
    printed = {error: entry for (error, name), entry in above.items() if name == PRINTED}
    better = [error for error, entry in printed.items() if check.side(entry) > 0]
    best: dict[str, list[str]] = {}
    for error in printed:
        top = max((name for kind, name in above if kind == error), key=lambda name: above[error, name]["value"])
        best.setdefault(top, []).append(f"{error} {_points(above[error, top])}")
    scores = "; ".join(f"{top} ({', '.join(errors)})" for top, errors in best.items())
    at_error = _range([entry for (_, *key), entry in gains.items() if key == [AT_ERROR, "rouge_l"]], 1, "points")
    where_printed = _range([entry for (_, *key), entry in gains.items() if key == [PRINTED, "teacher_logp"]], 2, "nats a token")
    return [
        f"{lead}The printed KL chooses the planted token more often than a random candidate for "
        f"{', '.join(better) or 'no kind of error'}; in points: "
        f"{', '.join(f'{error} {_points(entry)}' for error, entry in printed.items()) or MISSING}.",
        f"The best score is {scores or MISSING}, in points above a random candidate.",
        f"Correcting at the error instead of going on after it changes ROUGE-L by {at_error}; where the printed KL "
        f"says, the teacher's log-probability of what follows changes by {where_printed}.",
    ]


def _points(entry: Mapping[str, Any]) -> str:
    return check.interval_text(100 * entry["value"], None, None, 1) + ("" if check.side(entry) else f" ({check.UNDECIDED})")


def _range(entries: Sequence[Mapping[str, Any]], digits: int, unit: str) -> str:
    """The range from the least to the largest gain over the kinds of errors, and which of them are undecided."""
    known = sorted((entry for entry in entries if entry["gain"] is not None), key=lambda entry: float(entry["gain"]))
    if not known:
        return MISSING
    ends = [known[0], known[-1]] if len(known) > 1 else known
    text = " to ".join(f"{check.interval_text(entry['gain'], None, None, digits)} ({entry['error']})" for entry in ends)
    doubtful = [entry["error"] for entry in known if not check.side(entry)]
    return f"{text} {unit}" + (f" ({check.UNDECIDED} for {', '.join(doubtful)})" if doubtful else "")
