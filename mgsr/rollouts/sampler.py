"""The one sampler, of training and of evaluation. It works on token ids and knows nothing about text."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from mgsr.devices import halved
from mgsr.errors import MgsrError
from mgsr.models.language_model import LanguageModel, inference
from mgsr.rollouts.decoder import Decoder, open_decoder
from mgsr.rollouts.noise import coupled_scores, key_tensor, row_key
from mgsr.rollouts.sequence import Author, Sequence

_PROMPT_TOKENS = 512  # once so many enter in one step, further prompts wait for the next: activations stay small


@dataclass(frozen=True)
class Decoding:
    """How responses are written: sampled at T = 1 from the whole distribution, within these limits."""

    max_new_tokens: int  # of the response
    max_length: int  # of prompt and response together
    seed: int  # of the random numbers
    batch: int  # rows decoded together; finished ones leave
    no_repeat_ngram: int = 0  # no n-gram of this length occurs twice in prompt and response; 0: repetition is allowed

    def limit(self, prompt: Items[int]) -> int:
        """How many tokens the response to a prompt may have; below 1 where the prompt is too long."""
        return min(self.max_new_tokens, self.max_length - len(prompt))


@dataclass(frozen=True)
class Prompt:
    """What to continue: a prompt and, if given, the first tokens of its response."""

    example_id: str
    ids: tuple[int, ...]
    prefix: tuple[int, ...] = ()
    visit: int = 0  # how often the example was seen before (its epoch, or the number of the sample)


class NgramBan:
    """Which tokens would repeat an n-gram of a growing sequence. Each row has one dictionary, which grows token by token."""

    def __init__(self, n: int, tokens: Items[int]) -> None:
        self._n = n
        self._tail: tuple[int, ...] = ()
        self._seen: dict[tuple[int, ...], list[int]] = {}
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        if len(self._tail) == self._n - 1:
            self._seen.setdefault(self._tail, []).append(token)
        self._tail = (*self._tail, token)[-(self._n - 1) :] if self._n > 1 else ()

    def banned(self) -> list[int]:
        return self._seen.get(self._tail, [])


class Row:
    """A response that is being written. Raises MgsrError where no response could follow the prompt."""

    def __init__(self, prompt: Prompt, decoding: Decoding, eos_id: int, purpose: str, pass_: int = 0) -> None:
        self.prompt, self.limit, self._eos_id = prompt, decoding.limit(prompt.ids), eos_id
        if self.limit < 1 or not prompt.ids:
            raise MgsrError(
                f"example {prompt.example_id}: a prompt of {len(prompt.ids)} tokens leaves no room for a response "
                f"within max_length {decoding.max_length}; lower max_prompt_length or raise max_length"
            )
        self.key = row_key(decoding.seed, purpose, prompt.visit, pass_, prompt.example_id)
        self.response = list(prompt.prefix)
        self.ban = NgramBan(decoding.no_repeat_ngram, self.tokens) if decoding.no_repeat_ngram else None

    @property
    def tokens(self) -> tuple[int, ...]:
        return (*self.prompt.ids, *self.response)

    @property
    def finished(self) -> bool:
        return self.response[-1:] == [self._eos_id]

    @property
    def is_complete(self) -> bool:
        return self.finished or len(self.response) >= self.limit

    def append(self, token: int) -> None:
        self.response.append(token)
        if self.ban is not None:
            self.ban.append(token)

    def sequence(self, author: Author) -> Sequence:
        return Sequence(self.prompt.example_id, self.prompt.ids, tuple(self.response), self.finished, author)


AnyRow = TypeVar("AnyRow", bound=Row)
# (logits [rows, classes] of each model, the rows, their keys [rows, 2]) -> the next token of each row [rows]
Choose = Callable[[list[Tensor], list[AnyRow], Tensor], Tensor]


def generate(
    model: LanguageModel,
    prompts: Items[Prompt],
    decoding: Decoding,
    *,
    purpose: str,
    pass_: int = 0,
    author: Author = "student",
) -> list[Sequence]:
    """Write a response to each prompt, in the order of the prompts.

    The random number of a token depends on (seed, purpose, visit, pass, example id, response position, token id). A given
    prefix is kept as it is and continued at response position len(prefix); one that ends in end-of-sequence is complete.
    Autocast is the caller's.

    Args:
        purpose: what the text is for; texts of different purposes have independent random numbers.
        pass_: 0 for the rollout itself, k for the k-th re-generation.
        author: whose model it is.

    Raises:
        MgsrError: a prompt leaves no room for a response; the model gives logits that are not finite.
    """
    rows = [Row(prompt, decoding, model.eos_id, purpose, pass_) for prompt in prompts]
    complete([model], rows, partial(_choose, vocabulary=model.vocabulary), decoding.batch)
    return [row.sequence(author) for row in rows]


def _choose(logits: list[Tensor], rows: list[Row], keys: Tensor, vocabulary: int) -> Tensor:
    scores = logits[0][:, :vocabulary].float()
    bans = [(i, token) for i, row in enumerate(rows) if row.ban is not None for token in row.ban.banned()]
    if bans:
        at = torch.tensor(bans, device=scores.device)
        scores = scores.index_put((at[:, 0], at[:, 1]), scores.new_tensor(-torch.inf))
    return draw(scores.log_softmax(-1), rows, keys)


def draw(logp: Tensor, rows: Items[Row], keys: Tensor) -> Tensor:
    """A token for each row [rows], drawn from log-probabilities [rows, vocabulary] with the row's own random numbers."""
    positions = torch.tensor([len(row.response) for row in rows], device=logp.device)
    best, tokens = coupled_scores(logp, keys, positions).max(-1)
    stop_unless_finite(rows, best)
    return tokens


def stop_unless_finite(rows: Items[Row], values: Tensor) -> None:
    """Raise MgsrError for the first row whose value [rows] is not finite: it was made of the model's logits."""
    for row, finite in zip(rows, values.isfinite().tolist(), strict=True):
        if not finite:
            raise MgsrError(
                f"example {row.prompt.example_id}, response position {len(row.response)}: the logits are not finite; "
                "the weights have probably diverged (lower training.learning_rate, or drop this rate from its grid)"
            )


def complete(models: Items[LanguageModel], rows: Items[AnyRow], choose: Choose[AnyRow], batch: int) -> None:
    """Write the rows to their ends, at most `batch` of them together. Modules keep their modes, and nothing has a gradient.

    Where memory runs out, half as many go on from the tokens that they have. Raises MgsrError where one row is too many.
    """
    with inference(*models):
        while unfinished := [row for row in rows if not row.is_complete]:
            batch = min(batch, len(unfinished))
            try:
                decode([open_decoder(model) for model in models], unfinished, choose, batch, models[0].device)
            except torch.OutOfMemoryError as error:
                reason = str(error)  # the error itself holds what has to be freed
            else:
                break
            batch = halved(batch, reason)


def decode(decoders: Items[Decoder], rows: Items[AnyRow], choose: Choose[AnyRow], batch: int, device: torch.device) -> None:
    """Append tokens to the rows until each is complete, longest first. One that is leaves the batch at once, and a waiting one
    takes its place (continuous batching, Yu et al. 2022)."""
    waiting = deque(sorted(rows, key=lambda row: -len(row.tokens)))
    running: list[AnyRow] = []
    tokens = torch.empty(0, dtype=torch.int64, device=device)
    while waiting or running:
        prompts: list[tuple[int, ...]] = []
        while waiting and len(running) < batch and sum(map(len, prompts)) < _PROMPT_TOKENS:
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
