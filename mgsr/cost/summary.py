"""What `mgsr plan` prints, and the paragraph before a run."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from mgsr.config.plan import Plan
from mgsr.config.run_specs import SelectSpec, TrainSpec
from mgsr.cost.assumptions import assumptions
from mgsr.cost.jobs import Jobs, missing_of, needed
from mgsr.cost.memory import REMEDIES, FamilyMemory
from mgsr.cost.work import HOST_ONLY, Work
from mgsr.preflight import needed_gib
from mgsr.tables.columns import aligned


def paragraph(plan: Plan, asked: Container[str], device: str) -> str:
    """One paragraph about the jobs that a run makes. `asked`: the names of what they make."""
    jobs = {kind: made for kind, names in needed(plan, "everything").items() if (made := [n for n in names if n in asked])}
    count = sum(map(len, jobs.values()))
    kinds = ", ".join(f"{len(names):,} {kind}" for kind, names in jobs.items())
    work = Work(plan, assumptions().device(device))
    text = f"mgsr: {count:,} jobs ({kinds}), beside pages. {_rows(work)}"
    if plan.config.needs_gpu:
        hours = sum(work.seconds(jobs).values()) / 3600
        text += f" About {hours:,.0f} GPU-hours at the stated rates of {device}; `mgsr plan` tells what they are made of."
    return text


def full_text(plan: Plan, target: str, device: str, memory: Iterable[FamilyMemory]) -> str:
    """Jobs, GPU-hours, peak memory, disk, and what was assumed."""
    work = Work(plan, assumptions().device(device))
    jobs = needed(plan, target)
    lacking = missing_of(plan, jobs)
    config = plan.config
    longest = sum(Work(plan, work.device, longest=True).seconds(jobs).values())
    parts = [
        f"preset {config.preset}, scale {config.scale}, recipe {config.recipe}, target {target}, on {device}",
        f"{_rows(work)} {_steps(work, jobs)}",
        _jobs_table(work, jobs, lacking),
        f"If every prompt and response were as long as it may be: {_hours(longest)} GPU-hours. The longest chain of jobs that "
        f"wait for one another: {_hours(work.longest_chain(jobs))} hours on any number of devices.",
        _family_table(work, jobs),
    ]
    if memory := list(memory):
        parts.append(_memory_table(memory, device))
    to_run = [name for kind in ("train", "adopt", "select") for name in lacking.get(kind, [])]
    disk = needed_gib(plan, lacking.get("build-model", []), to_run)
    parts.append(f"Disk: {disk:,} GiB for what does not exist yet, in {plan.root}.")
    return "\n\n".join([*parts, "Assumed: " + "; ".join(_assumed(work)) + "."])


def _rows(work: Work) -> str:
    known = "counted" if work.rows_are_counted else "assumed until they are prepared"
    return f"Training rows: {work.train_rows:,} ({known}; those whose prompt is too long for a family take no part)."


def _steps(work: Work, jobs: Jobs) -> str:
    steps: dict[int, str] = {}
    for name in jobs.get("train", []):
        spec = work.plan.runs[name]
        assert isinstance(spec, TrainSpec)
        stated = spec.method.training.steps
        steps[work.steps(spec)] = "stated" if isinstance(stated, int) else f"{stated.epochs:g} epochs"
    return "Steps of a run: " + ", ".join(f"{count:,} ({why})" for count, why in sorted(steps.items())) + "."


def _jobs_table(work: Work, jobs: Jobs, lacking: Jobs) -> str:
    all_seconds, to_do = work.seconds(jobs), work.seconds(lacking)
    rows = [
        [kind, f"{len(names):,}", f"{len(names) - len(lacking.get(kind, [])):,}"]
        + [_hours(seconds.get(kind, 0.0)) if kind not in HOST_ONLY else "" for seconds in (all_seconds, to_do)]
        for kind, names in jobs.items()
    ]
    total = ["all", f"{sum(map(len, jobs.values())):,}", f"{sum(map(len, jobs.values())) - sum(map(len, lacking.values())):,}"]
    rows.append(total + [_hours(sum(seconds.values())) for seconds in (all_seconds, to_do)])
    return aligned(["jobs", "number", "exist", "GPU-hours", "to do"], rows)


def _family_table(work: Work, jobs: Jobs) -> str:
    """GPU-hours by family, and those of its longest run."""
    plan = work.plan
    families = {"train": {name: spec.family for name, spec in plan.runs.items()}}
    families["evaluate"] = {name: spec.family for name, spec in plan.evaluations.items()}
    families["exposure"] = {name: plan.runs[spec.run].family for name, spec in plan.exposures.items()}
    rows = []
    for family in dict.fromkeys(families["train"].values()):
        seconds = {
            kind: [work.of(kind, name) for name in jobs.get(kind, []) if family_of[name] == family]
            for kind, family_of in families.items()
        }
        if seconds["train"]:
            sums = [_hours(sum(each)) for each in seconds.values()]
            rows.append([family, f"{len(seconds['train']):,}", *sums, _hours(max(seconds["train"]))])
    return aligned(["GPU-hours by family", "runs", *families, "longest run"], rows)


def _memory_table(memory: Sequence[FamilyMemory], device: str) -> str:
    limit = assumptions().device(device).memory_gib
    kinds = list(dict.fromkeys(kind for family in memory for kind in family.gib))
    rows = [
        [family.family, *(_marked(family.gib[kind], limit) if kind in family.gib else "" for kind in kinds)]
        for family in memory
    ]
    lines = [aligned([f"peak GiB of {limit:g}", *kinds], rows)]
    for kind in kinds:
        if over := [family.family for family in memory if family.gib.get(kind, 0.0) > limit]:
            lines.append(f"! does not fit: {kind} of {', '.join(over)}; {REMEDIES[kind]}")
    return "\n".join(lines)


def _marked(gib: float, limit: float) -> str:
    return f"{gib:,.1f}{' !' if gib > limit else ''}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f}"


def _assumed(work: Work) -> list[str]:
    values = assumptions()
    rates, records = values.rates, values.records
    for spec in work.plan.runs.values():
        if not isinstance(spec, SelectSpec):
            work.shapes.of(spec.base_model)
    said = [
        f"one process for each run; {rates.utilisation:.0%} of the peak FLOP/s, {rates.bandwidth_share:.0%} of the bandwidth",
        f"{records.prompt:g} tokens a prompt, {records.response:g} a reference, {records.written:g} a sampled response",
        "sizes of models that are not built yet are those of mgsr/cost/shapes.yaml",
    ]
    return [*said, *work.shapes.assumed.values()]
