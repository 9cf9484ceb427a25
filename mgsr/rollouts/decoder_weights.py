"""The weights of a language model as the static decoder multiplies them: cast once, and one matrix for each input.

All supported architectures are one network here: blocks of norm, attention, norm, multi-layer perceptron around a residual
stream. They differ in what an embedding adds, in the norm, in the rotation of queries and keys, and in the activation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgsr.models.language_model import LanguageModel

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Projection:
    """A linear layer, [n, in] -> [n, out]. The result is a transposed view: on a CPU, W x^T takes about half of x W^T's time
    where rows are few."""

    weight: Tensor  # [out, in]
    bias: Tensor | None = None  # [out, 1]

    def __call__(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return torch.mm(self.weight, x.t()).t()
        return torch.addmm(self.bias, self.weight, x.t()).t()


@dataclass(frozen=True)
class Block:
    """One layer: x + output(attention(query_key_value(norm_1(x)))), then x + down(activation(up(norm_2(x))))."""

    norm_1: Function
    query_key_value: Projection
    output: Projection
    norm_2: Function
    up: Projection
    activation: Function
    down: Projection


@dataclass(frozen=True)
class DecoderWeights:
    """A network in one type, `dtype`; the residual stream and the norms keep the model's own, as under autocast."""

    dtype: torch.dtype
    heads: int
    key_heads: int  # fewer than heads where some heads share keys and values
    head_width: int
    embed: Callable[[Tensor, Tensor], Tensor]  # tokens [n], positions [n] -> [n, width]
    rotation: Function | None  # positions [n] -> complex [n, 1, head_width / 2]; None without rotary embeddings
    blocks: tuple[Block, ...]
    norm: Function
    head: Projection


def decoder_weights(model: LanguageModel) -> DecoderWeights | None:
    """The model's weights as they are now, in the type of the caller's autocast; None for an architecture without a reader.

    Adapters are added in. Nothing has a gradient, and nothing follows a later change of the model.
    """
    backbone: Any = model.backbone
    reader = _READERS.get(backbone.config.model_type)
    device = next(model.head.parameters()).device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else next(model.head.parameters()).dtype
    with torch.no_grad(), torch.autocast(device, enabled=False):
        return reader(backbone, model.head, dtype) if reader is not None else None


def _llama(backbone: Any, head: nn.Module, dtype: torch.dtype) -> DecoderWeights | None:
    config = backbone.config
    if config.hidden_act != "silu" or backbone.rotary_emb.rope_type not in ("default", "linear", "llama3"):
        return None
    width: int = backbone.layers[0].self_attn.head_dim
    # Neighbours in place of halves: a rotation is one product of complex numbers, and scores are the same sums reordered.
    order = torch.arange(width).view(2, -1).t().flatten()

    def rotation(positions: Tensor) -> Tensor:
        cosine, sine = backbone.rotary_emb(torch.empty(0, device=positions.device), positions)
        half = width // 2
        return torch.complex(cosine[:, None, :half], sine[:, None, :half])

    def block(layer: Any) -> Block:
        attention, mlp = layer.self_attn, layer.mlp
        query, key = (_permuted(x, width, order) for x in (attention.q_proj, attention.k_proj))
        return Block(
            norm_1=_rms_norm(layer.input_layernorm),
            query_key_value=_stacked([query, key, _linear(attention.v_proj)], dtype),
            output=_stacked([_linear(attention.o_proj)], dtype),
            norm_2=_rms_norm(layer.post_attention_layernorm),
            up=_stacked([_linear(mlp.gate_proj), _linear(mlp.up_proj)], dtype),
            activation=_gated_silu,
            down=_stacked([_linear(mlp.down_proj)], dtype),
        )

    return DecoderWeights(
        dtype,
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        head_width=width,
        embed=lambda tokens, positions: F.embedding(tokens, backbone.embed_tokens.weight),
        rotation=rotation,
        blocks=tuple(block(layer) for layer in backbone.layers),
        norm=_rms_norm(backbone.norm),
        head=_stacked([_linear(head)], dtype),
    )


def _gpt2(backbone: Any, head: nn.Module, dtype: torch.dtype) -> DecoderWeights | None:
    config = backbone.config
    if config.add_cross_attention or not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx:
        return None

    def block(layer: Any) -> Block:
        return Block(
            norm_1=layer.ln_1,
            query_key_value=_stacked([_linear(layer.attn.c_attn)], dtype),
            output=_stacked([_linear(layer.attn.c_proj)], dtype),
            norm_2=layer.ln_2,
            up=_stacked([_linear(layer.mlp.c_fc)], dtype),
            activation=layer.mlp.act,
            down=_stacked([_linear(layer.mlp.c_proj)], dtype),
        )

    return DecoderWeights(
        dtype,
        heads=config.n_head,
        key_heads=config.n_head,
        head_width=config.n_embd // config.n_head,
        embed=lambda tokens, positions: F.embedding(tokens, backbone.wte.weight) + F.embedding(positions, backbone.wpe.weight),
        rotation=None,
        blocks=tuple(block(layer) for layer in backbone.h),
        norm=backbone.ln_f,
        head=_stacked([_linear(head)], dtype),
    )


def _opt(backbone: Any, head: nn.Module, dtype: torch.dtype) -> DecoderWeights | None:
    decoder, config = backbone.decoder, backbone.config
    if decoder.final_layer_norm is None or decoder.project_in is not None:  # OPT-350m, whose norms follow their layers
        return None
    places = decoder.embed_positions

    def block(layer: Any) -> Block:
        attention = layer.self_attn
        return Block(
            norm_1=layer.self_attn_layer_norm,
            query_key_value=_stacked([_linear(x) for x in (attention.q_proj, attention.k_proj, attention.v_proj)], dtype),
            output=_stacked([_linear(attention.out_proj)], dtype),
            norm_2=layer.final_layer_norm,
            up=_stacked([_linear(layer.fc1)], dtype),
            activation=layer.activation_fn,
            down=_stacked([_linear(layer.fc2)], dtype),
        )

    return DecoderWeights(
        dtype,
        heads=config.num_attention_heads,
        key_heads=config.num_attention_heads,
        head_width=config.hidden_size // config.num_attention_heads,
        embed=lambda tokens, positions: (
            F.embedding(tokens, decoder.embed_tokens.weight) + F.embedding(positions + places.offset, places.weight)
        ),
        rotation=None,
        blocks=tuple(block(layer) for layer in decoder.layers),
        norm=decoder.final_layer_norm,
        head=_stacked([_linear(head)], dtype),
    )


_READERS = {"llama": _llama, "gpt2": _gpt2, "opt": _opt}

Affine = tuple[Tensor, Tensor | None]  # weight [out, in] and bias [out]


def _linear(module: Any) -> Affine:
    """Of a linear layer, of transformers' Conv1D, which keeps its weight transposed, or of one of them under adapters."""
    base = getattr(module, "base_layer", module)
    weight: Tensor = base.weight
    for adapter in getattr(module, "active_adapters", ()):
        weight = weight + module.get_delta_weight(adapter)
    return weight if isinstance(base, nn.Linear) else weight.t(), base.bias


def _permuted(module: Any, width: int, order: Tensor) -> Affine:
    """With the outputs of each head in another order."""
    weight, bias = _linear(module)
    weight = weight.view(-1, width, weight.shape[1])[:, order].flatten(0, 1)
    return weight, None if bias is None else bias.view(-1, width)[:, order].flatten()


def _stacked(layers: list[Affine], dtype: torch.dtype) -> Projection:
    weight = torch.cat([weight.to(dtype) for weight, _ in layers]) if len(layers) > 1 else layers[0][0].to(dtype).contiguous()
    biases = [bias.to(dtype) for _, bias in layers if bias is not None]
    return Projection(weight, torch.cat(biases)[:, None] if biases else None)


def _rms_norm(module: Any) -> Function:
    return lambda x: F.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)


def _gated_silu(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up
