"""Metrics: functions of an answer and its references that give a number. ROUGE-L, and the user's own (docs/own_method.md)."""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path

from mgsr.errors import MgsrError
from mgsr.plugins import load_custom
from mgsr.rouge import rouge_l

Metric = Callable[[str, Sequence[str]], float]
BUILT_IN: dict[str, Metric] = {"rouge_l": rouge_l}


def load_metrics(names: Sequence[str]) -> dict[str, Metric]:
    """By name, in order. A name that is not built in is `module:name`, a function of the user's own.

    Raises MgsrError where there is no such function, or it does not take an answer and its references.
    """
    metrics = {}
    for name in names:
        metric = BUILT_IN[name] if name in BUILT_IN else load_custom(name)
        try:
            inspect.signature(metric).bind("", ())
        except (TypeError, ValueError) as error:
            raise MgsrError(f"metric '{name}' must be a function of (answer, references): {error}") from None
        metrics[name] = metric
    return metrics


def score(metrics: Mapping[str, Metric], answer: str, references: Sequence[str], where: str) -> dict[str, float]:
    """Each metric's number for one answer. `where` tells in messages which set and example the answer belongs to.

    Raises MgsrError where a metric fails, or gives something else than a finite number.
    """
    scores: dict[str, float] = {}
    for name, metric in metrics.items():
        try:
            value = metric(answer, references)
            number = float(value) if isinstance(value, Real) else math.nan
        except Exception as error:
            raise MgsrError(f"metric '{name}', {where}: {type(error).__name__}: {error}{_place(error)}") from error
        if not math.isfinite(number):
            raise MgsrError(f"metric '{name}', {where}: it gave {value!r:.80}, which is no finite number")
        scores[name] = number
    return scores


def _place(error: Exception) -> str:
    """The line of the metric's file at which it failed. Frames of the libraries that it called would not help the user."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first frame is this module's
    lines = [frame.lineno for frame in frames if frame.filename == frames[0].filename]
    return f" ({Path(frames[0].filename).name}, line {lines[-1]})" if lines else ""
