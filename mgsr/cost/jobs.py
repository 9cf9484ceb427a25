"""Which jobs a target needs, and which of their results exist. No torch."""

from __future__ import annotations

from collections.abc import Iterable

from mgsr.config.base import nearest
from mgsr.config.plan import Plan
from mgsr.config.run_specs import AdoptSpec, SelectSpec
from mgsr.config.specs import spec_digest
from mgsr.config.stages import STAGES
from mgsr.config.table_specs import CheckSpec, TableSpec
from mgsr.errors import MgsrError
from mgsr.storage import CHECKSUMS

Jobs = dict[str, list[str]]  # names of what is made, by kind of job; a kind's name is its stage's


def needed(plan: Plan, target: str) -> Jobs:
    """All jobs of a target, whether or not their results exist: `all`, `everything`, `claims`, `open_checks`, or the name of a
    table or check. Raises MgsrError for another name."""
    found: dict[str, set[str]] = {kind: set() for kind in FILES}
    for shown in _shown(plan, target):
        found["open-check" if isinstance(shown, CheckSpec) else "table"].add(shown.name)
        for row in shown.rows:
            _add_evaluation(plan, row.evaluation, found)
            _add_run(plan, plan.twins.get(row.run), found)
            found["card"].add(row.run)
            if row.exposure:
                spec = plan.exposures[row.exposure]
                found["exposure"].add(row.exposure)
                found["sample-teacher"].add(spec.samples)
        if isinstance(shown, TableSpec):
            found["floor"] |= set(shown.floors.values())
        if isinstance(shown, CheckSpec):
            for probe in shown.probes.values():
                found["probe"].add(probe)
                _add_run(plan, plan.probes[probe].student_run, found)
                _add_run(plan, plan.probes[probe].teacher_run, found)
    found["prepare-data"].add(plan.data_name)
    found["prepare-test-set"] |= {spec_digest(spec) for spec in plan.test_sets.values()}
    return {kind: sorted(names) for kind, names in found.items() if names}


def missing_of(plan: Plan, jobs: Jobs) -> Jobs:
    """Those whose result does not exist."""
    lacking = {
        kind: [name for name in names if not (plan.root / FILES[kind].format(name)).exists()] for kind, names in jobs.items()
    }
    return {kind: names for kind, names in lacking.items() if names}


def digests(jobs: Jobs) -> set[str]:
    return {name for names in jobs.values() for name in names}


FILES = {"card": "runs/{}/card.json", "table": "tables/{}.md", "open-check": "open_checks/{}.md"}
FILES |= {kind: f"{stage.makes}/{{}}/{CHECKSUMS}" for kind, stage in STAGES.items() if stage.makes}


def _shown(plan: Plan, target: str) -> Iterable[TableSpec | CheckSpec]:
    parts: dict[str, TableSpec | CheckSpec] = {**plan.tables, **plan.checks}
    if target in ("all", "everything"):
        page = plan.page("report" if target == "all" else "everything")
        return [*page.tables, *(page.claims.tables if page.claims else ()), *page.checks]
    groups: dict[str, list[TableSpec | CheckSpec]] = {"claims": [*plan.tables.values()], "open_checks": [*plan.checks.values()]}
    if target not in parts and target not in groups:
        raise MgsrError(f"--target {target}: no such target; {nearest(target, ['all', 'everything', *groups, *parts])}")
    return groups[target] if target in groups else [parts[target]]


def _add_run(plan: Plan, name: str | None, found: dict[str, set[str]]) -> None:
    if name is None or name in found["train"] | found["select"] | found["adopt"]:
        return
    spec = plan.runs[name]
    found[spec.kind].add(name)
    if isinstance(spec, SelectSpec):
        for candidate in spec.candidates:
            _add_run(plan, candidate, found)
        return
    _add_model(plan, spec.base_model, found)
    _add_run(plan, spec.teacher_run, found)
    if not isinstance(spec, AdoptSpec):
        _add_run(plan, spec.start_run, found)


def _add_model(plan: Plan, name: str | None, found: dict[str, set[str]]) -> None:
    if name is not None:
        found["build-model"].add(name)
        _add_model(plan, plan.models[name].source, found)


def _add_evaluation(plan: Plan, name: str, found: dict[str, set[str]]) -> None:
    found["evaluate"].add(name)
    _add_run(plan, plan.evaluations[name].run, found)
    _add_run(plan, plan.evaluations[name].teacher_run, found)
