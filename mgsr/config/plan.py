"""From a configuration to the pieces that must exist. Every piece is named by a digest of all that it depends on, so equal
pieces are one piece, and an edit renames exactly what it touches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from mgsr.config.base import IN_DOMAIN, SECOND_ROW, Strict
from mgsr.config.families import ModelConfig, PrunedModel, TinyModel
from mgsr.config.identity import code_digest
from mgsr.config.load import Methods, load_methods
from mgsr.config.method import Method
from mgsr.config.method_variants import at_rate, custom_functions, method_in_words, without_sft
from mgsr.config.plan_files import write_plan, write_specs
from mgsr.config.plan_records import plan_records
from mgsr.config.run_specs import AdoptSpec, SelectSpec, TrainSpec
from mgsr.config.schema import Checkpoint, Config
from mgsr.config.specs import (
    DataSpec,
    EvaluationSpec,
    ExposureSpec,
    FloorSpec,
    ModelSpec,
    ProbeSpec,
    SamplesSpec,
    TestSetSpec,
    spec_digest,
)
from mgsr.config.stages import ANSWERING, PAGE, stage_code
from mgsr.config.table_specs import CardSpec, CheckSpec, ClaimsSpec, PageSpec, RowSpec, TableSpec
from mgsr.errors import MgsrError
from mgsr.plugins import source_digest
from mgsr.storage import digest

S = TypeVar("S", bound=Strict)


@dataclass
class Plan:
    """Specs by digest, and what each table, open check and page is made of."""

    config: Config
    methods: Methods
    data: DataSpec
    test_sets: dict[str, TestSetSpec]  # by name
    floor: FloorSpec
    models: dict[str, ModelSpec] = field(default_factory=dict)
    runs: dict[str, TrainSpec | SelectSpec | AdoptSpec] = field(default_factory=dict)
    evaluations: dict[str, EvaluationSpec] = field(default_factory=dict)
    samples: dict[str, SamplesSpec] = field(default_factory=dict)
    exposures: dict[str, ExposureSpec] = field(default_factory=dict)
    probes: dict[str, ProbeSpec] = field(default_factory=dict)
    tables: dict[str, TableSpec] = field(default_factory=dict)
    checks: dict[str, CheckSpec] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)  # by run with SCRG, the run that differs in that alone

    @property
    def root(self) -> Path:
        """The folder of this preset's results."""
        return results_root(self.config)

    @property
    def data_name(self) -> str:
        return spec_digest(self.data)

    @property
    def floor_name(self) -> str:
        return spec_digest(self.floor)

    @property
    def specs(self) -> dict[str, Strict]:
        """All that is named by its digest, by digest."""
        specs: list[Strict] = [self.data, *self.test_sets.values(), self.floor]
        parts: tuple[Mapping[str, Strict], ...] = (self.models, self.runs, self.evaluations)
        for part in (*parts, self.samples, self.exposures, self.probes):
            specs += part.values()
        return {spec_digest(spec): spec for spec in specs}

    @property
    def claims(self) -> ClaimsSpec:
        return ClaimsSpec(tables=tuple(self.tables.values()), **self._head("claims", "claims"))

    def page(self, name: Literal["report", "everything"]) -> PageSpec:
        """`report` shows the default targets, `everything` all."""
        targets = self.config.default_targets if name == "report" else (*self.tables, "claims", "open_checks")
        return PageSpec(
            name=name,
            tables=tuple(self.tables[target] for target in targets if target in self.tables),
            claims=self.claims if "claims" in targets else None,
            checks=tuple(self.checks.values()) if "open_checks" in targets else (),
            tracking=self.config.tracking,
            code=stage_code(*PAGE),
        )

    def write(self) -> None:
        """Write the files of all specs below `root`, where a file is missing or what a name stands for has changed."""
        write_specs(self.root, self.specs)
        cards = {
            row.run: CardSpec(run=row.run, twin=self.twins.get(row.run), code=stage_code("card")) for row in self._all_rows()
        }
        pages = {"report": self.page("report"), "everything": self.page("everything")}
        write_plan(self.root, {**self.tables, **self.checks, "claims": self.claims, **pages, **cards})

    def run_label(self, run: str) -> str:
        """The run in words: family, the titles that tables give it, seed, and its part in a grid of learning rates."""
        spec = self.runs[run]
        grids = [name for name, other in self.runs.items() if isinstance(other, SelectSpec) and run in other.candidates]
        part = ""
        if isinstance(spec, SelectSpec):
            part = f", the best of {len(spec.candidates)} learning rates"
        elif isinstance(spec, TrainSpec) and grids:
            part = f", learning rate {spec.learning_rate:g}"
        words = spec.title if isinstance(spec, AdoptSpec) else spec.method.title
        titles = dict.fromkeys(row.title for row in self._all_rows() if row.run in (run, *grids)) or [words]
        return f"{spec.family}, {' / '.join(titles)}, seed {spec.seed}{part}"

    def trains(self, run: str) -> bool:
        """False for a run that takes another model as its own: a checkpoint, or the best of a grid."""
        return isinstance(self.runs[run], TrainSpec)

    def _all_rows(self) -> Iterator[RowSpec]:
        return (row for part in (*self.tables.values(), *self.checks.values()) for row in part.rows)

    # -- building ------------------------------------------------------------------------------------------------------

    def _add_model(self, model: ModelConfig, seed: int) -> str:
        seed = seed if isinstance(model, TinyModel) else 0  # only a tiny model is drawn at random
        source = self._add_model(model.source, seed) if isinstance(model, PrunedModel) else None
        return _add(self.models, ModelSpec(model=model, seed=seed, source=source, code=stage_code("build-model")))

    def _family(self, name: str) -> str:
        """The family whose teacher and settings `name` has: itself, or a small student's."""
        small = self.config.small_students.get(name)
        return small.family if small else name

    def _teacher_run(self, name: str) -> str:
        """One teacher for all students of a family, of the first seed."""
        family = self._family(name)
        return self._add_run(family, self._resolve(family, "teacher"), self.config.training_seeds[0])

    def _add_run(self, name: str, method: Method, seed: int) -> str:
        """`name`: a family or a small student. A grid of learning rates is a run for each, and one that chooses among them."""
        method = method.model_copy(update={"title": method_in_words(method)})
        rates = method.training.rate_grid
        if len(rates) == 1:
            return self._add_training(name, at_rate(method, rates[0]), seed)
        candidates = tuple(self._add_training(name, at_rate(method, rate), seed) for rate in rates)
        spec = SelectSpec(family=name, method=method, seed=seed, candidates=candidates, code=stage_code("select"))
        return _add(self.runs, spec)

    def _add_training(self, name: str, method: Method, seed: int) -> str:
        config = self.config
        small, family = config.small_students.get(name), config.families[self._family(name)]
        is_teacher = method.role == "teacher"
        base = family.teacher if is_teacher else small.student if small else family.student
        from_sft = not is_teacher and method.start == "sft"
        spec = TrainSpec(
            family=name,
            method=method,
            seed=seed,
            data=self.data_name,
            data_config=config.data.model_copy(update={"test_sets": {}, "data_dir": None}),
            max_new_tokens=config.evaluation.max_new_tokens,
            validation_protocol=config.evaluation.protocols[0],
            base_model=self._add_model(base, seed),
            start_run=self._add_run(name, self._resolve(name, "sft"), seed) if from_sft else None,
            teacher_run=self._teacher_run(name) if method.needs_teacher else None,
            lora=family.lora,
            threads=config.threads,
            processes=config.processes,
            code=stage_code("train"),
            custom_code={function: source_digest(function) for function in custom_functions(method)},
        )
        return _add(self.runs, spec)

    def _add_checkpoint(self, checkpoint: Checkpoint, seed: int) -> str:
        spec = AdoptSpec(
            family=checkpoint.family,
            title=f"checkpoint {checkpoint.model.name}",
            seed=seed,
            data=self.data_name,
            base_model=self._add_model(checkpoint.model, seed),
            teacher_run=self._teacher_run(checkpoint.family),
            precision=self.config.training.precision,
            threads=self.config.threads,
            code=stage_code("adopt"),
        )
        return _add(self.runs, spec)

    def _resolve(self, name: str, method_name: str) -> Method:
        """A method as a family or small student trains it."""
        family = self._family(name)
        method, processes = self.methods.resolve(family, method_name), self.config.processes
        if (batch := method.training.global_batch) % processes:
            where = f"method {method_name} of family {family}: training.global_batch {batch}"
            raise MgsrError(f"{where} is not a multiple of {processes} processes; choose one that is")
        return method

    def _add_evaluation(self, family: str, run: str, role: str) -> str:
        config = self.config
        spec = EvaluationSpec(
            **self.floor.model_dump(exclude={"code"}),
            run=run,
            teacher_run=None if role == "teacher" else self._teacher_run(family),
            family=family,
            max_length=config.data.max_length,
            max_prompt_length=config.data.max_prompt_length,
            evaluation=config.evaluation,
            threads=config.threads,
            answer_code=code_digest(ANSWERING),
            code=stage_code("evaluate"),
        )
        return _add(self.evaluations, spec)

    def _in_domain(self, family: str, stage: str) -> dict[str, Any]:
        """The fields of an InDomainSpec."""
        config = self.config
        return {
            "teacher_run": self._teacher_run(family),
            "test_set": self.floor.test_sets[IN_DOMAIN],
            "rows": self.floor.rows[IN_DOMAIN],
            "max_length": config.data.max_length,
            "max_prompt_length": config.data.max_prompt_length,
            "max_new_tokens": config.evaluation.max_new_tokens,
            "batch": config.evaluation.batch,
            "threads": config.threads,
            "code": stage_code(stage),
        }

    def _add_exposure(self, family: str, run: str) -> str:
        shared = {"exposure": self.config.exposure, **self._in_domain(family, "exposure")}
        samples = _add(self.samples, SamplesSpec(**shared))
        return _add(self.exposures, ExposureSpec(run=run, samples=samples, **shared))

    def _add_probe(self, family: str) -> str:
        student = self._add_run(family, self._resolve(family, "sft"), self.config.training_seeds[0])
        return _add(self.probes, ProbeSpec(student_run=student, probe=self.config.probe, **self._in_domain(family, "probe")))

    def _row(self, family: str, run: str, **columns: Any) -> RowSpec:
        evaluation = self._add_evaluation(family, run, columns["role"])
        return RowSpec(family=family, run=run, evaluation=evaluation, **columns)

    def _method_rows(self, name: str, methods: Mapping[str, Method], exposed: bool = False) -> Iterator[RowSpec]:
        """`name`: a family or a small student. A teacher is trained with one seed."""
        for method_name, method in methods.items():
            for seed in self.config.training_seeds[:1] if method.role == "teacher" else self.config.training_seeds:
                run = self._add_run(name, method, seed)
                row = self._row(name, run, method=method_name, title=method.title, role=method.role, seed=seed)
                yield row.model_copy(update={"exposure": self._add_exposure(name, run)}) if exposed else row

    def _checkpoint_rows(self, family: str) -> Iterator[RowSpec]:
        seed = self.config.training_seeds[0]
        for name, checkpoint in self.config.checkpoints.items():
            if checkpoint.family == family:
                run = self._add_checkpoint(checkpoint, seed)
                yield self._row(family, run, method=name, title=checkpoint.title, role="checkpoint", seed=seed)

    def _table_methods(self, family: str, table: str) -> dict[str, Method]:
        """The methods of a table's rows by name. A main table has second rows, of SFT weight 0, where the recipe wants them."""
        methods: dict[str, Method] = {}
        for name in self.config.tables[table].methods:
            methods[name] = self._resolve(family, name)
            wanted = self.config.tables[table].kind == "main" and self.methods.rows_without_sft
            if wanted and (second := without_sft(methods[name])):
                methods[f"{name}{SECOND_ROW}"] = second
        return methods

    def _head(self, name: str, stage: str) -> dict[str, Any]:
        """What a table, an open check and the claims have in common."""
        config = self.config
        return {"name": name, **config.model_dump(include={"preset", "recipe", "note"}), "code": stage_code(stage)}

    def _shown(self, name: str, rows: list[RowSpec], stage: str) -> dict[str, Any]:
        """What a table and an open check have in common."""
        config = self.config
        titles = {key: test_set.title for key, test_set in config.data.test_sets.items()}
        shown = {"test_sets": titles, "metrics": config.metrics, "rows": tuple(rows), "floor": self.floor_name}
        return {**self._head(name, stage), **shown}

    def add_tables(self) -> None:
        for name, entry in self.config.tables.items():
            rows: list[RowSpec] = []
            for family in entry.families or self.config.families:
                rows += self._method_rows(family, self._table_methods(family, name), entry.kind == "exposure")
                rows += self._checkpoint_rows(family) if entry.kind == "main" else []
            stated = entry.model_dump(exclude={"rows", "extra_rows", "families"})
            shown = self._shown(name, rows, "table")
            self.tables[name] = TableSpec(**stated, **shown, other_groups=self.config.other_groups)

    def add_checks(self) -> None:
        for name, entry in self.config.checks.items():
            rows: list[RowSpec] = []
            families = entry.families or tuple(self.config.families)
            for family in families:
                small = [key for key, student in self.config.small_students.items() if student.family == family]
                for owner in (family, *(small if entry.small_students else ())):
                    rows += self._method_rows(owner, {method: self._resolve(owner, method) for method in entry.rows})
            probes = {family: self._add_probe(family) for family in families} if entry.probe else {}
            self.checks[name] = CheckSpec(probes=probes, **self._shown(name, rows, "open-check"))

    def add_twins(self) -> None:
        """Find the twin of every row with SCRG: the same run without it. Where `twins` names the method, the twin is
        added; elsewhere it is known only if a row shows it."""
        asked = {row.run for row in self._all_rows() if row.method in self.config.twins}
        specs = {row.run: spec for row in self._all_rows() if not isinstance(spec := self.runs[row.run], AdoptSpec)}
        by_settings = {_settings(spec, spec.method): run for run, spec in specs.items()}
        for run, spec in specs.items():
            if spec.method.sequences.scrg is None:
                continue
            sequences = spec.method.sequences.model_copy(update={"scrg": None})
            method = spec.method.model_copy(update={"sequences": sequences})
            if run in asked:
                self.twins[run] = self._add_run(spec.family, method, spec.seed)
            elif twin := by_settings.get(_settings(spec, method)):
                self.twins[run] = twin


def _add(specs: dict[str, S], spec: S) -> str:
    """Keep a spec by its digest, which is returned."""
    name = spec_digest(spec)
    specs[name] = spec
    return name


def _settings(spec: TrainSpec | SelectSpec, method: Method) -> str:
    """What tells the run of `method` from the other runs of one configuration."""
    return digest([spec.family, spec.seed, method.model_dump(mode="json", exclude={"title"})])


def results_root(config: Config) -> Path:
    """The folder of a preset's results."""
    return Path(config.results) / config.preset


def make_plan(folder: Path, config: Config) -> Plan:
    """All runs, evaluations and rows of a configuration. `folder` is workflow/."""
    data, test_sets = plan_records(config.data, results_root(config))
    floor = FloorSpec(
        test_sets={name: spec_digest(spec) for name, spec in test_sets.items()},
        rows={name: test_set.rows for name, test_set in config.data.test_sets.items()},
        metrics=config.metrics,
        custom_code={name: source_digest(name) for name in config.metrics if ":" in name},
        code=stage_code("floor"),
    )
    plan = Plan(config, load_methods(folder, config), data, test_sets, floor)
    plan.add_tables()
    plan.add_checks()
    plan.add_twins()
    return plan
