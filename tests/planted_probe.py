"""A probe.json without models: planted rows, summed up by the probe's own functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mgsr.evaluation.detection import DETECTORS, STARTS
from mgsr.evaluation.injection import ERRORS
from mgsr.evaluation.probe import (
    SOURCES,
    summarise_corpus,
    summarise_correction,
    summarise_detection,
    summarise_diversity,
    summarise_spans,
)
from mgsr.evaluation.span_statistics import PRIORS
from tests.planted_runs import write

PROMPTS = 60
GOOD = "teacher_nll"  # finds a planted error on four prompts of five; all others on one of five, as on the twin
LOST = 0.3  # of the four-grams of a revised rollout, and none of the others', came before


def plant_probe(path: Path) -> Path:
    errors, spans, diversity = [], [], []
    for i in range(PROMPTS):
        category = ("qa", "poem")[i % 2]
        for error in ERRORS:
            hits: dict[str, list[float]] = {name: [float(i % 5 == 0), 0, 0, float(i % 5 == 1), 0, 0] for name in DETECTORS}
            hits[GOOD][0] = float(i % 5 != 0)
            continued = {"kept": [-2.0, 20.0 + i % 3]} | {start: [-1.5, 20.0 + i % 3] for start in STARTS}
            continued["at_error"] = [-1.0, 25.0 + i % 2]
            errors.append({"id": f"dolly-{i}", "error": error, "hits": hits, "continued": continued})
        for source in SOURCES:
            row: dict[str, Any] = {"id": f"dolly-{i}", "source": source, "sample": 0}
            term = {"qa": 0.1, "poem": 0.3}[category] + 0.01 * (i % 7)
            spans.append({**row, "category": category, "tokens": 10, "priors": {prior: [2, 8, 0, term] for prior in PRIORS}})
            repetition = LOST + 0.01 * (i % 3) if source == "scrg" else 0.01 * (i % 2)
            distinct = dict.fromkeys(("distinct_1", "distinct_2", "distinct_4"), 0.5 + 0.1 * (i % 2))
            diversity.append({**row, **distinct, "repetition": repetition, "words": 9.0 + i % 2})
    summary, differences = summarise_diversity(diversity)
    texts = {source: [f"word{i % 7} and more" for i in range(PROMPTS)] for source in SOURCES}
    return write(
        path,
        {
            "schema": 1, "student_run": "s", "teacher_run": "t", "rows": PROMPTS, "samples": 1, "timings": {},
            "injected_errors": {
                "skipped": dict.fromkeys(ERRORS, 3), "detection": summarise_detection(errors),
                "correction": summarise_correction(errors), "rows": errors,
            },
            "spans": {"summary": summarise_spans(spans), "rows": spans},
            "diversity": {
                "summary": summary, "differences": differences, "corpus": summarise_corpus(texts, 1), "rows": diversity,
            },
        },
    )  # fmt: skip


def rate_bounds(values: np.ndarray) -> tuple[float, float]:
    """Normal approximation of a mean's 95 % interval."""
    half = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
    return float(values.mean()) - half, float(values.mean()) + half
