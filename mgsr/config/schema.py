"""The configuration: one pydantic model. Defaults here are the ones of the paper where it states them.

A preset (workflow/presets) fills `Config`; a method (workflow/methods) is an overlay on `Method`. Whatever a run depends on
ends in a spec (mgsr/config/specs.py), which lies beside its result.
"""

from __future__ import annotations

from typing import Annotated, Any, Self, get_args

from pydantic import Field, model_validator

from mgsr.config.base import IN_DOMAIN, Strict, Unique, all_known
from mgsr.config.families import Family, HubModel, ModelConfig, TinyModel
from mgsr.config.measurement import EvaluationConfig, ExposureConfig, ProbeConfig
from mgsr.config.method import TrainingConfig
from mgsr.config.record_sets import DataConfig
from mgsr.config.table_entries import AVERAGE, VALIDATION, CheckEntry, CheckName, TableEntry, TrackingConfig

ROUGE_L = "rouge_l"
OTHER_TARGETS = ("all", "everything", "data", "claims", "open_checks", "report", "mlflow")  # beside the tables
TargetName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Overlay(Strict):
    """States only what differs, for the named methods and families (empty: all of them)."""

    methods: tuple[str, ...] = Field((), description="names of methods")
    except_methods: tuple[str, ...] = Field((), description="methods it does not apply to")
    families: tuple[str, ...] = Field((), description="families of a preset")
    set: dict[str, Any] = Field(description="keys of a method: start, sequences, objective, training")


class Recipe(Strict):
    """A file of workflow/recipes: the terms on which methods are compared."""

    presets: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="by preset, keys of `Config` that take the place of the preset's own"
    )
    overlays: tuple[Overlay, ...] = Field(description="applied after the preset's, before a user's own")
    rows_without_sft: bool = Field(False, description="tables of kind `main` have second rows, of SFT weight 0")


class Checkpoint(Strict):
    """A model that is scored and never trained: a released one, or your own. A row of Table 1."""

    title: str = Field(description="as tables print it")
    family: str = Field(description="whose teacher it is compared with")
    model: HubModel = Field(description="its name on the hub, or its folder")


class SmallStudent(Strict):
    """Another student of a family's teacher, for the open check `small_students`."""

    family: str = Field(description="whose teacher and settings it has")
    student: ModelConfig = Field(description="its base model")


class Config(Strict):
    """What `snakemake --config` and the preset files set."""

    preset: str = Field(description="a file of workflow/presets; `paper` where none is given")
    recipe: str = Field("controlled", description="a file of workflow/recipes: `controlled` gives every method equal terms")
    scale: str = Field(
        "paper", description="a file of workflow/scales: how much of preset `paper` is made; docs/cost.md has the hours of each"
    )
    results: str = Field("results", description="folder of all outputs")
    threads: int = Field(1, ge=1, description="CPU threads of a training or evaluation job; part of a run's identity")
    processes: int = Field(1, ge=1, description="processes of a training job, one GPU each where there are GPUs")
    needs_gpu: bool = Field(False, description="the preflight asks for a GPU, and jobs take one each")
    disk_gib: int | None = Field(
        None, ge=0, description="free disk space that the preflight asks for, in GiB; null: counted from the models and runs"
    )
    data: DataConfig = Field(description="records; `source` and `data_dir` may also stand at the top")
    families: dict[str, Family] = Field(min_length=1, description="teacher and student by name")
    training: TrainingConfig = Field(description="of every run; methods and recipes state what differs")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="decoding and scoring")
    metrics: Annotated[tuple[str, ...], Unique] = Field(
        (ROUGE_L,),
        description="what answers are scored by: `rouge_l`, which comes first, selects and ranks, and functions of your own, "
        "`module:function`; see docs/own_method.md",
    )
    training_seeds: Annotated[tuple[int, ...], Unique] = Field(
        (10,), min_length=1, description="each student is trained once a seed"
    )
    exposure: ExposureConfig = Field(ExposureConfig(), description="ExAccErr, Table 4a")
    probe: ProbeConfig = Field(ProbeConfig(), description="open checks that train nothing")
    tables: dict[TargetName, TableEntry] = Field(
        min_length=1, description="tables by name, which is also the target's; workflow/tables.yaml has the paper's"
    )
    checks: dict[CheckName, CheckEntry] = Field(
        default_factory=dict, description="the methods that each open check compares; workflow/tables.yaml has them"
    )
    default_targets: tuple[str, ...] = Field(
        min_length=1,
        description="what target `all` makes, and its report and MLflow store show: a table at least, `claims`, `open_checks`",
    )
    methods: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="small variants, and methods of your own; each is what a file of workflow/methods holds",
    )
    rows_without_sft: bool | None = Field(
        None,
        description="tables of kind `main` have a second row, of SFT weight 0, for each method with an SFT term; null: the "
        "recipe decides",
    )
    twins: tuple[str, ...] = Field(
        (),
        description="methods with SCRG whose twin without it is trained even if no row shows it, so that their cards can tell "
        "whether SCRG hurts (`scrg_hurts`)",
    )
    checkpoints: dict[str, Checkpoint] = Field(default_factory=dict, description="models that are scored and never trained")
    small_students: dict[str, SmallStudent] = Field(default_factory=dict, description="students of the open check of that name")
    other_groups: bool = Field(False, description="also print other groups' numbers beside Table 1 and Table 3c")
    preset_overlays: tuple[Overlay, ...] = Field(
        (), description="a preset's: applied after the method's own values, before the recipe's overlays"
    )
    overlays: tuple[Overlay, ...] = Field((), description="your own: applied last, so that they can state every setting")
    tracking: TrackingConfig = Field(TrackingConfig(), description="MLflow")
    note: str = Field("", description="printed under every table")

    @model_validator(mode="after")
    def _targets_fit(self) -> Self:
        taken = {*OTHER_TARGETS, *get_args(CheckName)} & set(self.tables)
        if taken:
            raise ValueError(f"tables.{min(taken)}: a target or open check has that name; choose another")
        shown = (*self.tables, "claims", "open_checks")
        all_known("default_targets", "target", self.default_targets, shown)
        if not set(self.default_targets) & set(self.tables):
            raise ValueError("default_targets names no table; the report needs one")
        return self

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        for name, table in self.tables.items():
            where = f"tables.{name}"
            all_known(f"{where}.columns", "column", table.columns, (*self.data.test_sets, AVERAGE, VALIDATION))
            all_known(f"{where}.families", "family", table.families, self.families)
            if "reference" in table.model_fields_set:
                all_known(f"{where}.reference", "row", (table.reference,), table.methods)
        for check, entry in self.checks.items():
            all_known(f"checks.{check}.families", "family", entry.families, self.families)
        return self

    @model_validator(mode="after")
    def _measurements_fit(self) -> Self:
        if IN_DOMAIN not in self.data.test_sets:
            raise ValueError(f"data.test_sets: '{IN_DOMAIN}' is missing; held-out KL, exposure bias and the probe need it")
        if reserved := {"train", "validation", AVERAGE, VALIDATION} & set(self.data.test_sets):
            raise ValueError(f"data.test_sets.{min(reserved)}: something else has that name; choose another")
        if self.metrics[:1] != (ROUGE_L,):
            raise ValueError(f"metrics must begin with '{ROUGE_L}', which selects checkpoints and ranks rows")
        all_known("metrics", "metric", [name for name in self.metrics if ":" not in name], (ROUGE_L, "module:function"))
        return self

    @model_validator(mode="after")
    def _models_fit(self) -> Self:
        for name, checkpoint in self.checkpoints.items():
            all_known(f"checkpoints.{name}.family", "family", (checkpoint.family,), self.families)
        for name, student in self.small_students.items():
            all_known(f"small_students.{name}.family", "family", (student.family,), self.families)
            if name in self.families:
                raise ValueError(f"small_students.{name}: a family has that name; choose another")
        for name, family in self.families.items():
            for model in (family.teacher, family.student):
                if isinstance(model, TinyModel) and model.max_length < self.data.max_length:
                    raise ValueError(
                        f"families.{name}: {model.max_length} positions cannot hold data.max_length {self.data.max_length}"
                    )
        return self
