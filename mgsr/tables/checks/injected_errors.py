"""Do SCRG's scores find planted errors, and does correcting there help?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mgsr.tables import figures
from mgsr.tables.cells import Cells
from mgsr.tables.checks.check import (
    Bounds,
    Check,
    Line,
)
from mgsr.tables.checks.probe import probe_line, probes, side, value_text
from mgsr.tables.render import MISSING, Block
from mgsr.tables.scores import headings, preset_notes

PRINTED = "kl_student_teacher"  # the detection score as the paper prints it
BASELINES = ("student_entropy", "random")
CHANCE = "above_random"
AT_ERROR = "at_error"  # where the error is, not where a score says
AT, AFTER = "at", "after"
WINDOWS = {AT: "at k", AFTER: "k+1 to k+5", "before": "k-5 to k-1"}


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
            found_rows.append((*lead, error, detector, *texts))
        for entry in correction:
            scope = f"{entry['error']}, {entry['start']}"
            lines += [Line(family, name, entry["measure"], entry[name], scope=scope) for name in ("kept", "corrected")]
            lines.append(probe_line(family, "gain", entry["measure"], entry, "gain", scope=scope))
            gain = value_text(entry, "gain")
            helped_rows.append((*lead, entry["error"], entry["start"], entry["measure"], gain, str(entry["prompts"])))
        lines += [Line(family, "prompts_without_this_error", error, float(count)) for error, count in part["skipped"].items()]
        sentences += _sentences(cellwise, correction, f"{family}: " if several else "")
    header = ("family",) if several else ()
    blocks = (
        Block("chosen position, rate minus the twin's rate (per cent)",
              (*header, "error", "score", *WINDOWS.values()), tuple(found_rows)),
        Block("correcting there, minus going on after the error",
              (*header, "error", "corrected at", "measure", "gain", "prompts"), tuple(helped_rows)),
    )  # fmt: skip
    figure = figures.forest(series, "chosen exactly: rate minus the twin's rate (per cent, 95 %)")
    notes = (
        *preset_notes(cells),
        "A twin is the same response without the error; k is the error's first token. A KL at k reads y_<k alone, so it is "
        "the twin's there: k is chosen more often only because the planted token makes it a candidate, as for `random`.",
        "No correction over errors and scores: one interval in twenty excludes 0 by chance.",
    )
    return Check("injected_errors", headings(cells, "Injected errors"), tuple(sentences), tuple(lines), blocks, figure, notes)


def _bounds(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {bound: entry[f"{name}_{bound}"] for bound in ("low", "high")}


def _sentences(
    cellwise: Mapping[tuple[str, str, str], Mapping[str, Any]],
    correction: Sequence[Mapping[str, Any]],
    family: str,
) -> list[str]:
    errors = list(dict.fromkeys(error for error, *_ in cellwise))
    detectors = list(dict.fromkeys(detector for _, detector, _ in cellwise))
    printed, best = [], []
    for error in errors:
        parts = [
            f"{value_text(entry, 'difference', 100, 1)}{'' if side(entry) else ' (undecided)'}"
            for window in (AT, AFTER)
            if (entry := cellwise.get((error, PRINTED, window)))
        ]
        printed.append(f"{error} {' and '.join(parts)}")
        scored = [name for name in detectors if name not in BASELINES and cellwise[error, name, AT][CHANCE] is not None]
        if scored:
            top = max(scored, key=lambda name: cellwise[error, name, AT][CHANCE])
            above = {"value": cellwise[error, top, AT][CHANCE], **_bounds(cellwise[error, top, AT], CHANCE)}
            word = "" if side(above) else " (undecided)"
            best.append(f"{error} {top} {value_text(above, 'value', 100, 1)}{word}")
    gains = {}
    for start, measure in ((AT_ERROR, "rouge_l"), (PRINTED, "teacher_logp")):
        chosen = [entry for entry in correction if (entry["start"], entry["measure"]) == (start, measure)]
        texts = (f"{entry['error']} {value_text(entry, 'gain')}{'' if side(entry) else ' (undecided)'}" for entry in chosen)
        gains[start] = "; ".join(texts) or MISSING
    return [
        f"{family}The printed KL chooses the planted position k and one of k+1 to k+5 more often than on the uncorrupted twin "
        f"by (percentage points): {'; '.join(printed) or MISSING}.",
        f"The best score at k, against a random candidate of the same responses: {'; '.join(best) or MISSING}.",
        f"Correcting at k instead of going on after the error changes ROUGE-L by: {gains[AT_ERROR]}; correcting where the "
        f"printed KL says changes the teacher's mean log-probability of what follows by: {gains[PRINTED]}.",
    ]
