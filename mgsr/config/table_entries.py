"""What is shown, as data: tables and open checks are entries of workflow/tables.yaml, or of an overlay."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mgsr.config.base import Strict, Unique, each_once

TableKind = Literal["main", "ablation", "exposure", "efficiency"]
CheckName = Literal["injected_errors", "clipping_range", "span_priors", "sensitivity", "diversity", "small_students"]
AVERAGE, VALIDATION = "average", "dolly_validation"  # columns of an ablation table that are no test set


class TableEntry(Strict):
    """A table: what kind it is, and the methods that are its rows."""

    kind: TableKind = Field(
        description="`main`: methods by test sets, with checks; `ablation`: variants beside a `reference`; "
        "`exposure`: exposure bias; `efficiency`: speed, shares of time, memory"
    )
    title: str = Field(min_length=1, description="as the table prints it")
    rows: tuple[str, ...] = Field(min_length=1, description="names of methods, in order")
    extra_rows: tuple[str, ...] = Field((), description="methods added below; an overlay states yours here")
    columns: tuple[str, ...] = Field(
        (), description="kind `ablation`: test sets, `average`, `dolly_validation`; empty: the average alone"
    )
    components: bool = Field(False, description="kind `ablation`: columns that say which of MGSR's parts a row has")
    reference: str = Field("mgsr", description="kind `ablation`: the method that the others are compared with")
    families: tuple[str, ...] = Field((), description="of the configuration; empty: all")

    @model_validator(mode="after")
    def _rows_differ(self) -> Self:
        each_once(self.methods)
        return self

    @property
    def methods(self) -> tuple[str, ...]:
        """All rows, in order."""
        return self.rows + self.extra_rows


class CheckEntry(Strict):
    """What an open check looks at: methods that it compares, the probe of a family's models, or both."""

    rows: Annotated[tuple[str, ...], Unique] = Field((), description="names of methods, in order")
    probe: bool = Field(False, description="also read what the probe of each teacher and its SFT student found")
    small_students: bool = Field(False, description="also compare the methods of each family's `small_students`")
    families: tuple[str, ...] = Field((), description="of the configuration; empty: all")

    @model_validator(mode="after")
    def _looks_at_something(self) -> Self:
        if not (self.rows or self.probe):
            raise ValueError("`rows` names no method; give it at least one")
        return self


class TrackingConfig(Strict):
    """MLflow."""

    uri: str | None = Field(None, description="null: sqlite file in the results folder")
    experiment: str = Field("mgsr", min_length=1, description="name of the experiment")
