"""Records as token ids. Prompt and response are tokenised apart, so a prompt has the same tokens in training and evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from mgsr.data.prompts import format_prompt
from mgsr.data.records import Record


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    eos_token_id: Any
    bos_token_id: Any

    @property
    def all_special_ids(self) -> Any: ...
    def __call__(self, text: Any, *, add_special_tokens: bool) -> Any: ...
    def decode(self, token_ids: Any, *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool = ...) -> Any: ...


class Lengths(Protocol):
    """Limits in tokens: of a prompt with its response, and of a prompt."""

    @property
    def max_length(self) -> int: ...
    @property
    def max_prompt_length(self) -> int: ...


@dataclass(frozen=True)
class Example:
    """A record that fits. `response_ids` end with EOS unless the response was cut at the length limit."""

    id: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    references: tuple[str, ...]
    category: str


def starts_with_bos(tokenizer: Tokenizer) -> bool:
    """Whether the model was trained with a BOS before each text: then prompts get one, everywhere."""
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def encode_examples(records: Iterable[Record], tokenizer: Tokenizer, lengths: Lengths) -> tuple[list[Example], dict[str, int]]:
    """Token ids of the records whose prompt fits, in order, and how many were dropped and cut.

    A prompt over `max_prompt_length` tokens is dropped whole: cut, it would lose the "### Response:" marker. A
    response is cut where prompt and response reach `max_length`; then it has no EOS.
    """
    records = list(records)
    bos = (tokenizer.bos_token_id,) if starts_with_bos(tokenizer) else ()
    counts: Counter[str] = Counter(dropped_prompts=0, cut_responses=0)
    examples = []
    if not records:
        return [], dict(counts)
    prompts = tokenizer([format_prompt(record) for record in records], add_special_tokens=False)["input_ids"]
    responses = tokenizer([record.response for record in records], add_special_tokens=False)["input_ids"]
    for record, prompt, response in zip(records, prompts, responses, strict=True):
        prompt_ids = (*bos, *prompt)
        if len(prompt_ids) > lengths.max_prompt_length:
            counts["dropped_prompts"] += 1
            continue
        room = lengths.max_length - len(prompt_ids)
        response_ids = (*response, tokenizer.eos_token_id)
        counts["cut_responses"] += len(response_ids) > room
        examples.append(Example(record.id, prompt_ids, response_ids[:room], record.references, record.category))
    return examples, dict(counts)
