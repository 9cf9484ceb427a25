"""Continuous batching (Yu et al. 2022): a complete row leaves the batch at once, and a waiting one takes its place."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from mgsr.rollouts.noise import key_tensor

_PROMPT_TOKENS = 512  # enter in one step, or one prompt: more would need more memory and save no time


class AdvancingDecoder(Protocol):
    """A batch of growing sequences that others may join."""

    def advance(self, tokens: Tensor, prompts: Items[tuple[int, ...]]) -> Tensor:
        """Append one token to each row ([batch] int64), and add a row for each of these prompts; logits of the next token of
        all rows, [batch + prompts, classes]."""

    def select(self, rows: Tensor) -> None:
        """Keep these rows ([kept] int64), in this order, and forget the others."""


class GrowingRow(Protocol):
    """A text under way; `key` is that of its random numbers."""

    key: int

    @property
    def tokens(self) -> tuple[int, ...]: ...

    @property
    def is_complete(self) -> bool: ...

    def append(self, token: int) -> None: ...


Row = TypeVar("Row", bound=GrowingRow)


def decode_continuously(
    decoders: Items[AdvancingDecoder],
    rows: Items[Row],
    choose: Callable[[list[Tensor], list[Row], Tensor], Tensor],
    batch: int,
    device: torch.device,
) -> None:
    """Append tokens to the rows, of which none is complete, until each is, at most `batch` of them at a time, longest first.

    Args:
        decoders: empty ones, of one model each.
        choose: (logits [rows, classes] of each model, the rows, their keys [rows, 2]) -> the next token of each row [rows].
    """
    waiting = deque(sorted(rows, key=lambda row: -len(row.tokens)))
    running: list[Row] = []
    tokens = torch.empty(0, dtype=torch.int64, device=device)
    while waiting or running:
        prompts: list[tuple[int, ...]] = []
        while (
            waiting
            and len(running) < batch
            and sum(map(len, [*prompts, waiting[0].tokens])) <= max(_PROMPT_TOKENS, len(waiting[0].tokens))
        ):
            running.append(waiting.popleft())
            prompts.append(running[-1].tokens)
        logits = [decoder.advance(tokens, prompts) for decoder in decoders]
        tokens = choose(logits, running, key_tensor((row.key for row in running), device))
        for row, token in zip(running, tokens.tolist(), strict=True):
            row.append(token)
        kept = _without_gaps([not row.is_complete for row in running])
        if len(kept) < len(running):
            places = torch.tensor(kept, dtype=torch.int64, device=device)
            for decoder in decoders:
                decoder.select(places)
            running, tokens = [running[place] for place in kept], tokens[places]


def _without_gaps(stays: list[bool]) -> list[int]:
    """Who stands where once some have left: all keep their places but the last ones, which fill the gaps."""
    count = sum(stays)
    movers = [place for place, stay in enumerate(stays) if stay and place >= count]
    return [place if stays[place] else movers.pop() for place in range(count)]
