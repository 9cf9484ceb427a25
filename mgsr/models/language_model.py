"""A language model as the rest of the package uses it: backbone and output layer apart, so that logits need exist for chosen
positions only, and with the token ids that every use needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from mgsr.errors import MgsrError
from mgsr.models.architectures import architecture_of
from mgsr.models.loading import Model, load_model, load_tokenizer, vocabulary_size


@dataclass(frozen=True)
class LanguageModel:
    """`head(backbone(input_ids [batch, length], attention_mask=...).last_hidden_state)` are the logits, bit for bit.

    The modules are those of a model of transformers: gradients, adapters, and training mode are shared with it.
    """

    backbone: nn.Module  # also position_ids, past_key_values, use_cache -> .last_hidden_state [batch, length, width]
    head: nn.Module  # [..., width] -> [..., classes]
    eos_id: int
    pad_id: int
    vocabulary: int  # classes from this id on are padding of the output layer

    @classmethod
    def of(cls, model: Model, tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
        """A causal language model with its tokenizer's ids. Raises MgsrError for an unsupported type."""
        eos_id, pad_id = (int(token) for token in (tokenizer.eos_token_id, tokenizer.pad_token_id))
        return cls(*split(model), eos_id, pad_id, vocabulary_size(tokenizer))

    @property
    def device(self) -> torch.device:
        return next(self.head.parameters()).device


def split(model: Model) -> tuple[nn.Module, nn.Module]:
    """Backbone and output layer of a causal language model, with or without adapters. Raises MgsrError for a type that is not
    supported."""
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    architecture = architecture_of(str(plain.config.model_type))  # type: ignore[union-attr]
    head = plain.get_output_embeddings()  # type: ignore[operator]
    if head is None:
        raise MgsrError(f"{type(plain).__name__} has no output layer; load it as a causal language model")
    return plain.get_submodule(architecture.backbone), head


def load_frozen(folder: Path, precision: str, device: torch.device) -> tuple[LanguageModel, PreTrainedTokenizerBase]:
    """A model folder's model that nothing trains, on its device, and its tokenizer."""
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, device=device, frozen=True, precision=precision)
    return LanguageModel.of(model, tokenizer), tokenizer


@dataclass(frozen=True)
class HiddenStates:
    """Final hidden states of a model, with the output layer that makes logits of them."""

    values: Tensor  # [n, width]
    head: nn.Module
    vocabulary: int

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Tensor | slice) -> HiddenStates:
        return replace(self, values=self.values[rows])

    def split(self, sizes: int | list[int]) -> list[HiddenStates]:
        """Consecutive pieces of these sizes, or of one size and a rest."""
        return [replace(self, values=values) for values in torch.split(self.values, sizes)]

    def log_probabilities(self) -> Tensor:
        """Log-softmax over the first `vocabulary` classes [n, vocabulary], reduced in float32 or wider. Raises MgsrError where
        the output layer has fewer classes."""
        logits = self.head(self.values)
        if logits.shape[-1] < self.vocabulary:
            raise MgsrError(f"the output layer has {logits.shape[-1]} classes, fewer than the vocabulary's {self.vocabulary}")
        with torch.autocast(logits.device.type, enabled=False):
            logp: Tensor = logits[..., : self.vocabulary].to(at_least_float32(logits)).log_softmax(-1)
        return logp


def at_least_float32(x: Tensor) -> torch.dtype:
    """The tensor's type, or float32 where that is wider."""
    return torch.promote_types(x.dtype, torch.float32)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """bf16 autocast where `precision` asks for it; weights and reductions stay fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def inference(*models: LanguageModel) -> Iterator[None]:
    """Inside, the models have neither dropout nor gradients; afterwards every module is in the mode it was in."""
    parts = [part for model in models for part in (model.backbone, model.head)]
    modes = {module: module.training for part in parts for module in part.modules()}
    try:
        for module in modes:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
