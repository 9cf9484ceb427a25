"""What is minimised: divergences, DAC-KL, span consistency, and their sum (Eq. 11)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mgsr.config.base import Strict


class PlainDivergence(Strict):
    """A divergence without settings, p the teacher and q the student."""

    name: Literal["forward_kl", "reverse_kl", "total_variation"] = Field(
        description="`forward_kl`: KL(p || q); `reverse_kl`: KL(q || p); `total_variation`: half the sum of |p - q|"
    )


class SymmetricKl(Strict):
    """forward_share KL(teacher || student) + (1 - forward_share) KL(student || teacher)."""

    name: Literal["symmetric_kl"]
    forward_share: float = Field(0.5, ge=0, le=1, description="DistiLLM's code has 0.1; elsewhere it is half and half")


class GeneralizedJsd(Strict):
    """beta KL(p||M) + (1-beta) KL(q||M), M = beta p + (1-beta) q, p the teacher (Agarwal et al. 2024). It shrinks
    towards 0 as beta nears 0 or 1; the end points are not special-cased to a KL."""

    name: Literal["generalized_jsd"]
    beta: float = Field(
        0.1, gt=0, lt=1, description="the teacher's weight; DistiLLM's code has 0.9 as the student's weight, which is 0.1 here"
    )


class SkewKl(Strict):
    """A KL against a mixture of both models, p the teacher and q the student (Ko et al. 2024)."""

    name: Literal["skew_forward_kl", "skew_reverse_kl"] = Field(
        description="`skew_forward_kl`: KL(p || alpha p + (1 - alpha) q); `skew_reverse_kl`: KL(q || alpha q + (1 - alpha) p)"
    )
    alpha: float = Field(0.1, ge=0, lt=1, description="how much the mixture has of the first distribution")


NamedDivergence = PlainDivergence | SymmetricKl | GeneralizedJsd | SkewKl


class DacKlConfig(Strict):
    """Distribution-adaptive clipping KL (Eq. 5-8). Where the paper's equations cannot be trained, defaults differ:
    docs/readings.md."""

    name: Literal["dac_kl"]
    direction: Literal["reverse", "forward"] = Field(
        "reverse", description="`reverse`: KL(student || teacher) as Eq. 8 prints it; `forward`: as Fig. 3 is captioned"
    )
    content: Literal["mask_times_prob", "mask"] = Field(
        "mask_times_prob", description="what the clipped vectors hold in the band; `mask`: Eq. 7 read literally"
    )
    target: Literal["once", "twice"] = Field(
        "once", description="target class inside the band counted once (union) or twice (as printed)"
    )
    normalisation: Literal["residual", "kept", "none"] = Field(
        "residual",
        description="`residual`: one more bucket for the rest; `kept`: over what is kept; `none`: as printed, can be negative",
    )
    mask_space: Literal["log", "probability"] = Field(
        "log", description="where thresholds are compared; `probability`: as printed"
    )
    softness: float = Field(
        0.2, gt=0, description="width of the mask's edge: tau (log space) or eps (probability space, 1e-7 as printed)"
    )
    thresholds: Literal["learned", "fixed", "rank", "mass"] = Field(
        "learned",
        description="`learned`: by f; `fixed`: the start values; `rank`: start values are levels of the ascending sort; "
        "`mass`: they bound the mass above a class",
    )
    parts: Literal["both", "target_only", "dense_only"] = Field(
        "both", description="what is kept: band and target, or one of them (Table 3b)"
    )
    trained_by: Literal["mass_floor", "same", "detached"] = Field(
        "mass_floor",
        description="what trains f: `same`: the loss itself, as printed; `mass_floor`: and a penalty on lost teacher mass; "
        "`detached`: nothing",
    )
    mass_floor: float = Field(0.95, gt=0, lt=1, description="teacher mass that the band should keep")
    mass_floor_weight: float = Field(100.0, ge=0, description="of the penalty")
    student_input: Literal["detached", "attached"] = Field(
        "detached", description="f's view of the student; `attached` lets the student learn to steer f"
    )
    start_upper: float = Field(0.999, gt=0, lt=1, description="upper threshold before training")
    start_lower: float = Field(1e-4, gt=0, lt=1, description="lower threshold before training")
    hidden_width: int = Field(64, ge=1, description="of the clipping network f")

    @model_validator(mode="after")
    def _readings_fit(self) -> Self:
        if self.parts == "target_only" and self.normalisation == "kept":
            raise ValueError("parts 'target_only' with normalisation 'kept' is always 0; choose another normalisation")
        if (self.parts, self.content) == ("dense_only", "mask") and self.normalisation != "residual":
            raise ValueError("parts 'dense_only' with content 'mask' cancels to 0; choose normalisation 'residual'")
        if self.thresholds != "learned" and self.start_lower > self.start_upper:
            raise ValueError(f"start_lower {self.start_lower} lies above start_upper {self.start_upper}: the band is empty")
        has_network = self.thresholds == "learned" and self.trained_by != "detached" and self.parts != "target_only"
        if self.student_input == "attached" and not has_network:
            raise ValueError("student_input 'attached' needs a clipping network that is trained: thresholds 'learned'")
        return self


class CrossEntropy(Strict):
    """-log q of the sequence's own tokens. On the teacher's text this is SeqKD (Kim & Rush 2016)."""

    name: Literal["cross_entropy"]


class PolicyGradientConfig(Strict):
    """MiniLLM's reverse KL by policy gradient (Gu et al. 2024; its code). It needs policy `collection`."""

    name: Literal["policy_gradient"]
    reward_scale: float = Field(0.5, gt=0, description="the log ratio is divided by it")
    reward_clip: float = Field(100.0, gt=0, description="bound of a scaled reward, both ways")
    discount: float = Field(0.95, gt=0, le=1, description="of later rewards")
    advantage: Literal["code", "paper"] = Field(
        "code", description="`code`: discounted from t on, over the remaining length; `paper`: mean of later rewards"
    )
    ratio_clip: float = Field(0.2, gt=0, lt=1, description="the importance ratio counts between 1 - it and 1 + it")
    single_step_weight: float = Field(1.0, ge=0, description="of the full-vocabulary KL(student || teacher) on the prefixes")
    weighted_single_step: bool = Field(False, description="multiply that KL by the importance weight, as the paper does")


class Custom(Strict):
    """A loss of yours: `module:function` or `module:Class`; see docs/own_method.md."""

    name: Literal["custom"]
    function: str = Field(description="`module:name`, found from the folder where the workflow runs")
    parameters: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the function or class")


Distillation = Annotated[
    NamedDivergence | DacKlConfig | CrossEntropy | PolicyGradientConfig | Custom, Field(discriminator="name")
]


class SpanConfig(Strict):
    """Span-level correlation consistency (Eq. 9-10): the ways to read its equations (docs/readings.md)."""

    priors: Literal["phrases", "fixed", "sentences"] = Field(
        "phrases", description="what a span is: noun, verb and prepositional phrases (as printed), runs of k tokens, sentences"
    )
    fixed_length: int = Field(4, ge=1, description="tokens of a span; priors `fixed`")
    prepositional: Literal["pnp", "chunk"] = Field(
        "pnp", description="a prepositional phrase: with its noun phrase, or textblob's bare chunk"
    )
    min_tokens: int = Field(1, ge=1, description="shorter spans are left out; a span of one token counts with value 0")
    uncovered: Literal["drop", "own"] = Field(
        "drop", description="tokens outside phrases: in no span, or each uncovered run is a span of its own"
    )
    divisor: Literal["tokens", "pairs"] = Field(
        "tokens", description="of a span's sum: its n tokens (as printed) or n - 1 pairs"
    )
    norm: Literal["l2", "l2_squared"] = Field("l2", description="of a pair's difference; `l2`: as printed")
    vectors: Literal["full", "clipped"] = Field(
        "full", description="the distributions that are compared, or DAC-KL's clipped ones (needs `dac_kl`)"
    )


class ObjectiveConfig(Strict):
    """L = sft_weight L_SFT + distillation_weight L_distillation + span_weight L_span (Eq. 11). Weight 0 leaves a term out."""

    sft_weight: float = Field(1.0, ge=0, description="cross-entropy on the ground-truth response")
    distillation: Distillation | None = Field(None, description="divergence from the teacher; null: none")
    distillation_weight: float = Field(1.0, ge=0, description="of that divergence")
    span_weight: float = Field(0.0, ge=0, description="span-level correlation consistency (Eq. 9-10)")
    span: SpanConfig = Field(SpanConfig(), description="how its equations are read")
    averaging: Literal["token_mean", "sequence_mean"] = Field(
        "token_mean", description="`token_mean`: over all response tokens of the optimiser step; `sequence_mean`: as printed"
    )

    @property
    def distils(self) -> bool:
        """Whether there is a divergence from the teacher."""
        return self.distillation is not None and self.distillation_weight > 0

    @model_validator(mode="after")
    def _something_to_minimise(self) -> Self:
        if not (self.sft_weight or self.span_weight or self.distils):
            raise ValueError("every term has weight 0; give sft_weight, span_weight or a distillation with its weight")
        has_band = isinstance(self.distillation, DacKlConfig) and self.distillation_weight > 0
        if self.span.vectors == "clipped" and self.span_weight and not has_band:
            raise ValueError("span.vectors 'clipped' compares DAC-KL's vectors; set distillation to dac_kl, with a weight")
        return self
