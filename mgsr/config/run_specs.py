"""What a run depends on: a model that is trained, chosen among a grid of learning rates, or adopted.

Apart from the other specs, so that a new loss or policy renames no records, no base models and no code of an evaluation.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mgsr.config.base import Strict
from mgsr.config.families import LoraConfig
from mgsr.config.measurement import Protocol
from mgsr.config.method import Method, Precision
from mgsr.config.record_sets import DataConfig


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
    custom_code: dict[str, str] = Field(description="by name, digests of the user's modules that the method names")

    @model_validator(mode="after")
    def _one_learning_rate(self) -> Self:
        if len(rates := self.method.training.rate_grid) > 1:
            raise ValueError(f"a run trains at one learning rate, not at {', '.join(f'{rate:g}' for rate in rates)}")
        return self

    @property
    def learning_rate(self) -> float:
        """The run's one learning rate."""
        return self.method.training.rate_grid[0]

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
