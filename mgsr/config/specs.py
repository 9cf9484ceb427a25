"""Resolved, content-addressed pieces: all that a result depends on. A spec lies beside its result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from mgsr.config.base import Strict
from mgsr.config.families import LoraConfig, ModelConfig
from mgsr.config.measurement import EvaluationConfig, ExposureConfig, ProbeConfig, Protocol
from mgsr.config.method import Method, Precision
from mgsr.config.record_sets import DataConfig, Source, Split, TestSetConfig
from mgsr.errors import MgsrError
from mgsr.storage import digest, read_json


class _RecordsSpec(Strict):
    """What all prepared records depend on."""

    source: Source
    data_dir: str | None
    contents: dict[str, str] = Field(description="SHA-256 by local file, or locked commit by data set of the hub")
    code: str


class DataSpec(_RecordsSpec):
    """All that the prepared training and validation records depend on. Lengths are applied with a model's tokenizer."""

    split: Split


class TestSetSpec(_RecordsSpec):
    """All that the prepared records of one test set depend on."""

    __test__ = False  # pytest would take the name for a test's

    name: str
    data: str = Field(description="digest of the DataSpec, against whose training rows overlap is counted")
    test_set: TestSetConfig = Field(description="where the records come from; its `title` and `rows` are left out")


class ModelSpec(Strict):
    """All that a built model depends on."""

    model: ModelConfig
    seed: int
    source: str | None = Field(None, description="digest of the ModelSpec that a pruned model is made of")
    code: str


class _RunSpec(Strict):
    """What all runs depend on."""

    family: str
    seed: int
    code: str


class TrainSpec(_RunSpec):
    """All that a training run depends on; its digest is the run's name. Upstream results enter by their digests."""

    kind: Literal["train"] = "train"
    method: Method = Field(description="with one learning rate: each rate of a grid is a run of its own")
    data: str = Field(description="digest of the DataSpec")
    data_config: DataConfig = Field(description="without test sets, which training does not read")
    max_new_tokens: int = Field(
        description="response tokens that an answer may have, and a rollout where the method says nothing else"
    )
    validation_protocol: Protocol = Field(description="validation decodes as the final evaluation does")
    base_model: str = Field(description="digest of the ModelSpec")
    start_run: str | None = Field(description="digest of the run whose model is the start; null: the base model")
    teacher_run: str | None = Field(description="digest of the teacher's run; null where no teacher is used")
    lora: LoraConfig | None
    threads: int
    processes: int
    custom_code: tuple[str, ...] = Field(description="digests of the user's modules that the method names")

    @model_validator(mode="after")
    def _one_learning_rate(self) -> Self:
        if len(rates := self.method.training.learning_rates) > 1:
            raise ValueError(f"a run trains at one learning rate, not at {', '.join(f'{rate:g}' for rate in rates)}")
        return self

    @property
    def learning_rate(self) -> float:
        """The run's one learning rate."""
        return self.method.training.learning_rates[0]

    @property
    def title(self) -> str:
        return self.method.title

    @property
    def precision(self) -> Precision:
        return self.method.training.precision


class SelectSpec(_RunSpec):
    """All that the choice among a grid of learning rates depends on. The chosen run's model stands for the method."""

    kind: Literal["select"] = "select"
    method: Method = Field(description="with the grid; `training.select_by` says which validation figure chooses")
    candidates: tuple[str, ...] = Field(description="digests of the runs, one for each rate of the grid, in its order")


class AdoptSpec(_RunSpec):
    """All that an adopted run depends on: it takes a released model as it is, and trains nothing."""

    kind: Literal["adopt"] = "adopt"
    title: str
    data: str = Field(description="digest of the DataSpec that the model is compared on")
    base_model: str = Field(description="digest of the ModelSpec")
    teacher_run: str = Field(description="digest of the run of the family's teacher, whose vocabulary the model must share")
    precision: Precision = Field(description="that the model is evaluated in")
    threads: int


RunSpec = Annotated[TrainSpec | SelectSpec | AdoptSpec, Field(discriminator="kind")]


class _ScoredSpec(Strict):
    """What all scores over the test sets depend on."""

    test_sets: dict[str, str] = Field(description="by name, digest of the TestSetSpec")
    rows: dict[str, int | None] = Field(description="by name, the first rows only; null: all")
    metrics: tuple[str, ...]
    custom_code: tuple[str, ...] = Field(description="digests of the user's modules that `metrics` names")
    code: str


class FloorSpec(_ScoredSpec):
    """All that the scores of borrowed answers depend on."""


class EvaluationSpec(_ScoredSpec):
    """All that the scores of a run depend on, over all test sets, protocols and decoding seeds."""

    run: str
    teacher_run: str | None = Field(description="held-out KL is taken against it; null for the teacher itself")
    family: str
    max_length: int
    max_prompt_length: int
    evaluation: EvaluationConfig
    threads: int
    answer_code: str = Field(description="digest of the code that decodes answers")


class _MeasuredSpec(Strict):
    """What every result of a model on one test set depends on."""

    test_set: str = Field(description="digest of the TestSetSpec")
    rows: int | None = Field(description="the first rows only; null: all")
    max_length: int
    max_prompt_length: int
    batch: int
    threads: int
    code: str


class AnswersSpec(_MeasuredSpec):
    """All that the answers of a run to one test set, under one protocol with one decoding seed, depend on."""

    run: str
    protocol: Protocol
    decoding_seed: int
    max_new_tokens: int


class HeldoutSpec(_MeasuredSpec):
    """All that the held-out divergence of a run from its teacher depends on."""

    run: str
    teacher_run: str
    heldout_rows: int = Field(description="of these, the first ones that fit")


class InDomainSpec(_MeasuredSpec):
    """What every measurement depends on in which models write on the in-domain test set."""

    teacher_run: str
    max_new_tokens: int


class SamplesSpec(InDomainSpec):
    """All that a teacher's samples for ExAccErr depend on."""

    exposure: ExposureConfig


class ExposureSpec(InDomainSpec):
    """All that a run's ExAccErr depends on."""

    run: str
    samples: str = Field(description="digest of the SamplesSpec")
    exposure: ExposureConfig


class ProbeSpec(InDomainSpec):
    """All that the open checks that train nothing depend on."""

    student_run: str = Field(description="the SFT student")
    probe: ProbeConfig


# -- files -------------------------------------------------------------------------------------------------------------

Spec = TypeVar("Spec", bound=Strict)


def spec_digest(spec: Strict) -> str:
    """The name of a spec and of its result."""
    return digest(spec.model_dump(mode="json"))


def read_spec(root: Path, name: str, kind: type[Spec]) -> Spec:
    """The spec in `ROOT/specs/<name>.json`. Raises MgsrError where it is missing, is no `kind`, or `name` is not its digest."""
    return _read(root, name, TypeAdapter(kind), kind.__name__)


def read_run_spec(root: Path, name: str) -> TrainSpec | SelectSpec | AdoptSpec:
    """The spec of a run, likewise."""
    return _read(root, name, TypeAdapter(RunSpec), "run")


def _read(root: Path, name: str, adapter: TypeAdapter[Spec], kind: str) -> Spec:
    path = root / "specs" / f"{name}.json"
    spec = parsed(adapter, read_json(path), f"{path} is no {kind}")
    if spec_digest(spec) != name:
        raise MgsrError(f"{path} was edited: its digest is {spec_digest(spec)}; delete it and start the workflow again")
    return spec


def parsed(adapter: TypeAdapter[Spec], value: Any, problem: str) -> Spec:
    """The spec that `value` holds; a MgsrError that begins with `problem` where it holds none."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise MgsrError(f"{problem}: {field}: {first['msg']}; delete it and start the workflow again") from None
