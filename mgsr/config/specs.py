"""Resolved, content-addressed pieces: all that a result depends on. A spec lies beside its result."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from mgsr.config.base import Strict
from mgsr.config.families import ModelConfig
from mgsr.config.measurement import EvaluationConfig, ExposureConfig, ProbeConfig, Protocol
from mgsr.config.record_sets import Source, Split, TestSetConfig
from mgsr.errors import MgsrError
from mgsr.storage import digest, read_json


class _RecordsSpec(Strict):
    """What all prepared records depend on."""

    source: Source
    place: str | None = Field(description="the folder or file that is read; no part of the digest, which has its contents")
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


class _ScoredSpec(Strict):
    """What all scores over the test sets depend on."""

    test_sets: dict[str, str] = Field(description="by name, digest of the TestSetSpec")
    rows: dict[str, int | None] = Field(description="by name, the first rows only; null: all")
    metrics: tuple[str, ...]
    custom_code: dict[str, str] = Field(description="by name, digests of the user's modules that `metrics` names")
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
    """The name of a spec and of its result. Where records lie is left out, so that a moved folder makes nothing again."""
    return digest(spec.model_dump(mode="json", exclude={"place"}))


def read_spec(root: Path, name: str, kind: type[Spec]) -> Spec:
    """The spec in `ROOT/specs/<name>.json`. Raises MgsrError where it is missing, is no `kind`, or `name` is not its digest."""
    path = root / "specs" / f"{name}.json"
    spec = parse_spec(path, kind)
    if spec_digest(spec) != name:
        raise MgsrError(f"{path} was edited: its digest is {spec_digest(spec)}; delete it and start the workflow again")
    return spec


def parse_spec(path: Path, kind: type[Spec]) -> Spec:
    """The spec in a JSON file. Raises MgsrError where it is missing or is no `kind`."""
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        problem = f"{path} is no {kind.__name__}: {field}: {first['msg']}"
        raise MgsrError(f"{problem}; delete it and start the workflow again") from None
