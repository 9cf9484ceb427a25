"""What lies beside every trained model: what was asked, what happened, and with which versions."""

from __future__ import annotations

import platform
import subprocess
from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from mgsr.config.loss_terms import DacKlConfig
from mgsr.config.run_specs import AdoptSpec, TrainSpec

PACKAGES = ("mgsr", "torch", "transformers", "tokenizers", "peft", "safetensors", "textblob", "numpy")
RECORD = "training.json"
SPIKE_WINDOW, SPIKE_START = 100, 10  # distilling steps that the running median is over, at most and at least


def git_commit() -> str | None:
    """Commit of the checkout that the package lies in, "-dirty" where it was edited; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


class WarningSigns:
    """Watches every optimiser step for signs that a method does not do what its name says. Thresholds: `training.warnings`.

    A step that distilled on nothing has no figure of DAC-KL or the span term, and counts for none of them.
    """

    def __init__(self, spec: TrainSpec) -> None:
        objective = spec.method.objective
        self._limits = spec.method.training.warnings
        self._weights = {
            "sft": objective.sft_weight,
            "distillation": objective.distillation_weight,
            "span": objective.span_weight,
        }
        clipping = objective.distillation
        self._has_band = isinstance(clipping, DacKlConfig) and clipping.parts != "target_only"
        self._recent: deque[float] = deque(maxlen=SPIKE_WINDOW)  # values of DAC-KL
        self._counts: Counter[str] = Counter()
        self._worst_spike = (0.0, 0)  # times the median, step
        self._span_row = 0  # steps in a row, up to now, in which the span term dominated
        self._longest_span_row = (0, 0)  # their number, last step

    def on_step(self, step: int, figures: Mapping[str, Any]) -> None:
        """Take the figures of optimiser step `step`, as metrics.jsonl has them."""
        if "band/collapsed" in figures:
            # without what `mass_floor` adds, which trains the clipping network alone
            self._watch_dac_kl(step, figures["distillation"] - figures.get("band/penalty", 0.0))
            self._count("collapsed", "bands", self._has_band and figures["band/collapsed"] >= self._limits.collapsed_share)
        if "clip_network_gradient_norm" in figures:
            self._count("untrained", "norms", figures["clip_network_gradient_norm"] < self._limits.untrained_norm)
        if "teacher_text_gold" in figures:
            self._count("gold", "teacher_texts", figures["teacher_text_gold"] == 1)
        if "span" in figures:
            terms = {name: abs(weight * figures[name]) for name, weight in self._weights.items() if name in figures}
            dominates = terms["span"] > self._limits.span_share * sum(terms.values())
            self._span_row = self._span_row + 1 if dominates else 0
            self._longest_span_row = max(self._longest_span_row, (self._span_row, step))

    def _count(self, sign: str, all_: str, seen: bool) -> None:
        self._counts[sign] += seen
        self._counts[all_] += 1

    def _watch_dac_kl(self, step: int, value: float) -> None:
        if len(self._recent) >= SPIKE_START and (middle := median(self._recent)) > 0:
            times = value / middle
            self._counts["spikes"] += times > self._limits.spike_factor
            self._worst_spike = max(self._worst_spike, (times, step))
        self._recent.append(value)

    def warnings(self, student_share: float | None) -> list[dict[str, str]]:
        """Name and message of each sign seen. `student_share`: share of steps on student text; None where none is wanted."""
        limits, counts, signs = self._limits, self._counts, dict[str, str]()
        if student_share == 0:
            signs["no_student_text"] = "no step used a student-generated sequence"
        if counts["spikes"]:
            signs["dac_kl_spikes"] = (
                f"DAC-KL rose above {limits.spike_factor:g} times its running median in {counts['spikes']} of "
                f"{counts['bands']} steps, the highest at {self._worst_spike[0]:.3g} times (step {self._worst_spike[1]})"
            )
        if counts["collapsed"] >= limits.steps_share * counts["bands"] > 0:
            signs["band_collapsed"] = (
                f"at most one class was kept on {limits.collapsed_share:.0%} of positions "
                f"in {counts['collapsed']} of {counts['bands']} steps"
            )
        if counts["untrained"] >= limits.steps_share * counts["norms"] > 0:
            signs["clip_network_untrained"] = (
                f"DAC-KL's clipping network had a gradient below {limits.untrained_norm:g} "
                f"in {counts['untrained']} of {counts['norms']} steps"
            )
        row, end = self._longest_span_row
        if row >= limits.span_steps:
            share = f"{limits.span_share:.0%} of the loss"
            signs["span_dominates"] = f"the span term was above {share} in {row} steps in a row, up to step {end}"
        if counts["gold"] == counts["teacher_texts"] > 0:
            signs["teacher_text_is_gold"] = f"in all {counts['gold']} steps the teacher's texts equal the data set's responses"
        return [{"name": name, "message": message} for name, message in signs.items()]

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values; `load_state_dict` continues exactly from there."""
        return {
            "recent": list(self._recent),
            "counts": dict(self._counts),
            "worst_spike": self._worst_spike,
            "span": [self._span_row, *self._longest_span_row],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._recent = deque(state["recent"], maxlen=SPIKE_WINDOW)
        self._counts = Counter(state["counts"])
        self._worst_spike = (state["worst_spike"][0], state["worst_spike"][1])
        self._span_row, *longest = state["span"]
        self._longest_span_row = (longest[0], longest[1])


def make_record(run: str, spec: TrainSpec | AdoptSpec, **facts: Any) -> dict[str, Any]:
    """What `RECORD` beside a model holds: the fields of every run, and the `facts` of this one. A run's card is made of it
    (mgsr/tables/card.py)."""
    return {
        "schema": 1,
        "run": run,
        "family": spec.family,
        "method": spec.title,
        "seed": spec.seed,
        "precision": spec.precision,
        "spec": spec.model_dump(mode="json"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "commit": git_commit(),
        "candidates": [],
        **facts,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
