"""Which of a plan's jobs are the largest of their kind in each family, and their peak memory. Torch is imported when the peaks
are asked for, as it takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mgsr.config.loss_terms import DacKlConfig
from mgsr.config.plan import Plan
from mgsr.config.run_specs import SelectSpec, TrainSpec
from mgsr.cost.assumptions import assumptions
from mgsr.cost.jobs import Jobs
from mgsr.cost.shapes import Shapes

REMEDIES = {
    "teacher training": "lower training.micro_batch for the method teacher, or take processes or devices with more memory",
    "training": "lower training.micro_batch, which changes no result without dropout",
    "validation": "lower training.rollout_batch",
    "collection": "lower training.rollout_batch for minillm",
    "evaluation": "lower evaluation.batch",
    "exposure": "lower evaluation.batch",
}


@dataclass(frozen=True)
class FamilyMemory:
    """Peak GiB of a family's jobs by kind of work, reserve included."""

    family: str
    gib: dict[str, float]


def peak_memory_of(plan: Plan, jobs: Jobs, progress: Callable[[str], None] = lambda _: None) -> Iterator[FamilyMemory]:
    """The peaks of each family (and small student) that the jobs train. `progress` is told what is being counted."""
    from mgsr.cost.peaks import evaluation_peak, exposure_peak, training_peaks

    shapes, precision = Shapes(plan), plan.config.training.precision

    def values(run: str) -> dict[str, object]:
        spec = plan.runs[run]
        return values(spec.candidates[0]) if isinstance(spec, SelectSpec) else shapes.of(spec.base_model).values

    runs: dict[str, list[TrainSpec]] = {}
    for name in jobs.get("train", []):
        spec = plan.runs[name]
        assert isinstance(spec, TrainSpec)
        runs.setdefault(spec.family, []).append(spec)
    for family, specs in runs.items():
        peaks: dict[str, int] = {}

        def note(kind: str, peak: int, peaks: dict[str, int] = peaks) -> None:
            peaks[kind] = max(peaks.get(kind, 0), peak)

        for kind, spec in _largest(specs).items():
            progress(f"{family}: {kind}")
            teacher = values(spec.teacher_run) if spec.teacher_run else None
            for work, peak in training_peaks(shapes.of(spec.base_model).values, teacher, spec).items():
                note(kind if work == "training" else work, peak)
        evaluations = [plan.evaluations[name] for name in jobs.get("evaluate", []) if plan.evaluations[name].family == family]
        for of_teacher in (False, True):
            for evaluation in [spec for spec in evaluations if (spec.teacher_run is None) is of_teacher][:1]:
                progress(f"{family}: evaluation")
                teacher = values(evaluation.teacher_run) if evaluation.teacher_run else None
                note("evaluation", evaluation_peak(values(evaluation.run), teacher, evaluation, precision))
        exposures = [plan.exposures[name] for name in jobs.get("exposure", [])]
        for exposure in [spec for spec in exposures if plan.runs[spec.run].family == family][:1]:
            progress(f"{family}: exposure")
            note("exposure", exposure_peak(values(exposure.run), values(exposure.teacher_run), exposure, precision))
        yield FamilyMemory(family, {kind: _gib(peaks[kind]) for kind in REMEDIES if kind in peaks})


def _largest(specs: list[TrainSpec]) -> dict[str, TrainSpec]:
    """The teacher's run, that with most terms and models among the students', and one with collections."""

    def size(spec: TrainSpec) -> tuple[bool, ...]:
        objective = spec.method.objective
        learned = isinstance(objective.distillation, DacKlConfig) and objective.distillation.thresholds == "learned"
        parts = spec.teacher_run, spec.method.sequences.scrg, objective.sft_weight, objective.span_weight, learned
        return tuple(map(bool, parts))

    students = [spec for spec in specs if spec.method.role == "student" and spec.method.sequences.policy != "collection"]
    chosen = {
        "teacher training": [spec for spec in specs if spec.method.role == "teacher"][:1],
        "training": sorted(students, key=size)[-1:],
        "collection": [spec for spec in specs if spec.method.sequences.policy == "collection"][:1],
    }
    return {kind: found[0] for kind, found in chosen.items() if found}


def _gib(peak: int) -> float:
    margin = assumptions().memory
    return peak * (1 + margin.fragments) / 2**30 + margin.reserve_gib
