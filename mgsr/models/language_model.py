"""Backbone and output layer apart, so that logits need exist for chosen positions only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn

from mgsr.errors import MgsrError
from mgsr.models.architectures import architecture_of
from mgsr.models.loading import Model


@dataclass(frozen=True)
class LanguageModel:
    """`head(backbone(input_ids [batch, length], attention_mask=...).last_hidden_state)` are the logits, bit for bit.

    The modules are the model's own: gradients, adapters, and training mode are shared with it.
    """

    backbone: nn.Module  # also position_ids, past_key_values, use_cache -> .last_hidden_state [batch, length, width]
    head: nn.Module  # [..., width] -> [..., vocab]

    @property
    def device(self) -> torch.device:
        return next(self.head.parameters()).device


def split(model: Model) -> LanguageModel:
    """The two parts of a causal language model, with or without adapters. Raises MgsrError for an unsupported type."""
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    architecture = architecture_of(str(plain.config.model_type))  # type: ignore[union-attr]
    head = plain.get_output_embeddings()  # type: ignore[operator]
    if head is None:
        raise MgsrError(f"{type(plain).__name__} has no output layer; load it as a causal language model")
    return LanguageModel(plain.get_submodule(architecture.backbone), head)


def log_probabilities(head: nn.Module, hidden: Tensor, vocabulary: int) -> Tensor:
    """[n, width] -> log-softmax over the first `vocabulary` classes [n, vocabulary], reduced in float32 or wider."""
    logits = head(hidden)
    if logits.shape[-1] < vocabulary:
        raise MgsrError(f"the output layer has {logits.shape[-1]} classes, fewer than the shared vocabulary's {vocabulary}")
    with torch.autocast(hidden.device.type, enabled=False):
        logp: Tensor = logits[..., :vocabulary].to(at_least_float32(logits)).log_softmax(-1)
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
