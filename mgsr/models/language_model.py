"""Backbone and output layer apart, so that logits need exist for chosen positions only."""

from __future__ import annotations

from dataclasses import dataclass

from peft import PeftModel
from torch import nn

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
    def vocab(self) -> int:
        """Classes of the output layer, padding included."""
        return int(self.head.out_features)  # type: ignore[arg-type]


def split(model: Model) -> LanguageModel:
    """The two parts of a causal language model, with or without adapters. Raises MgsrError for an unsupported type."""
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    architecture = architecture_of(str(plain.config.model_type))  # type: ignore[union-attr]
    head = plain.get_output_embeddings()  # type: ignore[operator]
    if head is None:
        raise MgsrError(f"{type(plain).__name__} has no output layer; load it as a causal language model")
    return LanguageModel(plain.get_submodule(architecture.backbone), head)
