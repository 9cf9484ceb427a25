"""The supported model types, and where each keeps what we need. A type that is not here is refused, as its output layer
may do more than a matrix product (soft-capping, scaling), or its dropout may have other names."""

from __future__ import annotations

from dataclasses import dataclass

from mgsr.errors import MgsrError


@dataclass(frozen=True)
class Architecture:
    """Attribute names of a `transformers` causal language model."""

    backbone: str  # of the model: tokens to final hidden states, the last norm included
    layers: str  # of the model, dotted: its ModuleList of blocks
    layer_count: str  # of the config
    dropout: tuple[str, ...]  # of the config
    layer_dropout: tuple[str, ...] = ()  # of the config, always held at 0: it would skip whole layers at random


ARCHITECTURES = {
    # Llama has no dropout but on attention weights
    "llama": Architecture("model", "model.layers", "num_hidden_layers", ("attention_dropout",)),
    "gpt2": Architecture("transformer", "transformer.h", "n_layer", ("resid_pdrop", "embd_pdrop", "attn_pdrop")),
    "opt": Architecture("model", "model.decoder.layers", "num_hidden_layers", ("dropout", "attention_dropout"), ("layerdrop",)),
}


def architecture_of(model_type: str) -> Architecture:
    """Look a model type up. Raises MgsrError for one that is not supported."""
    try:
        return ARCHITECTURES[model_type]
    except KeyError:
        raise MgsrError(
            f"models of type '{model_type}' are not supported; choose one of {', '.join(sorted(ARCHITECTURES))}, "
            "or add a line to mgsr/models/architectures.py and its test"
        ) from None
