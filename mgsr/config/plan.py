"""From a configuration to the pieces that must exist. Every piece is named by a digest of all that it depends on, so equal
pieces are one piece, and an edit renames exactly what it touches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgsr.config.base import SECOND_ROW, TEST_SETS, Strict
from mgsr.config.families import Family, HubModel, ModelConfig, PrunedModel, TinyModel
from mgsr.config.identity import code_digest
from mgsr.config.load import Methods, load_methods
from mgsr.config.loss_terms import Custom
from mgsr.config.method import Method, TrainingConfig
from mgsr.config.schema import Config, TableName
from mgsr.config.specs import DataSpec, EvaluationSpec, ExposureSpec, ModelSpec, ProbeSpec, RunSpec, SamplesSpec
from mgsr.errors import MgsrError
from mgsr.plugins import source_digest
from mgsr.storage import digest

STAGES = {  # the modules at which each stage's imports begin
    "data": ("mgsr.data.prepare",),
    "model": ("mgsr.models.build",),
    "train": ("mgsr.training.trainer",),
    "adopt": ("mgsr.training.adopt",),
    "select": ("mgsr.training.select",),
    "card": ("mgsr.tables.card",),
    "evaluate": ("mgsr.evaluation.evaluator",),
    "floor": ("mgsr.evaluation.floor",),
    "exposure": ("mgsr.evaluation.exposure",),
    "probe": ("mgsr.evaluation.probe",),
    "tables": ("mgsr.tables.registry", "mgsr.tables.paper_tables"),
    "claims": ("mgsr.tables.claims",),
    "checks": ("mgsr.tables.open_checks",),
    "report": ("mgsr.tables.report", "mgsr.tables.paper_tables"),
    "track": ("mgsr.tables.tracking",),
}
PROBED = ("injected_errors", "span_priors", "diversity")  # open checks that read the probe; the first has no rows


def spec_digest(spec: Strict) -> str:
    return digest(spec.model_dump(mode="json"))


def describe(method: Method) -> str:
    """A method's settings in words: a run's title. What tables call the method is no part of the run, so that rows of equal
    settings share one."""
    sequences, objective = method.sequences, method.objective
    share = f" {sequences.student_share:g}" if sequences.policy == "mixed" else ""
    revised = f" with {sequences.scrg.passes} x SCRG" if sequences.scrg else ""
    distillation = objective.distillation.name if objective.distillation is not None and objective.distils else ""
    terms = ["SFT" if objective.sft_weight else "", distillation, "span" if objective.span_weight else ""]
    start = f", from {method.start}" if method.role == "student" else ""
    return f"{method.role}: {sequences.policy}{share}{revised}, {' + '.join(filter(None, terms))}{start}"


def custom_functions(method: Method) -> list[str]:
    """What the method takes from the user's own modules, as `module:name`."""
    distillation = method.objective.distillation
    named = [method.sequences.function, distillation.function if isinstance(distillation, Custom) else None]
    return [name for name in named if name]


def at_rate(method: Method, rate: float) -> Method:
    """The method at one learning rate of its grid."""
    training = method.training.model_copy(update={"learning_rate": rate, "learning_rates": ()})
    return method.model_copy(update={"training": training})


def without_sft(method: Method) -> Method | None:
    """A method's second row: the same with SFT weight 0. None where there is no such term, or nothing else to learn from."""
    objective = method.objective
    learns = objective.distils or objective.span_weight > 0
    if method.role != "student" or not learns or not objective.sft_weight or method.sequences.dataset_terms == "sft":
        return None
    objective = objective.model_copy(update={"sft_weight": 0.0})
    return method.model_copy(update={"title": f"{method.title}, SFT weight 0", "objective": objective})


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
    """One run of one method as a table shows it. `exposure`: digest of its ExAccErr, where the table shows that."""

    family: str
    method: str
    title: str
    role: str
    seed: int
    run: str
    evaluation: str
    exposure: str | None = None


@dataclass
class Plan:
    """Specs by digest, and the rows of each table and open check."""

    config: Config
    methods: Methods
    data: DataSpec
    models: dict[str, ModelSpec] = field(default_factory=dict)
    runs: dict[str, RunSpec] = field(default_factory=dict)
    evaluations: dict[str, EvaluationSpec] = field(default_factory=dict)
    samples: dict[str, SamplesSpec] = field(default_factory=dict)
    exposures: dict[str, ExposureSpec] = field(default_factory=dict)
    probes: dict[str, ProbeSpec] = field(default_factory=dict)
    probe_of: dict[str, str] = field(default_factory=dict)  # by family
    tables: dict[str, list[Row]] = field(default_factory=dict)
    checks: dict[str, list[Row]] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)  # by run with SCRG, the run that differs in that alone

    @property
    def root(self) -> Path:
        """The folder of this preset's results."""
        return Path(self.config.results) / self.config.preset

    @property
    def data_name(self) -> str:
        return spec_digest(self.data)

    def floor_name(self) -> str:
        limits = dict(sorted(self.config.data.test_rows.items()))
        return "floor-" + digest([spec_digest(self.data), limits, code_digest(*STAGES["floor"])])

    def rows(self, name: str) -> list[Row]:
        """Of a table or an open check."""
        return self.tables[name] if name in self.tables else self.checks[name]

    def probes_for(self, name: str) -> dict[str, str]:
        """Digests of the probes that a table or open check reads, by family."""
        shown = self.config.table_families.get(name, tuple(self.config.families))  # type: ignore[call-overload]
        return {family: self.probe_of[family] for family in shown} if name in PROBED else {}

    def cells(self, name: str) -> dict[str, Any]:
        """What a table's or open check's job reads: the rows, and where each row's card and scores lie."""
        root = self.root
        floor = f"{root}/evaluations/{self.floor_name()}/summary.json"
        cells = {
            "table": name,
            "preset": self.config.preset,
            "recipe": self.config.recipe,
            "note": self.config.note,
            "sets": list(TEST_SETS),
            "other_groups": self.config.other_groups,
            "floor": {family: floor for family in self.config.families},
            "rows": [
                {
                    **vars(row),
                    "card": f"{root}/runs/{row.run}/card.json",
                    "evaluation": f"{root}/evaluations/{row.evaluation}/summary.json",
                    "exposure": f"{root}/exposure/{row.exposure}/summary.json" if row.exposure else None,
                }
                for row in self.rows(name)
            ],
        }
        if name in self.checks:
            cells["probe"] = {family: f"{root}/probes/{probe}/probe.json" for family, probe in self.probes_for(name).items()}
        return cells

    def run_label(self, run: str) -> str:
        """Whose run it is: family, the titles that tables give it, seed, and what it is in a grid of learning rates."""
        spec = self.runs[run]
        owners = [name for name, other in self.runs.items() if run in other.candidates]
        rate = f", learning rate {spec.method.training.learning_rate:g}" if owners else ""
        rate = f", the best of {len(spec.candidates)} learning rates" if spec.candidates else rate
        titles = dict.fromkeys(row.title for row in self._all_rows() if row.run in (run, *owners)) or [spec.method.title]
        return f"{spec.family}, {' / '.join(titles)}, seed {spec.seed}{rate}"

    def trains(self, run: str) -> bool:
        """False for a run that takes another model as its own: a checkpoint, or the best of a grid."""
        return self.runs[run].method.role != "checkpoint" and not self.runs[run].candidates

    def _all_rows(self) -> Iterator[Row]:
        return (row for rows in (*self.tables.values(), *self.checks.values()) for row in rows)

    def model_source(self, model: str) -> str | None:
        """Digest of the model that a pruned one is made of."""
        config = self.models[model].model
        return self._add_model(config.source, self.models[model].seed) if isinstance(config, PrunedModel) else None

    # -- building ------------------------------------------------------------------------------------------------------

    def _add_model(self, model: ModelConfig, seed: int) -> str:
        seed = seed if isinstance(model, TinyModel) else 0  # only a tiny model is drawn at random
        spec = ModelSpec(model=model, seed=seed, code=code_digest(*STAGES["model"]))
        self.models[spec_digest(spec)] = spec
        if isinstance(model, PrunedModel):
            self._add_model(model.source, seed)
        return spec_digest(spec)

    def _teacher_run(self, family: str) -> str:
        """One teacher for all students of a family, of the first seed."""
        if family in self.config.small_students:
            family = self.config.small_students[family].family
        return self._add_run(family, self.methods.resolve(family, "teacher"), self.config.training_seeds[0])

    def _add_run(self, name: str, method: Method, seed: int, checkpoint: HubModel | None = None) -> str:
        """`name`: a family, or a small student with its family's teacher and settings. `checkpoint`: the model that a run of
        that role takes as it is."""
        small = self.config.small_students.get(name)
        family: Family = self.config.families[small.family if small else name]
        is_teacher, objective = method.role == "teacher", method.objective
        written = method.sequences.policy in ("teacher", "collection", "custom") or method.sequences.scrg is not None
        taught = objective.distils or written or objective.span_weight > 0
        from_sft = method.role == "student" and method.start == "sft"
        base = checkpoint or (family.teacher if is_teacher else small.student if small else family.student)
        rates = method.training.learning_rates
        candidates = [self._add_run(name, at_rate(method, rate), seed) for rate in rates] if len(rates) > 1 else []
        method = at_rate(method, *rates) if len(rates) == 1 else method
        spec = RunSpec(
            family=name,
            method=method.model_copy(update={"title": describe(method)}),
            seed=seed,
            candidates=tuple(candidates),
            data=self.data_name,
            data_config=self.config.data.model_copy(update={"test_rows": {}}),  # training reads no test set
            max_new_tokens=self.config.evaluation.max_new_tokens,
            validation_protocol=self.config.evaluation.protocols[0],
            base_model=self._add_model(base, seed),
            start_run=self._add_run(name, self._resolve(name, "sft"), seed) if from_sft else None,
            teacher_run=self._teacher_run(name) if (taught or checkpoint) and not is_teacher else None,
            lora=None if checkpoint else family.lora,
            threads=self.config.threads,
            processes=self.config.processes,
            code=code_digest(*STAGES["select" if candidates else "adopt" if checkpoint else "train"]),
            custom_code=tuple(source_digest(name) for name in custom_functions(method)),
        )
        self.runs[spec_digest(spec)] = spec
        return spec_digest(spec)

    def _resolve(self, name: str, method_name: str) -> Method:
        """A method as a family or small student trains it."""
        small = self.config.small_students.get(name)
        family = small.family if small else name
        method = self.methods.resolve(family, method_name)
        check_batches(method, self.config.processes, f"method {method_name} of family {family}")
        return method

    def _add_evaluation(self, family: str, run: str, role: str) -> str:
        spec = EvaluationSpec(
            run=run,
            teacher_run=None if role == "teacher" else self._teacher_run(family),
            family=family,
            data=self.data_name,
            data_config=self.config.data,
            evaluation=self.config.evaluation,
            threads=self.config.threads,
            code=code_digest(*STAGES["evaluate"]),
        )
        self.evaluations[spec_digest(spec)] = spec
        return spec_digest(spec)

    def _add_exposure(self, family: str, run: str) -> str:
        config = self.config
        shared: dict[str, Any] = {
            "teacher_run": self._teacher_run(family), "data": self.data_name, "data_config": config.data,
            "exposure": config.exposure, "max_new_tokens": config.evaluation.max_new_tokens, "batch": config.evaluation.batch,
            "threads": config.threads, "code": code_digest(*STAGES["exposure"]),
        }  # fmt: skip
        samples = SamplesSpec(**shared)
        self.samples[spec_digest(samples)] = samples
        exposure = ExposureSpec(run=run, samples=spec_digest(samples), **shared)
        self.exposures[spec_digest(exposure)] = exposure
        return spec_digest(exposure)

    def _add_probe(self, family: str) -> None:
        config, seed = self.config, self.config.training_seeds[0]
        probe = ProbeSpec(
            student_run=self._add_run(family, self._resolve(family, "sft"), seed),
            teacher_run=self._teacher_run(family),
            data=self.data_name,
            data_config=config.data,
            probe=config.probe,
            max_new_tokens=config.evaluation.max_new_tokens,
            batch=config.evaluation.batch,
            threads=config.threads,
            code=code_digest(*STAGES["probe"]),
        )
        self.probe_of[family] = spec_digest(probe)
        self.probes[spec_digest(probe)] = probe

    def _table_methods(self, family: str, table: TableName) -> dict[str, Method]:
        """The methods of a table's rows by name. Table 1 has second rows, of SFT weight 0, where the recipe wants them."""
        found: dict[str, Method] = {}
        for name in (*self.config.tables[table], *self.config.extra_rows.get(table, ())):
            found[name] = self._resolve(family, name)
            if table == "table1" and self.methods.rows_without_sft and (second := without_sft(found[name])):
                found[f"{name}{SECOND_ROW}"] = second
        return found

    def _method_rows(self, family: str, methods: Mapping[str, Method], exposed: bool) -> Iterator[Row]:
        for name, method in methods.items():
            for seed in self.config.training_seeds[:1] if method.role == "teacher" else self.config.training_seeds:
                run = self._add_run(family, method, seed)
                exposure = self._add_exposure(family, run) if exposed else None
                evaluation = self._add_evaluation(family, run, method.role)
                yield Row(family, name, method.title, method.role, seed, run, evaluation, exposure)

    def _checkpoint_rows(self, family: str) -> Iterator[Row]:
        seed = self.config.training_seeds[0]
        for name, checkpoint in self.config.checkpoints.items():
            if checkpoint.family != family:
                continue
            # Nothing is trained, so no setting of training may be part of the run but the precision of its evaluation.
            training = TrainingConfig(steps=1, precision=self.config.training.precision)
            method = Method(title=checkpoint.title, role="checkpoint", start="base", training=training)
            run = self._add_run(family, method, seed, checkpoint.model)
            evaluation = self._add_evaluation(family, run, "checkpoint")
            yield Row(family, name, checkpoint.title, "checkpoint", seed, run, evaluation)

    def add_rows(self) -> None:
        config = self.config
        for table in config.tables:
            self.tables[table] = []
            for family in config.table_families.get(table, tuple(config.families)):
                self.tables[table] += self._method_rows(family, self._table_methods(family, table), table == "table4a")
                self.tables[table] += self._checkpoint_rows(family) if table == "table1" else []
        for check, names in config.checks.items():
            self.checks[check] = []
            for family in config.table_families.get(check, tuple(config.families)):
                small = [name for name, student in config.small_students.items() if student.family == family]
                for name in (family, *(small if check == "small_students" else ())):
                    self.checks[check] += self._method_rows(name, {each: self._resolve(name, each) for each in names}, False)
                if check in PROBED:
                    self._add_probe(family)
        self._add_twins()

    def _add_twins(self) -> None:
        """Of every row with SCRG: the run that `twins` asks for, or a row that is there anyway."""
        asked = {row.run for row in self._all_rows() if row.method in self.config.twins}
        specs = {row.run: self.runs[row.run] for row in self._all_rows()}
        there = {self._settings(spec.family, spec.seed, spec.method): run for run, spec in specs.items()}
        for run, spec in specs.items():
            if spec.method.sequences.scrg is None:
                continue
            sequences = spec.method.sequences.model_copy(update={"scrg": None})
            method = spec.method.model_copy(update={"sequences": sequences})
            if run in asked:
                self.twins[run] = self._add_run(spec.family, method, spec.seed)
            elif twin := there.get(self._settings(spec.family, spec.seed, method)):
                self.twins[run] = twin

    @staticmethod
    def _settings(family: str, seed: int, method: Method) -> str:
        """What a run follows from, in one configuration."""
        return digest([family, seed, method.model_dump(mode="json", exclude={"title"})])


def make_plan(folder: Path, config: Config) -> Plan:
    """All runs, evaluations and rows of a configuration. `folder` is workflow/."""
    data = config.data
    spec = DataSpec(source=data.source, data_dir=data.data_dir, split=data.split, code=code_digest(*STAGES["data"]))
    plan = Plan(config, load_methods(folder, config), spec)
    plan.add_rows()
    return plan
