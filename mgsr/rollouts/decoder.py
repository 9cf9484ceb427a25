"""What decoding needs of a model, and the one place that provides it: a faster cache or another engine goes here."""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicLayer

from mgsr.models.language_model import LanguageModel
from mgsr.rollouts.decoder_weights import decoder_weights
from mgsr.rollouts.static_decoder import StaticDecoder


class Decoder(Protocol):
    """A batch of growing sequences, empty at first. Rows may leave, and others join, at any time."""

    def advance(self, tokens: Tensor, prompts: Items[tuple[int, ...]]) -> Tensor:
        """Append one token to each row ([batch] int64), and add a row for each of these prompts; logits of the next token of
        all rows, [batch + prompts, classes]."""

    def select(self, rows: Tensor) -> None:
        """Keep these rows ([kept] int64), in this order, and forget the others."""


def open_decoder(model: LanguageModel) -> Decoder:
    """A decoder of the model as it is now, in the type of the caller's autocast. It is valid until the model changes."""
    weights = decoder_weights(model)
    return StaticDecoder(weights) if weights is not None else CacheDecoder(model)


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
    """Decoder over a cache of transformers, for any architecture, and the reference of the static one.

    Rows are padded on the left, so that the last column is the newest token.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model, self._device = model, model.device
        self._cache: Any = Cache(layer_class_to_replicate=AutocastLayer)
        self._mask = torch.empty(0, 0, dtype=torch.int64, device=self._device)

    def advance(self, tokens: Tensor, prompts: Items[tuple[int, ...]]) -> Tensor:
        logits = []
        if len(tokens):
            self._mask = F.pad(self._mask, (0, 1), value=1)
            logits.append(self._logits(tokens[:, None], self._mask.sum(-1, keepdim=True) - 1))
        if prompts:
            logits.append(self._join(prompts))
        return torch.cat(logits)

    def select(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._mask = self._mask[rows]

    def _join(self, prompts: Items[tuple[int, ...]]) -> Tensor:
        """Add rows: they make a cache of their own, which then stands below the former one, both as wide as the wider."""
        former, former_mask = self._cache, self._mask[:, int((self._mask.sum(0) == 0).sum()) :]
        length = max(map(len, prompts))
        ids = [[self._model.pad_id] * (length - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        self._cache, self._mask = Cache(layer_class_to_replicate=AutocastLayer), torch.tensor(mask, device=self._device)
        logits = self._logits(torch.tensor(ids, device=self._device), (self._mask.cumsum(-1) - 1).clamp_(min=0))
        if len(former_mask):
            columns = max(former_mask.shape[1], length)
            for layer, other in zip(self._cache.layers, former.layers, strict=True):
                layer.keys, layer.values = (
                    torch.cat([_widened(x[:, :, -former_mask.shape[1] :], columns), _widened(y, columns)])
                    for x, y in ((other.keys, layer.keys), (other.values, layer.values))
                )
            self._mask = torch.cat([F.pad(x, (columns - x.shape[1], 0)) for x in (former_mask, self._mask)])
        return logits

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


def _widened(states: Tensor, columns: int) -> Tensor:
    """Keys or values [batch, heads, n, width], padded on the left to so many columns."""
    return F.pad(states, (0, 0, columns - states.shape[2], 0))
