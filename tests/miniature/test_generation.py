"""Text of every architecture: as transformers writes it, and from a cache of half the size."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from mgsr.config.record_sets import DataConfig
from mgsr.data.builtin_records import load_builtin
from mgsr.data.encoding import encode_examples
from mgsr.models.language_model import LanguageModel
from mgsr.models.loading import load_model, load_tokenizer
from mgsr.rollouts.decoder import CacheDecoder
from mgsr.rollouts.sampler import Decoding, Prompt, Row, complete
from tests.miniature.model_repositories import FAMILIES, REPOSITORIES

NAMES = [name for pair in FAMILIES.values() for name in pair]
STEPS = 24


def prompts_for(folder: Path) -> list[tuple[int, ...]]:
    """Prompts of different lengths, with the BOS where the model wants one."""
    records = [raw.records[0] for raw in load_builtin().values()]
    examples, _ = encode_examples(records, load_tokenizer(folder), DataConfig())
    prompts = [example.prompt_ids for example in examples]
    assert len(set(map(len, prompts))) > 3
    return prompts


def test_every_family_of_the_paper_preset_is_there() -> None:
    assert {REPOSITORIES[name].config["model_type"] for name in NAMES} == {"llama", "opt", "gpt2"} and len(NAMES) == 8


def greedy(logits: list[Tensor], rows: list[Row], keys: Tensor, *, vocabulary: int) -> Tensor:
    return logits[0][:, :vocabulary].argmax(-1)


@pytest.mark.parametrize("name", NAMES)
def test_greedy_text_padded_on_the_left_equals_transformers(model_folders: dict[str, Path], name: str) -> None:
    model, tokenizer = load_model(model_folders[name]), load_tokenizer(model_folders[name])
    prompts = prompts_for(model_folders[name])
    decoding = Decoding(STEPS, 512, seed=0, batch=len(prompts))
    rows = [Row(Prompt(str(i), prompt), decoding, tokenizer.eos_token_id, "test") for i, prompt in enumerate(prompts)]
    complete([LanguageModel.of(model, tokenizer)], rows, partial(greedy, vocabulary=len(tokenizer)), decoding.batch)
    length = max(map(len, prompts))
    padded = [[tokenizer.pad_token_id] * (length - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    theirs = model.generate(
        torch.tensor(padded),
        attention_mask=torch.tensor(mask),
        do_sample=False,
        max_new_tokens=STEPS,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=list(range(len(tokenizer), model.config.vocab_size)) or None,
    )[:, length:].tolist()
    for row, text in zip(rows, theirs, strict=True):
        assert row.response == text[: len(row.response)]
        assert len(row.response) == STEPS or row.response[-1] == tokenizer.eos_token_id
    assert len({token for row in rows for token in row.response}) > 5  # not one token for ever


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_in_the_type_of_autocast_changes_no_bit(model_folders: dict[str, Path], name: str) -> None:
    model, tokenizer = load_model(model_folders[name]), load_tokenizer(model_folders[name])
    prompts, parts = prompts_for(model_folders[name]), LanguageModel.of(model, tokenizer)
    decoder = CacheDecoder(parts)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = [decoder.advance(torch.empty(0, dtype=torch.int64), prompts)]
        chosen = [logits[-1].argmax(-1)]
        for _ in range(4):
            logits.append(decoder.advance(chosen[-1], []))
            chosen.append(logits[-1].argmax(-1))
        wide = DynamicCache(config=model.config)
        length = max(map(len, prompts))
        ids = torch.tensor([[tokenizer.pad_token_id] * (length - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        for expected, token in zip(logits, chosen, strict=True):
            places = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            states = parts.backbone(ids, attention_mask=mask, position_ids=places, past_key_values=wide, use_cache=True)
            assert torch.equal(parts.head(states.last_hidden_state[:, -1]), expected)
            ids, mask = token[:, None], torch.cat([mask, torch.ones_like(token)[:, None]], 1)
    sizes = [sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) for cache in (decoder._cache, wide)]
    tokens = [cache.get_seq_length() for cache in (decoder._cache, wide)]
    assert tokens[0] == tokens[1]
    rotary = REPOSITORIES[name].config["model_type"] == "llama"  # fp32 without our layer
    assert sizes[0] == sizes[1] / (2 if rotary else 1)
