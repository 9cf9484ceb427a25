"""Which sequences a step trains on."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mgsr.config.base import Strict


class ScrgConfig(Strict):
    """Sequence correction and re-generation (Eq. 3-4). Defaults are as printed: as the paper says it, to the letter."""

    passes: int = Field(1, ge=1, description="how often each sequence is revised (Table 4c)")
    score: Literal["kl", "teacher_nll", "log_ratio"] = Field(
        "kl",
        description="largest at the error token; `kl`: as printed; `teacher_nll`: -log t(y); `log_ratio`: log s(y)/t(y)",
    )
    direction: Literal["student_teacher", "teacher_student"] = Field(
        "student_teacher", description="of score `kl`; `student_teacher`: KL(student || teacher), as printed"
    )
    teacher_token: Literal["sample", "greedy"] = Field(
        "sample", description="the teacher's token: drawn at T = 1, as printed, or its most probable one"
    )
    suffix_writer: Literal["student", "teacher"] = Field(
        "student", description="who goes on after the corrected token; `student`: as printed"
    )


class OffPolicyConfig(Strict):
    """DistiLLM's adaptive schedule and replay buffer (Ko et al. 2024)."""

    initial_threshold: float = Field(0.0, ge=0, le=1, description="tau at the start")
    threshold_step: float = Field(0.1, gt=0, le=1, description="how much tau rises")
    tolerance: float = Field(0.1, ge=0, description="validation loss above prev + tolerance raises tau")
    checks: int | None = Field(
        20, ge=1, description="how often tau is reconsidered, evenly spread; null: whenever the run validates"
    )
    buffer_size: int = Field(1000, ge=1, description="sequences of all processes together")


class CollectionConfig(Strict):
    """MiniLLM's rollouts (Gu et al. 2024): collected at one time, then trained on for some epochs."""

    rollouts: int = Field(256, ge=1, description="sequences a collection, over all processes; a multiple of the global batch")
    inner_epochs: int = Field(4, ge=1, description="how often each sequence of a collection is trained on")
    teacher_mix: float = Field(0.2, ge=0, lt=1, description="the teacher's share in the distribution that is sampled from")


Policy = Literal["dataset", "student", "mixed", "off_policy", "teacher", "collection", "custom"]


class SequencesConfig(Strict):
    """Which sequences a step trains on."""

    policy: Policy = Field(
        "dataset",
        description="`student`: every batch is the student's; `mixed`: a share of them; `off_policy`: DistiLLM's schedule; "
        "`teacher`: the teacher's, one sample a prompt; `collection`: MiniLLM's; `custom`: a function of yours",
    )
    student_share: float = Field(
        0.5, ge=0, le=1, description="policy `mixed`: share of student-generated batches (GKD's lambda)"
    )
    off_policy: OffPolicyConfig = Field(OffPolicyConfig(), description="policy `off_policy`: its schedule and buffer")
    collection: CollectionConfig = Field(CollectionConfig(), description="policy `collection`: MiniLLM's rollouts")
    function: str | None = Field(None, description="policy `custom`: `module:function`, see docs/own_method.md")
    scrg: ScrgConfig | None = Field(None, description="revise generated sequences; null leaves them as they are")
    max_new_tokens: int | None = Field(None, ge=1, description="limit of a rollout; null: as in the evaluation")
    dataset_terms: Literal["all", "sft"] = Field(
        "all", description="on the dataset batches of a mixture: all terms of the objective, or the SFT term alone"
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.scrg is not None and self.policy in ("dataset", "collection"):
            raise ValueError(f"scrg revises student sequences, and policy '{self.policy}' has none to revise; choose another")
        if (self.policy == "custom") != (self.function is not None):
            raise ValueError("policy 'custom' and the key function (`module:function`) go together")
        return self
