"""A method, the row of a table: sequences x objective x start, and how it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, PositiveFloat, Tag, model_validator

from mgsr.config.base import Strict, Unique
from mgsr.config.loss_terms import CrossEntropy, ObjectiveConfig, PolicyGradientConfig
from mgsr.config.policy import SequencesConfig


class WarningsConfig(Strict):
    """When a run's card warns (docs/measurement.md). Thresholds are ours."""

    spike_factor: float = Field(5.0, gt=1, description="DAC-KL above so many times its running median is a spike")
    steps_share: float = Field(0.9, gt=0, le=1, description="share of steps that makes a band or network suspicious")
    collapsed_share: float = Field(
        0.9, gt=0, le=1, description="share of positions with at most one kept class: a collapsed band"
    )
    untrained_norm: float = Field(1e-8, ge=0, description="gradient norm of f below which it is not trained")
    span_share: float = Field(0.5, gt=0, le=1, description="the span term's share of the loss above which it dominates")
    span_steps: int = Field(100, ge=1, description="for so many steps in a row")


Precision = Literal["fp32", "bf16"]
Grid = Annotated[tuple[PositiveFloat, ...], Field(min_length=1), Unique]


def _rate_or_grid(value: Any) -> str:
    return "grid" if isinstance(value, list | tuple) else "rate"


class Epochs(Strict):
    """A number of optimiser steps that follows from the training records."""

    epochs: PositiveFloat = Field(
        description="steps are epochs * rows / global_batch, rounded; rows: the training rows whose prompt fits"
    )


def _number_or_epochs(value: Any) -> str:
    return "in_epochs" if isinstance(value, Mapping | Epochs) else "number"


class TrainingConfig(Strict):
    """The training loop. Batches are global: device count and accumulation follow from them."""

    steps: Annotated[
        Annotated[int, Field(ge=1), Tag("number")] | Annotated[Epochs, Tag("in_epochs")], Discriminator(_number_or_epochs)
    ] = Field(description="optimiser steps: a number, or `{epochs: n}`, which the run counts from its training rows")
    global_batch: int = Field(32, ge=1, description="sequences an optimiser step, over all processes")
    micro_batch: int = Field(8, ge=1, description="sequences a forward pass at most; changes no result without dropout")
    learning_rate: Annotated[
        Annotated[PositiveFloat, Tag("rate")] | Annotated[Grid, Tag("grid")], Discriminator(_rate_or_grid)
    ] = Field(
        5e-4,
        description="at the cosine's start; a list is a grid: each rate is a run, and the best by validation (`select_by`) "
        "stands for the method",
    )
    final_learning_rate: float = Field(1e-7, ge=0, description="the cosine's end")
    warmup_steps: int = Field(0, ge=0, description="linear rise before the cosine")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's; DAC-KL's network has none")
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW's")
    gradient_clip: float = Field(1.0, gt=0, description="norm of the student's gradient")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the student while it trains; rollouts and scores never use dropout")
    precision: Precision = Field("fp32", description="`bf16`: autocast; weights that are trained stay fp32")
    gradient_checkpointing: bool = Field(
        False,
        description="keep the student's activations at the borders of its blocks alone, and compute the rest again for the "
        "gradient: less memory, about a third more time, no other result",
    )
    validations: int = Field(20, ge=1, description="how often, evenly spread; the last one at the end")
    validation_rows: int = Field(64, ge=1, description="rows decoded at a validation; the loss uses all")
    select_by: Literal["rouge_l", "loss"] = Field("rouge_l", description="which validation figure chooses the kept checkpoint")
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl")
    checkpoint_seconds: float = Field(300.0, ge=0, description="time between checkpoints; 0 is every step")
    rollout_batch: int = Field(32, ge=1, description="sequences decoded together")
    chunk: int = Field(256, ge=2, description="positions whose logits exist at one time; changes no result")
    warnings: WarningsConfig = Field(WarningsConfig(), description="thresholds of the card's warnings")

    @property
    def rate_grid(self) -> tuple[float, ...]:
        """The grid, or the one rate."""
        return self.learning_rate if isinstance(self.learning_rate, tuple) else (self.learning_rate,)

    def steps_of(self, rows: int) -> int:
        """Optimiser steps of a run that trains on `rows` rows."""
        steps = self.steps
        return steps if isinstance(steps, int) else max(1, round(steps.epochs * rows / self.global_batch))


class Method(Strict):
    """A row of a table: sequences x objective x start."""

    title: str = Field(description="as tables print it")
    role: Literal["student", "teacher"] = Field(
        "student", description="whose model is trained: the family's student or teacher"
    )
    start: Literal["base", "sft_start"] = Field("sft_start", description="`sft_start`: what the method of that name trained")
    sequences: SequencesConfig = Field(SequencesConfig(), description="which sequences a step trains on")
    objective: ObjectiveConfig = Field(ObjectiveConfig(), description="what is minimised on them")
    training: TrainingConfig = Field(description="the preset's `training` where the method says nothing else")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        distillation = self.objective.distillation
        gradient = isinstance(distillation, PolicyGradientConfig) and self.objective.distillation_weight > 0
        if gradient != (self.sequences.policy == "collection"):
            raise ValueError("distillation 'policy_gradient' and sequences.policy 'collection' go together")
        if self.sequences.dataset_terms == "sft" and not (
            self.sequences.policy in ("mixed", "off_policy") and self.objective.sft_weight
        ):
            raise ValueError("dataset_terms 'sft' needs policy 'mixed' or 'off_policy', and an objective.sft_weight above 0")
        if isinstance(distillation, CrossEntropy) and self.sequences.policy == "teacher" and self.sequences.scrg is not None:
            raise ValueError("cross_entropy under policy 'teacher' is on the teacher's own text (SeqKD); set scrg to null")
        batch, collection, off_policy = self.training.global_batch, self.sequences.collection, self.sequences.off_policy
        if self.sequences.policy == "collection" and collection.rollouts % batch:
            raise ValueError(
                f"sequences.collection.rollouts {collection.rollouts} is not a multiple of training.global_batch {batch}; "
                "choose one that is"
            )
        if self.sequences.policy == "off_policy" and off_policy.buffer_size < batch:
            raise ValueError(
                f"sequences.off_policy.buffer_size {off_policy.buffer_size} is smaller than training.global_batch {batch}; "
                "make it at least that"
            )
        return self

    @property
    def needs_teacher(self) -> bool:
        """Whether training asks a teacher: for a term of the loss, for text, or for SCRG. A custom policy may ask for text."""
        objective, sequences = self.objective, self.sequences
        writes = sequences.policy in ("teacher", "collection", "custom")
        asked = objective.distils or objective.span_weight > 0 or writes or sequences.scrg is not None
        return self.role == "student" and asked

    @property
    def wants_student_text(self) -> bool:
        """Whether some steps should train on text that the student wrote, at least in part. A custom policy need not."""
        sequences = self.sequences
        revised = sequences.policy == "teacher" and sequences.scrg is not None
        return sequences.policy in ("student", "mixed", "off_policy", "collection") or revised
