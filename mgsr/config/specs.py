"""Resolved, content-addressed pieces: all that a result depends on. A spec lies beside its result."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from mgsr.config.base import Strict
from mgsr.config.families import LoraConfig, ModelConfig
from mgsr.config.measurement import EvaluationConfig, ExposureConfig, ProbeConfig
from mgsr.config.method import Method
from mgsr.config.record_sets import DataConfig, TestSetConfig
from mgsr.errors import MgsrError


class DataSpec(Strict):
    """All that the prepared records depend on. Lengths are applied when a model's tokenizer is known."""

    source: Literal["hub", "local", "builtin"]
    data_dir: str | None
    split: Literal["paper", "minillm"]
    code: str


class ModelSpec(Strict):
    """All that a built model depends on."""

    model: ModelConfig
    seed: int
    code: str


class RunSpec(Strict):
    """All that a training run depends on; its digest is the run's name. Upstream results enter by their digests."""

    family: str
    method: Method
    seed: int
    candidates: tuple[str, ...] = Field(
        description="digests of the runs with each of the method's learning rates, of which this one is the best; else empty"
    )
    data: str = Field(description="digest of the DataSpec")
    data_config: DataConfig
    max_new_tokens: int = Field(
        description="response tokens that an answer may have, and a rollout where the method says nothing else"
    )
    validation_protocol: Literal["published", "plain"] = Field(description="validation decodes as the final evaluation does")
    base_model: str = Field(description="digest of the ModelSpec")
    start_run: str | None = Field(description="digest of the run whose model is the start; null: the base model")
    teacher_run: str | None = Field(description="digest of the teacher's run; null where no teacher is used")
    lora: LoraConfig | None
    threads: int
    processes: int
    code: str
    custom_code: tuple[str, ...] = Field(description="digests of the user's modules that the method names")


class EvaluationSpec(Strict):
    """All that the scores of a run depend on, over all test sets, protocols and decoding seeds."""

    run: str
    teacher_run: str | None = Field(description="held-out KL is taken against it; null for the teacher itself")
    family: str
    data: str
    data_config: DataConfig
    evaluation: EvaluationConfig
    threads: int
    code: str


class SamplesSpec(Strict):
    """All that a teacher's samples for ExAccErr depend on."""

    teacher_run: str
    data: str
    data_config: DataConfig
    exposure: ExposureConfig
    max_new_tokens: int
    batch: int
    threads: int
    code: str


class ExposureSpec(Strict):
    """All that a run's ExAccErr depends on."""

    run: str
    samples: str = Field(description="digest of the SamplesSpec")
    teacher_run: str
    data: str
    data_config: DataConfig
    exposure: ExposureConfig
    max_new_tokens: int
    batch: int
    threads: int
    code: str


class ProbeSpec(Strict):
    """All that the open checks that train nothing depend on."""

    student_run: str = Field(description="the SFT student")
    teacher_run: str
    data: str
    data_config: DataConfig
    probe: ProbeConfig
    max_new_tokens: int
    batch: int
    threads: int
    code: str


class TestSetSpec(Strict):
    """All that the prepared records of one test set depend on."""

    __test__ = False  # pytest would take the name for a test's

    name: str
    data: str = Field(description="digest of the DataSpec, against whose training rows overlap is counted")
    test_set: TestSetConfig = Field(description="where the records come from; its `title` and `rows` are left out")
    source: Literal["hub", "local", "builtin"]
    data_dir: str | None
    contents: dict[str, str] = Field(description="SHA-256 of each local file; empty for other sources")
    code: str


class AnswersSpec(Strict):
    """All that the answers of a run to one test set, under one protocol with one decoding seed, depend on."""

    run: str
    test_set: str = Field(description="digest of the TestSetSpec")
    rows: int | None = Field(description="the first rows only; null: all")
    max_length: int
    max_prompt_length: int
    protocol: Literal["published", "plain"]
    decoding_seed: int
    max_new_tokens: int
    batch: int
    threads: int
    code: str


class FloorSpec(Strict):
    """All that the scores of borrowed answers depend on."""

    test_sets: dict[str, str] = Field(description="by name, digest of the TestSetSpec")
    rows: dict[str, int | None] = Field(description="by name, the first rows only; null: all")
    metrics: tuple[str, ...]
    custom_code: tuple[str, ...] = Field(description="digests of the user's modules that `metrics` names")
    code: str


# -- files -------------------------------------------------------------------------------------------------------------

Spec = TypeVar("Spec", bound=Strict)


def parsed(adapter: TypeAdapter[Spec], value: Any, problem: str) -> Spec:
    """The spec that `value` holds; a MgsrError that begins with `problem` where it holds none."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise MgsrError(f"{problem}: {field}: {first['msg']}; delete it and start the workflow again") from None
