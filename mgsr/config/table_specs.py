"""What a table, an open check, the claims, a page or a card is made of: `plan/<name>.json`.

Apart from the specs of results, so that an edit here renames no result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from mgsr.config.base import Strict
from mgsr.config.specs import Spec, parse_spec
from mgsr.config.table_entries import TableKind, TrackingConfig


class CardSpec(Strict):
    """All that a run's card depends on."""

    run: str
    twin: str | None = Field(description="digest of the run that differs in SCRG alone; null: there is none")
    code: str


class RowSpec(Strict):
    """One run of one method as a table shows it; its results are found by digest."""

    family: str
    method: str
    title: str
    role: Literal["student", "teacher", "checkpoint"]
    seed: int
    run: str
    evaluation: str
    exposure: str | None = Field(None, description="digest of its ExAccErr, in tables that show it")


class _Headed(Strict):
    """What tables, open checks and claims have in common."""

    name: str
    preset: str
    recipe: str
    note: str
    code: str


class _Shown(_Headed):
    """What tables and open checks have in common."""

    test_sets: dict[str, str] = Field(description="title by name, in the order of the columns")
    metrics: tuple[str, ...] = Field(description="the first one ranks")
    rows: tuple[RowSpec, ...]


class TableSpec(_Shown):
    """All that a table depends on."""

    kind: TableKind
    title: str
    floors: dict[str, str] = Field(description="digest of the FloorSpec by family")
    columns: tuple[str, ...] = Field(description="of kind `ablation`: test sets, `average`, `dolly_validation`")
    components: bool = Field(description="of kind `ablation`: columns that say which of MGSR's parts a row has")
    reference: str = Field(description="of kind `ablation`: the method that the others are compared with")
    other_groups: bool


class CheckSpec(_Shown):
    """All that an open check depends on."""

    probes: dict[str, str] = Field(description="digest of the ProbeSpec by family, in checks that read it")


class ClaimsSpec(_Headed):
    """All that the claims' verdicts depend on."""

    tables: tuple[TableSpec, ...]


class PageSpec(Strict):
    """All that a report, and the MLflow store of the same scope, depend on."""

    name: Literal["report", "everything"]
    tables: tuple[TableSpec, ...]
    claims: ClaimsSpec | None
    checks: tuple[CheckSpec, ...]
    tracking: TrackingConfig
    code: str


def read_plan(root: Path, name: str, kind: type[Spec]) -> Spec:
    """What `name` is made of, from `ROOT/plan/<name>.json`. Raises MgsrError where it is missing or is no `kind`."""
    return parse_spec(root / "plan" / f"{name}.json", kind)
