"""What decoding needs of a model, and the one place that provides it: a faster cache or another engine goes here."""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from mgsr.models.language_model import LanguageModel


class Decoder(Protocol):
    """A batch of growing sequences."""

    def prefill(self, prompts: Items[tuple[int, ...]]) -> Tensor:
        """Start with these tokens; logits of the next token, [batch, vocabulary]."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each row ([batch] int64); logits of the next, [batch, vocabulary]."""

    def select(self, rows: Tensor) -> None:
        """Keep these rows ([kept] int64), in this order, and forget the others."""


def open_decoder(model: LanguageModel) -> Decoder:
    """A decoder for one batch."""
    return CacheDecoder(model)


class AutocastLayer(DynamicLayer):
    """Keys and values of one layer, in the type that autocast computes attention in.

    LLaMA's rotary tables are float32 and would widen both. Attention rounds keys and values to that type at every step, so
    rounding them once, when they are kept, changes no bit of a result and halves the memory.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if torch.is_autocast_enabled(kind := key_states.device.type):
            dtype = torch.get_autocast_dtype(kind)
            key_states, value_states = key_states.to(dtype), value_states.to(dtype)
        return super().update(key_states, value_states, *args, **kwargs)


class CacheDecoder:
    """Decoder over a cache of transformers. Rows are padded on the left, so that the last column is the newest token."""

    def __init__(self, model: LanguageModel) -> None:
        self._model, self._device = model, model.device
        self._cache = Cache(layer_class_to_replicate=AutocastLayer)
        self._mask = torch.empty(0)
        self._next_place = torch.empty(0)  # [batch], the position id of the token to come

    def _logits(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        output = self._model.backbone(
            input_ids,
            attention_mask=self._mask,
            position_ids=position_ids,
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: Tensor = self._model.head(output.last_hidden_state[:, -1])
        return logits

    def prefill(self, prompts: Items[tuple[int, ...]]) -> Tensor:
        length = max(map(len, prompts))
        ids = [[self._model.pad_id] * (length - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        self._cache = Cache(layer_class_to_replicate=AutocastLayer)
        self._mask = torch.tensor(mask, device=self._device)
        self._next_place = self._mask.sum(-1)
        return self._logits(torch.tensor(ids, device=self._device), (self._mask.cumsum(-1) - 1).clamp_(min=0))

    def step(self, tokens: Tensor) -> Tensor:
        place = self._next_place[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(place)], 1)
        self._next_place = self._next_place + 1
        return self._logits(tokens[:, None], place)

    def select(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._mask, self._next_place = self._mask[rows], self._next_place[rows]
