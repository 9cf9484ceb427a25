"""Small models with random weights, one of each supported type, and a tokenizer that fits them."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedModel

from mgsr.models.tiny import train_tokenizer

TOKENIZER = train_tokenizer(300, 64)
IDS = torch.randint(0, 300, (3, 9), generator=torch.Generator().manual_seed(1))
TARGETS = {"llama": ("q_proj", "v_proj"), "opt": ("q_proj", "v_proj"), "gpt2": ("c_attn",)}  # of adapters, by type


def random_model(
    kind: str, vocabulary: int = 300, *, seed: int = 5, init: float = 0.1, eos_id: int = 0, pad_id: int = 1, width: int = 16
) -> PreTrainedModel:
    torch.manual_seed(seed)
    ids = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": eos_id, "pad_token_id": pad_id}
    if kind == "gpt2":
        shape = {"n_layer": 3, "n_embd": width, "n_head": 2, "n_positions": 128}
        return GPT2LMHeadModel(GPT2Config(**ids, **shape, initializer_range=init))
    shape = {"hidden_size": width, "num_hidden_layers": 3, "max_position_embeddings": 128}
    if kind == "llama":
        shape |= {"intermediate_size": 2 * width, "num_attention_heads": 4, "num_key_value_heads": 2}
        return LlamaForCausalLM(LlamaConfig(**ids, **shape, initializer_range=init))
    shape |= {"word_embed_proj_dim": width // 2, "ffn_dim": 2 * width, "num_attention_heads": 2}
    return OPTForCausalLM(OPTConfig(**ids, **shape, init_std=init, do_layer_norm_before=True))
