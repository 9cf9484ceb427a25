"""Decoding on a cache that is allocated ahead, without the modelling code of transformers.

Each row has its own length and its own columns of the cache, so that rows leave and others enter while the rest goes on. The
generic decoder over transformers' cache is its reference, and serves the architectures that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from itertools import chain

import torch
from torch import Tensor
from torch.nn import functional as F

from mgsr.rollouts.decoder_weights import DecoderWeights

_COLUMNS = 128  # the cache grows by so many


class StaticDecoder:
    """A `Decoder`: a batch of growing sequences. It works in the weights' type, whatever autocast says."""

    def __init__(self, weights: DecoderWeights) -> None:
        self._weights, self._device = weights, weights.head.weight.device
        self._lengths: list[int] = []  # tokens in the cache, by row
        # By layer [2, rows, key_heads, columns, head_width]: keys and values. What is not written yet must be finite.
        shape = 2, 0, weights.key_heads, 0, weights.head_width
        self._cache = [weights.head.weight.new_zeros(shape) for _ in weights.blocks]

    def advance(self, tokens: Tensor, prompts: Items[tuple[int, ...]]) -> Tensor:
        """Append one token to each row ([batch] int64), and add a row for each of these prompts; logits of the next token of
        all rows, [batch + prompts, classes]. The weights are read once for both."""
        batch, entering = len(self._lengths), [len(prompt) for prompt in prompts]
        former = torch.tensor(self._lengths, dtype=torch.int64, device=self._device)
        length = torch.tensor(entering, dtype=torch.int64, device=self._device)
        self._lengths = [*(length + 1 for length in self._lengths), *entering]
        self._reserve()
        new_row = torch.arange(len(prompts), device=self._device).repeat_interleave(length, output_size=sum(entering))
        last = length.cumsum(0) - 1
        new_position = torch.arange(len(new_row), device=self._device) - (last - length + 1)[new_row]
        new_tokens = torch.tensor(list(chain.from_iterable(prompts)), dtype=torch.int64, device=self._device)
        columns = max(self._lengths[:batch], default=0)
        hidden = torch.arange(columns, device=self._device) > former[:, None]
        mask = torch.zeros(hidden.shape, dtype=self._weights.dtype, device=self._device).masked_fill_(hidden, -torch.inf)

        def attend(query: Tensor, cache: Tensor) -> Tensor:
            results = []
            if batch:
                keys, values = cache[:, :batch, :, :columns]
                results.append(_attention(query[:batch, :, None], keys, values, mask=mask[:, None, None]).squeeze(2))
            if entering:  # padded on the right, so that causality alone hides the padding
                padded = query.new_zeros(len(entering), max(entering), *query.shape[1:])
                padded[new_row, new_position] = query[batch:]
                keys, values = cache[:, batch : batch + len(entering), :, : max(entering)]
                results.append(_attention(padded.transpose(1, 2), keys, values).transpose(1, 2)[new_row, new_position])
            return torch.cat(results) if len(results) > 1 else results[0]

        row, position = torch.arange(batch, device=self._device), torch.cat([former, new_position])
        places = self._places(torch.cat([row, batch + new_row]), position)
        return self._logits(torch.cat([tokens, new_tokens]), position, places, attend, torch.cat([row, batch + last]))

    def select(self, rows: Tensor) -> None:
        """Keep these rows ([kept] int64), in this order, and forget the others. Rows that keep their place cost nothing."""
        kept = rows.tolist()
        if all(origin >= place for place, origin in enumerate(kept)):  # no row is overwritten before it has moved
            for place, origin in enumerate(kept):
                if place != origin:
                    for cache in self._cache:
                        cache[:, place, :, : self._lengths[origin]] = cache[:, origin, :, : self._lengths[origin]]
        else:
            for cache in self._cache:
                cache[:, : len(kept)] = cache[:, rows]
        self._lengths = [self._lengths[row] for row in kept]

    def _reserve(self) -> None:
        """Make room for all rows, each of the largest length."""
        _, rows, _, columns, _ = self._cache[0].shape
        if len(self._lengths) > rows or max(self._lengths) > columns:
            for layer, cache in enumerate(self._cache):
                shape = list(cache.shape)
                shape[1], shape[3] = max(rows, len(self._lengths)), max(columns, -(-max(self._lengths) // _COLUMNS) * _COLUMNS)
                self._cache[layer] = cache.new_zeros(shape)
                self._cache[layer][:, :rows, :, :columns] = cache

    def _places(self, row: Tensor, position: Tensor) -> Tensor:
        """Where n tokens' keys and values stand in a layer's cache, taken as a list of vectors: [n, 2 key_heads]."""
        kinds, rows, heads, columns, _ = self._cache[0].shape
        first = torch.arange(kinds, device=self._device)[:, None] * rows * heads + torch.arange(heads, device=self._device)
        return (first.flatten() + row[:, None] * heads) * columns + position[:, None]

    @torch.no_grad()
    def _logits(
        self,
        tokens: Tensor,
        position: Tensor,
        places: Tensor,
        attend: Callable[[Tensor, Tensor], Tensor],
        last: Tensor,
    ) -> Tensor:
        """Append n tokens, and give the logits of those at `last`. `attend` takes the queries [n, heads, head_width] and a
        layer's cache, which holds the tokens' own keys and values by then."""
        weights = self._weights
        keys = weights.key_heads
        with torch.autocast(self._device.type, enabled=False):
            x = weights.embed(tokens, position)
            turn = weights.rotation(position) if weights.rotation is not None else None
            for block, cache in zip(weights.blocks, self._cache, strict=True):
                vectors = block.query_key_value(block.norm_1(x).to(weights.dtype)).view(len(tokens), -1, weights.head_width)
                if turn is not None:
                    vectors = _rotate(vectors, turn, weights.heads + keys)
                query, key_value = torch.split(vectors, [weights.heads, 2 * keys], 1)
                cache.view(-1, weights.head_width)[places] = key_value
                x = x + block.output(attend(query, cache).flatten(1))
                x = x + block.down(block.activation(block.up(block.norm_2(x).to(weights.dtype))))
            return weights.head(weights.norm(x[last]).to(weights.dtype))


def _attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Without a mask, causal. Some query heads share a key head: none is repeated."""
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=True)


def _rotate(vectors: Tensor, turn: Tensor, count: int) -> Tensor:
    """Rotary embeddings of the first `count` of the vectors [n, vectors, width], whose neighbours make complex numbers."""
    pairs = torch.empty(vectors.shape, device=vectors.device).copy_(vectors)
    torch.view_as_complex(pairs.view(*pairs.shape[:2], -1, 2))[:, :count] *= turn
    return pairs.to(vectors.dtype)
