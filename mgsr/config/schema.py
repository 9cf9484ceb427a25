"""The configuration: one pydantic model. Defaults here are the ones of the paper where it states them.

A preset (workflow/presets) fills `Config`; a method (workflow/methods) is an overlay on `Method`. Whatever a run depends on
ends in a `RunSpec`, which lies beside its result.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mgsr.config.base import Strict
from mgsr.config.families import Family, HubModel, ModelConfig, TinyModel
from mgsr.config.measurement import EvaluationConfig, ExposureConfig, ProbeConfig
from mgsr.config.method import TrainingConfig
from mgsr.config.record_sets import DataConfig


class TrackingConfig(Strict):
    """MLflow."""

    uri: str | None = Field(None, description="null: sqlite file in the results folder")
    experiment: str = Field("mgsr", min_length=1, description="name of the experiment")


class Overlay(Strict):
    """States only what differs, for the named methods and families (empty: all of them)."""

    methods: tuple[str, ...] = Field((), description="names of methods")
    except_methods: tuple[str, ...] = Field((), description="methods it does not apply to")
    families: tuple[str, ...] = Field((), description="families of a preset")
    set: dict[str, Any] = Field(description="keys of a method: start, sequences, objective, training")


class Checkpoint(Strict):
    """A model that is scored and never trained: a released one, or your own. A row of Table 1."""

    title: str = Field(description="as tables print it")
    family: str = Field(description="whose teacher it is compared with")
    model: HubModel = Field(description="its name on the hub, or its folder")


class SmallStudent(Strict):
    """Another student of a family's teacher, for the open check `small_students`."""

    family: str = Field(description="whose teacher and settings it has")
    student: ModelConfig = Field(description="its base model")


TableName = Literal["table1", "table2", "table3a", "table3b", "table3c", "table4a", "table4b", "table4c"]
CheckName = Literal["injected_errors", "clipping_range", "span_priors", "sensitivity", "diversity", "small_students"]


class Config(Strict):
    """What `snakemake --config` and the preset files set."""

    preset: str = Field(description="a file of workflow/presets; `paper` where none is given")
    recipe: str = Field("controlled", description="a file of workflow/recipes: `controlled` gives every method equal terms")
    results: str = Field("results", description="folder of all outputs")
    threads: int = Field(1, ge=1, description="CPU threads of a training or evaluation job; part of a run's identity")
    processes: int = Field(1, ge=1, description="processes of a training job, one GPU each where there are GPUs")
    needs_gpu: bool = Field(False, description="the preflight asks for a GPU, and jobs take one each")
    data: DataConfig = Field(description="records; `source` and `data_dir` may also stand at the top")
    families: dict[str, Family] = Field(min_length=1, description="teacher and student by name")
    training: TrainingConfig = Field(description="of every run; methods and recipes state what differs")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="decoding and scoring")
    training_seeds: tuple[int, ...] = Field((10,), min_length=1, description="each student is trained once a seed")
    exposure: ExposureConfig = Field(ExposureConfig(), description="ExAccErr, Table 4a")
    probe: ProbeConfig = Field(ProbeConfig(), description="open checks that train nothing")
    tables: dict[TableName, tuple[str, ...]] = Field(
        min_length=1, description="the methods of each table, in order; workflow/tables.yaml has them for every preset"
    )
    default_targets: tuple[TableName | Literal["claims", "open_checks"], ...] = Field(
        min_length=1, description="what target `all` makes, and its report and MLflow store show; at least one table"
    )
    methods: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="small variants, and methods of your own; each is what a file of workflow/methods holds",
    )
    extra_rows: dict[TableName, tuple[str, ...]] = Field(
        default_factory=dict, description="methods added below a table's own rows; yours, for example"
    )
    table_families: dict[TableName | CheckName, tuple[str, ...]] = Field(
        default_factory=dict, description="the families of a table or open check; absent: all"
    )
    checks: dict[CheckName, tuple[str, ...]] = Field(
        default_factory=dict,
        description="the methods that each open check compares (`injected_errors`: none); workflow/tables.yaml has them too",
    )
    rows_without_sft: bool | None = Field(
        None,
        description="Table 1 has a second row, of SFT weight 0, for each method with an SFT term; null: as the recipe says",
    )
    twins: tuple[str, ...] = Field(
        (),
        description="methods with SCRG whose twin without it is trained even if no row shows it, so that their cards can tell "
        "whether SCRG hurts (`scrg_hurts`)",
    )
    checkpoints: dict[str, Checkpoint] = Field(default_factory=dict, description="models that are scored and never trained")
    small_students: dict[str, SmallStudent] = Field(default_factory=dict, description="students of the open check of that name")
    other_groups: bool = Field(False, description="also print other groups' numbers beside Table 1 and Table 3c")
    overlays: tuple[Overlay, ...] = Field((), description="applied after the method's own values, before the recipe's overlays")
    tracking: TrackingConfig = Field(TrackingConfig(), description="MLflow")
    note: str = Field("", description="printed under every table")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        rows = [(f"tables.{name}", (*methods, *self.extra_rows.get(name, ()))) for name, methods in self.tables.items()]
        rows += [(f"checks.{name}", methods) for name, methods in self.checks.items() if name != "injected_errors"]
        for key, methods in rows:
            if not methods or len(set(methods)) < len(methods):
                raise ValueError(f"{key} must name at least one method, and each once")
        for key, owners in (("checkpoints", self.checkpoints), ("small_students", self.small_students)):
            for name, owner in owners.items():
                if owner.family not in self.families:
                    raise ValueError(f"{key}.{name}.family: there is no family '{owner.family}'")
        if taken := sorted(set(self.small_students) & set(self.families)):
            raise ValueError(f"small_students: {', '.join(taken)} is a family's name; choose another")
        targets: set[str] = {*self.tables, "claims", "open_checks"}
        for key, given in (("default_targets", self.default_targets), ("extra_rows", self.extra_rows)):
            if absent := [str(name) for name in given if name not in targets]:
                raise ValueError(f"{key} names {', '.join(absent)}, which tables does not define")
        if not set(self.default_targets) & set(self.tables):
            raise ValueError("default_targets names no table; the report needs one")
        for where, families in self.table_families.items():
            if absent := sorted(set(families) - set(self.families)):
                raise ValueError(f"table_families.{where}: there is no family '{absent[0]}'")
        for seeds in (self.training_seeds, self.evaluation.decoding_seeds, self.evaluation.protocols):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{', '.join(map(str, seeds))}: a seed or protocol stands there twice")
        for name, family in self.families.items():
            for model in (family.teacher, family.student):
                if isinstance(model, TinyModel) and model.max_length < self.data.max_length:
                    raise ValueError(
                        f"families.{name}: {model.max_length} positions cannot hold data.max_length {self.data.max_length}"
                    )
        return self
