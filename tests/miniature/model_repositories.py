"""The models of the paper preset under their names on the hub: real classes and file layouts, tiny random weights."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from mgsr.storage import digest
from tests.miniature.tokenizer_files import SIZE, Files, gpt2_files, llama2_files, open_llama_files, opt_files

State = dict[str, Tensor]
SPREAD = 0.2  # deviation of the weights; with the usual 0.02 so small a model writes one token for ever
OTHER_FRAMEWORKS = ("tf_model.h5", "flax_model.msgpack", "rust_model.ot")  # large on the hub, of no use here

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "model_type": "llama",
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": SIZE,
}
LLAMA2 = {**LLAMA, "max_position_embeddings": 4096, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None}
OPEN_LLAMA2 = {**LLAMA, "max_position_embeddings": 2048, "pad_token_id": 0, "rms_norm_eps": 1e-06}
OPT: dict[str, Any] = {
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "architectures": ["OPTForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "do_layer_norm_before": True,
    "dropout": 0.1,
    "eos_token_id": 2,
    "init_std": 0.02,
    "layerdrop": 0.0,
    "max_position_embeddings": 2048,
    "model_type": "opt",
    "pad_token_id": 1,
    "prefix": "</s>",
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": SIZE,  # of which OPT_PADDING are no token
}
GPT2: dict[str, Any] = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": SIZE - 1,
    "embd_pdrop": 0.1,
    "eos_token_id": SIZE - 1,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 512,
    "n_positions": 512,
    "resid_pdrop": 0.1,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": SIZE,
}


@dataclass(frozen=True)
class Repository:
    """One model of the hub. `layout`: from its weights to its files of weights."""

    config: dict[str, Any]
    layers: int
    width: int
    tokenizer: Callable[[], Files]
    layout: Callable[[State], Files]
    more: tuple[str, ...] = ()  # other files

    def sizes(self) -> dict[str, int]:
        if self.config["model_type"] == "gpt2":
            return {"n_layer": self.layers, "n_embd": self.width, "n_head": 4}
        inner = {"num_hidden_layers": self.layers, "hidden_size": self.width, "num_attention_heads": 4}
        if self.config["model_type"] == "opt":
            return {**inner, "ffn_dim": 4 * self.width, "word_embed_proj_dim": self.width}
        return {**inner, "intermediate_size": 3 * self.width}


def _pickled(state: State) -> bytes:
    out = io.BytesIO()
    torch.save(state, out)
    return out.getvalue()


def _shards(state: State, stem: str, suffix: str, count: int, write: Callable[[State], bytes]) -> Files:
    """The weights in `count` files, in order, with the index that names the file of each."""
    names = list(state)
    size = -(-len(names) // count)
    files, weight_map = {}, {}
    for number in range(count):
        file = f"{stem}-{number + 1:05d}-of-{count:05d}.{suffix}"
        part = {name: state[name] for name in names[number * size : (number + 1) * size]}
        files[file] = write(part)
        weight_map |= dict.fromkeys(part, file)
    total = sum(value.numel() * value.element_size() for value in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return {**files, f"{stem}.{suffix}.index.json": json.dumps(index, indent=2).encode()}


def sharded_safetensors(count: int) -> Callable[[State], Files]:
    """LLaMA2: shards of safetensors, and the same weights as pickles."""

    def layout(state: State) -> Files:
        safe = _shards(state, "model", "safetensors", count, lambda part: to_safetensors(part, {"format": "pt"}))
        return {**safe, **_shards(state, "pytorch_model", "bin", count, _pickled)}

    return layout


def pickles(count: int, rename: Callable[[State], State]) -> Callable[[State], Files]:
    """OpenLLaMA2 and OPT: pickles alone."""

    def layout(state: State) -> Files:
        state = rename(state)
        return _shards(state, "pytorch_model", "bin", count, _pickled) if count > 1 else {"pytorch_model.bin": _pickled(state)}

    return layout


def with_rotary_tables(state: State) -> State:
    """As older versions of transformers saved LLaMA models."""
    layers = {name.split(".")[2] for name in state if name.startswith("model.layers.")}
    return state | {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(6) for layer in sorted(layers)}


def of_the_backbone(state: State) -> State:
    """OPT's larger checkpoints: names as of the backbone alone, without the output layer, which is tied."""
    return {name.removeprefix("model."): value for name, value in state.items() if name != "lm_head.weight"}


def gpt2_layout(state: State) -> Files:
    """GPT-2: names as of the backbone alone, and the masks of older versions of transformers; also a pickle."""
    state = {name.removeprefix("transformer."): value for name, value in state.items() if name != "lm_head.weight"}
    mask = torch.tril(torch.ones(GPT2["n_ctx"], GPT2["n_ctx"]))[None, None]
    layers = sorted({name.split(".")[1] for name in state if name.startswith("h.")})
    state |= {f"h.{layer}.attn.bias": mask.clone() for layer in layers}
    return {"model.safetensors": to_safetensors(state, {"format": "pt"}), "pytorch_model.bin": _pickled(state)}


LICENCE = ("LICENSE.txt", "USE_POLICY.md")
REPOSITORIES = {
    "meta-llama/Llama-2-13b-hf": Repository(LLAMA2, 3, 48, llama2_files, sharded_safetensors(3), LICENCE),
    "meta-llama/Llama-2-7b-hf": Repository(LLAMA2, 2, 32, llama2_files, sharded_safetensors(2), LICENCE),
    "openlm-research/open_llama_7b_v2": Repository(OPEN_LLAMA2, 3, 48, open_llama_files, pickles(2, with_rotary_tables)),
    "openlm-research/open_llama_3b_v2": Repository(OPEN_LLAMA2, 2, 40, open_llama_files, pickles(1, with_rotary_tables)),
    "facebook/opt-6.7b": Repository(OPT, 3, 48, opt_files, pickles(2, of_the_backbone), OTHER_FRAMEWORKS),
    "facebook/opt-1.3b": Repository(OPT, 2, 32, opt_files, pickles(1, dict), OTHER_FRAMEWORKS),
    "openai-community/gpt2-xl": Repository(GPT2, 3, 48, gpt2_files, gpt2_layout, OTHER_FRAMEWORKS),
    "openai-community/gpt2-large": Repository(GPT2, 3, 40, gpt2_files, gpt2_layout, OTHER_FRAMEWORKS),
    "openai-community/gpt2-medium": Repository(GPT2, 2, 40, gpt2_files, gpt2_layout, OTHER_FRAMEWORKS),
    "openai-community/gpt2": Repository(GPT2, 2, 32, gpt2_files, gpt2_layout, OTHER_FRAMEWORKS),
}
GATED = {f"models/{name}" for name in REPOSITORIES if name.startswith("meta-llama/")}
FAMILIES = {
    "LLaMA2": ("meta-llama/Llama-2-13b-hf", "meta-llama/Llama-2-7b-hf"),
    "OpenLLaMA2": ("openlm-research/open_llama_7b_v2", "openlm-research/open_llama_3b_v2"),
    "OPT": ("facebook/opt-6.7b", "facebook/opt-1.3b"),
    "GPT2": ("openai-community/gpt2-xl", "openai-community/gpt2"),
}


def reference_model(name: str) -> torch.nn.Module:
    """The model that the files of a repository hold, in fp32; its weights depend on its name alone."""
    repository = REPOSITORIES[name]
    spread = {"init_std" if repository.config["model_type"] == "opt" else "initializer_range": SPREAD}
    settings = {**repository.config, **repository.sizes(), **spread}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(digest(name)[:8], 16))
        model: torch.nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings), dtype=torch.float32)
        model.get_input_embeddings().weight.data *= 0.5  # or an output layer tied to it repeats the last token
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases start as ones and zeros
                parameter.data += 0.1 * SPREAD * torch.randn(parameter.shape)
            if repository.config.get("torch_dtype") == "float16":
                parameter.data = parameter.data.half().float()
    return model.eval()


def model_files(name: str) -> Files:
    """The files of one repository; equal on every call."""
    repository = REPOSITORIES[name]
    state = reference_model(name).state_dict()
    if repository.config.get("torch_dtype") == "float16":
        state = {key: value.half() for key, value in state.items()}
    return {
        "README.md": b"A stand-in with random weights.\n",
        "config.json": json.dumps({**repository.config, **repository.sizes()}, indent=2).encode(),
        "generation_config.json": b'{"_from_model_config": true, "temperature": 0.6, "do_sample": true}',
        **repository.tokenizer(),
        **repository.layout(state),
        **{path: f"A stand-in for {path}.\n".encode() for path in repository.more},
    }
