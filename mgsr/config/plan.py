"""From a configuration to the pieces that must exist. Every piece is named by a digest of all that it depends on, so equal
pieces are one piece, and an edit renames exactly what it touches."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgsr.config.identity import code_digest
from mgsr.config.load import load_overlays, resolve_method
from mgsr.config.schema import (
    TEST_SETS,
    Config,
    Custom,
    DataSpec,
    EvaluationSpec,
    Family,
    Method,
    ModelConfig,
    ModelSpec,
    PrunedModel,
    RunSpec,
    Strict,
    TinyModel,
)
from mgsr.errors import MgsrError
from mgsr.plugins import source_digest
from mgsr.storage import digest

STAGES = {  # the modules at which each stage's imports begin
    "data": ("mgsr.data.prepare",),
    "model": ("mgsr.models.build",),
    "train": ("mgsr.training.run",),
    "evaluate": ("mgsr.evaluation.run",),
    "floor": ("mgsr.evaluation.floor",),
    "tables": ("mgsr.tables.main_table", "mgsr.tables.components", "mgsr.tables.paper_tables"),
    "report": ("mgsr.tables.report", "mgsr.tables.paper_tables"),
    "track": ("mgsr.tables.tracking",),
}


def spec_digest(spec: Strict) -> str:
    return digest(spec.model_dump(mode="json"))


def describe(method: Method) -> str:
    """A method's settings in words: a run's title. What tables call the method is no part of the run, so that rows of equal
    settings share one."""
    sequences, objective = method.sequences, method.objective
    share = f" {sequences.student_share:g}" if sequences.policy == "mixed" else ""
    revised = f" with {sequences.scrg.passes} x SCRG" if sequences.scrg else ""
    distillation = objective.distillation.name if objective.distillation is not None and objective.distillation_weight else ""
    terms = ["SFT" if objective.sft_weight else "", distillation, "span" if objective.span_weight else ""]
    start = "" if method.role == "teacher" else f", from {method.start}"
    return f"{method.role}: {sequences.policy}{share}{revised}, {' + '.join(filter(None, terms))}{start}"


def custom_functions(method: Method) -> list[str]:
    """What the method takes from the user's own modules, as `module:name`."""
    distillation = method.objective.distillation
    named = [method.sequences.function, distillation.function if isinstance(distillation, Custom) else None]
    return [name for name in named if name]


def check_batches(method: Method, processes: int, where: str) -> None:
    """What training would refuse later, refused before any job starts."""
    batch, off_policy = method.training.global_batch, method.sequences.off_policy
    if batch % processes:
        raise MgsrError(
            f"{where}: training.global_batch {batch} is not a multiple of {processes} processes; choose one that is"
        )
    if method.sequences.policy == "off_policy" and off_policy.buffer_size < batch:
        raise MgsrError(
            f"{where}: sequences.off_policy.buffer_size {off_policy.buffer_size} is smaller than training.global_batch "
            f"{batch}; make it at least that"
        )


@dataclass(frozen=True)
class Row:
    """One run of one method as a table shows it."""

    family: str
    method: str
    title: str
    role: str
    seed: int
    run: str
    evaluation: str


@dataclass
class Plan:
    """Specs by digest, and the rows of each table."""

    config: Config
    folder: Path
    data: DataSpec
    models: dict[str, ModelSpec] = field(default_factory=dict)
    runs: dict[str, RunSpec] = field(default_factory=dict)
    evaluations: dict[str, EvaluationSpec] = field(default_factory=dict)
    tables: dict[str, list[Row]] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The folder of this preset's results."""
        return Path(self.config.results) / self.config.preset

    def model_source(self, model: str) -> str | None:
        """Digest of the model that a pruned one is made of."""
        config = self.models[model].model
        return self._add_model(config.source, self.models[model].seed) if isinstance(config, PrunedModel) else None

    def cells(self, table: str) -> dict[str, Any]:
        """What a table job reads: the rows, and where each row's card and scores lie."""
        floor = f"{self.root}/evaluations/{self.floor_name()}/summary.json"
        return {
            "table": table,
            "preset": self.config.preset,
            "recipe": self.config.recipe,
            "note": self.config.note,
            "sets": list(TEST_SETS),
            "floor": {name: floor for name in self.config.families},
            "rows": [
                {
                    **vars(row),
                    "card": f"{self.root}/runs/{row.run}/card.json",
                    "evaluation": f"{self.root}/evaluations/{row.evaluation}/summary.json",
                }
                for row in self.tables[table]
            ],
        }

    @property
    def data_name(self) -> str:
        return spec_digest(self.data)

    def run_label(self, run: str) -> str:
        """Whose run it is: family, the titles that tables give it, seed."""
        rows = [row for rows in self.tables.values() for row in rows if row.run == run]
        titles = dict.fromkeys(row.title for row in rows) or [self.runs[run].method.title]
        return f"{self.runs[run].family}, {' / '.join(titles)}, seed {self.runs[run].seed}"

    def floor_name(self) -> str:
        limits = dict(sorted(self.config.data.test_rows.items()))
        return "floor-" + digest([spec_digest(self.data), limits, code_digest(*STAGES["floor"])])

    # -- building ------------------------------------------------------------------------------------------------------

    def _add_model(self, model: ModelConfig, seed: int) -> str:
        seed = seed if isinstance(model, TinyModel) else 0  # only a tiny model is drawn at random
        spec = ModelSpec(model=model, seed=seed, code=code_digest(*STAGES["model"]))
        self.models[spec_digest(spec)] = spec
        if isinstance(model, PrunedModel):
            self._add_model(model.source, seed)
        return spec_digest(spec)

    def _add_run(self, family_name: str, method_name: str, seed: int, overlays: Any) -> tuple[str, Method]:
        family: Family = self.config.families[family_name]
        method = resolve_method(self.folder, self.config, overlays, family_name, method_name)
        check_batches(method, self.config.processes, f"method {method_name} of family {family_name}")
        is_teacher, objective = method.role == "teacher", method.objective
        distils = objective.distillation is not None and objective.distillation_weight > 0
        needs_teacher = not is_teacher and (distils or method.sequences.scrg is not None or objective.span_weight > 0)
        teacher_seed = self.config.training_seeds[0]  # one teacher for all students
        spec = RunSpec(
            family=family_name,
            method=method.model_copy(update={"title": describe(method)}),
            seed=seed,
            data=spec_digest(self.data),
            data_config=self.config.data.model_copy(update={"test_rows": {}}),  # training reads no test set
            max_new_tokens=self.config.evaluation.max_new_tokens,
            validation_protocol=self.config.evaluation.protocols[0],
            base_model=self._add_model(family.teacher if is_teacher else family.student, teacher_seed if is_teacher else seed),
            start_run=self._add_run(family_name, "sft", seed, overlays)[0]
            if method.start == "sft" and not is_teacher
            else None,
            teacher_run=self._add_run(family_name, "teacher", teacher_seed, overlays)[0] if needs_teacher else None,
            lora=family.lora,
            threads=self.config.threads,
            processes=self.config.processes,
            code=code_digest(*STAGES["train"]),
            custom_code=tuple(source_digest(name) for name in custom_functions(method)),
        )
        self.runs[spec_digest(spec)] = spec
        return spec_digest(spec), method

    def _add_row(self, family: str, name: str, seed: int, overlays: Any) -> Row:
        run, method = self._add_run(family, name, seed, overlays)
        teacher = (
            None if method.role == "teacher" else self._add_run(family, "teacher", self.config.training_seeds[0], overlays)[0]
        )
        spec = EvaluationSpec(
            run=run,
            teacher_run=teacher,
            family=family,
            data=spec_digest(self.data),
            data_config=self.config.data,
            evaluation=self.config.evaluation,
            threads=self.config.threads,
            code=code_digest(*STAGES["evaluate"]),
        )
        self.evaluations[spec_digest(spec)] = spec
        return Row(family, name, method.title, method.role, seed, run, spec_digest(spec))


def make_plan(folder: Path, config: Config) -> Plan:
    """All runs, evaluations and table rows of a configuration. `folder` is workflow/."""
    data = config.data
    plan = Plan(
        config,
        folder,
        DataSpec(source=data.source, data_dir=data.data_dir, split=data.split, code=code_digest(*STAGES["data"])),
    )
    overlays = load_overlays(folder, config)
    for table, methods in config.tables.items():
        plan.tables[table] = []
        for family in config.families:
            for name in methods:
                role = resolve_method(folder, config, overlays, family, name).role
                seeds = config.training_seeds[:1] if role == "teacher" else config.training_seeds
                plan.tables[table] += [plan._add_row(family, name, seed, overlays) for seed in seeds]
    return plan
