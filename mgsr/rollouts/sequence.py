"""Prompts with responses, and the one convention by which their tokens are counted.

A response position is a token that the model had to produce, end-of-sequence included when it was produced. Prompt and
padding never count, and masks go by position, never by id: the padding id may be the end-of-sequence id.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mgsr.data.encoding import Example
from mgsr.models.language_model import HiddenStates, LanguageModel

Author = Literal["dataset", "student", "teacher"]


@dataclass(frozen=True)
class Sequence:
    """A prompt and a response.

    finished: the response ends in end-of-sequence. author: who wrote the response, or its suffix where it was corrected.
    """

    example_id: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    finished: bool
    author: Author = "dataset"

    @classmethod
    def from_example(cls, example: Example, eos_id: int) -> Sequence:
        """The ground-truth response of an example."""
        return cls(example.id, example.prompt_ids, example.response_ids, example.response_ids[-1:] == (eos_id,))

    @classmethod
    def from_json(cls, values: list[Any]) -> Sequence:
        """A sequence from what `to_json` gave."""
        example_id, prompt_ids, response_ids, finished, author = values
        return cls(example_id, tuple(prompt_ids), tuple(response_ids), finished, author)

    def to_json(self) -> list[Any]:
        return [self.example_id, list(self.prompt_ids), list(self.response_ids), self.finished, self.author]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences, and their N response positions in order (row by row, left to right).

    input_ids, attention_mask: [batch, length] int64.
    hidden_index: [N], where in the flattened [batch * length] hidden states the one stands that predicts the token.
    targets, row, position: [N], the token, its row of the batch, its place in the response (from 0).
    """

    input_ids: Tensor
    attention_mask: Tensor
    hidden_index: Tensor
    targets: Tensor
    row: Tensor
    position: Tensor

    def to(self, device: torch.device | str) -> Batch:
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


def collate(sequences: Items[Sequence], pad_id: int) -> Batch:
    """Pad to the longest. Raises ValueError for an empty prompt: nothing would predict the first response token."""
    if not all(sequence.prompt_ids for sequence in sequences):
        raise ValueError("a sequence without prompt tokens has no state that predicts its first response token")
    length = max(map(len, sequences))
    pads = [length - len(sequence) for sequence in sequences]
    ids = [[*s.prompt_ids, *s.response_ids, *[pad_id] * pad] for s, pad in zip(sequences, pads, strict=True)]
    places = [(row, i) for row, sequence in enumerate(sequences) for i in range(len(sequence.response_ids))]
    # the state at place p predicts the token at p + 1
    hidden = [row * length + len(sequences[row].prompt_ids) + i - 1 for row, i in places]
    return Batch(
        input_ids=torch.tensor(ids),
        attention_mask=torch.tensor([[1] * (length - pad) + [0] * pad for pad in pads]),
        hidden_index=torch.tensor(hidden, dtype=torch.int64),
        targets=torch.tensor([token for sequence in sequences for token in sequence.response_ids], dtype=torch.int64),
        row=torch.tensor([row for row, _ in places], dtype=torch.int64),
        position=torch.tensor([i for _, i in places], dtype=torch.int64),
    )


def response_states(model: LanguageModel, batch: Batch) -> HiddenStates:
    """The hidden states [N, width] that predict the response tokens."""
    output = model.backbone(batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    return HiddenStates(output.last_hidden_state.flatten(0, 1)[batch.hidden_index], model.head, model.vocabulary)


def decode_texts(tokenizer: Any, sequences: Items[Sequence]) -> list[str]:
    """The responses as text, without special tokens."""
    return [str(tokenizer.decode(list(sequence.response_ids), skip_special_tokens=True)) for sequence in sequences]


def by_length(lengths: Items[int], size: int) -> Iterator[list[int]]:
    """Indices in groups of at most `size`, longest first, so that little is padded; equal lengths stay in order."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for start in range(0, len(order), size):
        yield order[start : start + size]
