"""The one sampler, of training and of evaluation. It works on token ids and knows nothing about text."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mgsr.errors import MgsrError
from mgsr.models.language_model import LanguageModel
from mgsr.rollouts.decoder import CacheDecoder, Decoder, device_of, inference
from mgsr.rollouts.noise import coupled_scores, key_tensor, row_key
from mgsr.rollouts.sequence import Author, Sequence, by_length


@dataclass(frozen=True)
class Decoding:
    """Sampling at T = 1 from the whole distribution, or greedy.

    max_new_tokens: limit of the response. max_length: limit of prompt and response together.
    no_repeat_ngram: no n-gram of this length occurs twice in prompt and response; 0 is off. The code base's final evaluation
    uses 6, a default that none of its scripts mentions.
    """

    max_new_tokens: int
    max_length: int
    no_repeat_ngram: int = 0
    greedy: bool = False

    def limit(self, prompt: Items[int]) -> int:
        """How many tokens the response may have."""
        return min(self.max_new_tokens, self.max_length - len(prompt))

    def room(self, prompt: Prompt) -> int:
        """`limit`, or a MgsrError where no response could follow the prompt."""
        if (limit := self.limit(prompt.ids)) < 1 or not prompt.ids:
            raise MgsrError(
                f"example {prompt.example_id}: a prompt of {len(prompt.ids)} tokens leaves no room for a response "
                f"within max_length {self.max_length}; lower max_prompt_length or raise max_length"
            )
        return limit


@dataclass(frozen=True)
class Prompt:
    """What to continue: a prompt and, if given, the first tokens of its response."""

    example_id: str
    ids: tuple[int, ...]
    prefix: tuple[int, ...] = ()


class NgramBan:
    """Which tokens would repeat an n-gram of a growing sequence. One dictionary a row, kept up token by token."""

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


@dataclass
class _Row:
    """A sequence under way. `index` is its place in the caller's list."""

    index: int
    prompt: Prompt
    limit: int
    key: int
    response: list[int] = field(default_factory=list)
    ban: NgramBan | None = None


def generate(
    model: LanguageModel,
    prompts: Items[Prompt],
    decoding: Decoding,
    *,
    seed: int,
    purpose: str,
    visit: int | Items[int],
    pass_: int = 0,
    eos_id: int,
    pad_id: int,
    vocabulary: int,
    batch: int,
    author: Author = "student",
) -> list[Sequence]:
    """Write a response to each prompt, in the order of the prompts.

    The random number of a token depends on (seed, purpose, visit, pass, example id, response position, token id). A given
    prefix is kept as it is and continued at response position len(prefix); one that ends in end-of-sequence is complete.
    Module modes are restored; nothing has a gradient. Autocast is the caller's.

    Args:
        visit: how often the example was seen before (the epoch), for all prompts or one for each.
        pass_: 0 for the rollout itself, k for the k-th re-generation.
        vocabulary: tokens from this id on are never chosen (padded output layers).
        batch: rows decoded together; finished rows leave.
        author: whose model it is.

    Raises:
        MgsrError: a prompt leaves no room for a response; the model gives logits that are not finite.
    """
    visits = [visit] * len(prompts) if isinstance(visit, int) else list(visit)
    rows = [
        _Row(i, prompt, decoding.room(prompt), row_key(seed, purpose, at, pass_, prompt.example_id), list(prompt.prefix))
        for i, (prompt, at) in enumerate(zip(prompts, visits, strict=True))
    ]
    for row in rows:
        if decoding.no_repeat_ngram:
            row.ban = NgramBan(decoding.no_repeat_ngram, [*row.prompt.ids, *row.prompt.prefix])
    unfinished = [row for row in rows if len(row.response) < row.limit and row.response[-1:] != [eos_id]]
    with inference(model):
        for group in by_length([len(row.prompt.ids) + len(row.response) for row in unfinished], batch):
            _decode(CacheDecoder(model, pad_id), [unfinished[i] for i in group], decoding, eos_id, vocabulary, device_of(model))
    return [
        Sequence(row.prompt.example_id, row.prompt.ids, tuple(row.response), row.response[-1:] == [eos_id], author)
        for row in rows
    ]


def _decode(decoder: Decoder, rows: list[_Row], decoding: Decoding, eos_id: int, vocabulary: int, device: torch.device) -> None:
    keys = key_tensor((row.key for row in rows), device)
    logits = decoder.prefill([(*row.prompt.ids, *row.response) for row in rows])
    while True:
        chosen = _choose(logits[:, :vocabulary].float(), rows, keys, decoding.greedy)
        running = []
        for i, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            row.response.append(token)
            if row.ban:
                row.ban.append(token)
            if token != eos_id and len(row.response) < row.limit:
                running.append(i)
        if not running:
            return
        if len(running) < len(rows):
            kept = torch.tensor(running, device=device)
            decoder.select(kept)
            rows, keys, chosen = [rows[i] for i in running], keys[kept], chosen[kept]
        logits = decoder.step(chosen)


def _choose(logits: Tensor, rows: list[_Row], keys: Tensor, greedy: bool) -> Tensor:
    """The next token of each row, [rows]; logits [rows, vocabulary] in float32."""
    bans = [(i, token) for i, row in enumerate(rows) if row.ban for token in row.ban.banned()]
    if bans:
        at = torch.tensor(bans, device=logits.device)
        logits = logits.index_put((at[:, 0], at[:, 1]), logits.new_tensor(-torch.inf))
    if greedy:
        score = logits
    else:
        positions = torch.tensor([len(row.response) for row in rows], device=logits.device)
        score = coupled_scores(logits.log_softmax(-1), keys, positions)
    best, chosen = score.max(-1)
    if not best.isfinite().all():
        bad = next(row for row, fine in zip(rows, best.isfinite().tolist(), strict=True) if not fine)
        raise MgsrError(
            f"example {bad.prompt.example_id}, response position {len(bad.response)}: the model's logits are not finite; "
            "the weights have probably diverged (lower the learning rate or drop it from training.learning_rate)"
        )
    return chosen
