"""Tiny random models for the tests of the rollouts."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from mgsr.models.language_model import split
from mgsr.rollouts.sampler import Prompt

VOCABULARY = 40
EOS = 3
PAD = 3  # as in many tokenizers; masks go by position
KINDS = ("llama", "gpt2", "opt")
AXES = {"eos_id": EOS, "pad_id": PAD, "vocabulary": VOCABULARY}


def tiny(kind="llama", seed=0, init=0.3, vocabulary=VOCABULARY):
    """A transformers model with its own random weights; the large init makes its distributions differ by context."""
    torch.manual_seed(seed)
    common = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": PAD}
    if kind == "llama":
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(**common, **shape, max_position_embeddings=128, initializer_range=init))
    elif kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(**common, n_embd=32, n_layer=2, n_head=2, n_positions=128, initializer_range=init))
    else:
        shape = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "init_std": init}
        model = OPTForCausalLM(OPTConfig(**common, **shape, word_embed_proj_dim=32, max_position_embeddings=128))
    return model.eval()


def parts(kind="llama", **options):
    return split(tiny(kind, **options))


def prompts(count, seed=0, longest=12):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    draw = [torch.randint(4, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    return [Prompt(f"row-{i}", tuple(ids)) for i, ids in enumerate(draw)]
