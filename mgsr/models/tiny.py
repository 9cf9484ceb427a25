"""Models small enough to train from scratch in seconds, with a byte-level BPE of the builtin records."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from mgsr.config.families import TinyModel
from mgsr.data.builtin_records import load_builtin
from mgsr.data.prompts import format_prompt
from mgsr.models.loading import vocabulary_size

EOS, PAD = "<|end|>", "<|pad|>"


def train_tokenizer(vocabulary_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the builtin training set: any text can be written with it. Deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((format_prompt(row) + row.response for row in load_builtin()["train"].records), trainer)
    fast: Any = PreTrainedTokenizerFast  # untyped
    wrapped: PreTrainedTokenizerFast = fast(
        tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD, model_max_length=max_length
    )
    return wrapped


def build_tiny(config: TinyModel, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model with random weights that depend on config and seed only; the global random state is left alone."""
    tokenizer = train_tokenizer(config.vocabulary_size, config.max_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _random_model(config, tokenizer), tokenizer


def _random_model(config: TinyModel, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    settings: dict[str, Any] = {
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.max_length,
        "initializer_range": config.initializer_range,
        "vocab_size": vocabulary_size(tokenizer),
        # these default to ids of the full-size vocabularies
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if config.architecture == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**settings))
    return LlamaForCausalLM(LlamaConfig(intermediate_size=4 * config.width, **settings))
