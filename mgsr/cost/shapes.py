"""Sizes of models without their weights, and what follows from them: parameters, operations and bytes. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mgsr.config.families import GgufModel, ModelConfig, PrunedModel, TinyModel
from mgsr.config.plan import Plan
from mgsr.preflight import parameters
from mgsr.storage import read_json

LAYERS = {"gpt2": "n_layer"}  # else num_hidden_layers


@cache
def known_shapes() -> dict[str, dict[str, Any]]:
    shapes: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return shapes


@dataclass(frozen=True)
class Shape:
    """A model's size. `values`: a configuration of transformers with its `model_type`: llama, gpt2 or opt."""

    values: dict[str, Any] = field(hash=False)

    @property
    def layers(self) -> int:
        return int(self.values[LAYERS.get(self.values["model_type"], "num_hidden_layers")])

    @property
    def width(self) -> int:
        return int(self.values["n_embd" if self.values["model_type"] == "gpt2" else "hidden_size"])

    @property
    def _keys(self) -> int:
        """Width of the keys, and of the values."""
        heads = self.values.get("num_attention_heads", 1)
        return self.width * int(self.values.get("num_key_value_heads") or heads) // int(heads)

    @property
    def block(self) -> int:
        """Weights of one layer's matrices."""
        kind, width = self.values["model_type"], self.width
        if kind == "llama":
            return 2 * width * (width + self._keys) + 3 * width * int(self.values["intermediate_size"])
        inner = int(self.values["ffn_dim"]) if kind == "opt" else int(self.values.get("n_inner") or 4 * width)
        return 4 * width**2 + 2 * width * inner

    @property
    def head(self) -> int:
        """Weights of the output layer."""
        return int(self.values["vocab_size"]) * int(self.values.get("word_embed_proj_dim", self.width))

    @property
    def parameters(self) -> int:
        """All weights, each counted once."""
        kind, width = self.values["model_type"], self.width
        if kind == "llama":
            tables = self.head * (1 if self.values.get("tie_word_embeddings", False) else 2)
            return self.layers * (self.block + 2 * width) + width + tables
        inner = int(self.values["ffn_dim"]) if kind == "opt" else int(self.values.get("n_inner") or 4 * width)
        small = 9 * width + inner  # biases and norms of a layer
        positions = int(self.values["n_positions"]) if kind == "gpt2" else int(self.values["max_position_embeddings"]) + 2
        projections = 0 if self.head == self.values["vocab_size"] * width else 2 * width * self.values["word_embed_proj_dim"]
        return self.layers * (self.block + small) + 2 * width + positions * width + self.head + projections

    def forward(self, tokens: float, length: float, scored: float) -> float:
        """FLOPs of a forward pass over `tokens` in sequences of `length`, with logits at `scored` of them."""
        attention = 2 * self.layers * self.width * length  # causal: half of the scores
        return tokens * (2 * self.layers * self.block + attention) + 2 * scored * self.head

    def cache_bytes(self, length: float, bytes_each: int) -> float:
        """Keys and values of one row of `length` tokens."""
        return 2.0 * self.layers * self._keys * length * bytes_each


class Shapes:
    """The shapes of a plan's base models. `assumed`: what is said of those that had to be guessed."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.assumed: dict[str, str] = {}

    def of(self, name: str) -> Shape:
        """Of the base model `name`, a digest."""
        built = self._plan.root / "models" / name / "config.json"
        return Shape(read_json(built)) if built.is_file() else self._planned(self._plan.models[name].model)

    def _planned(self, model: ModelConfig) -> Shape:
        if isinstance(model, TinyModel):
            return Shape(_tiny(model))
        if isinstance(model, PrunedModel):
            values = dict(self._planned(model.source).values)
            layers = LAYERS.get(values["model_type"], "num_hidden_layers")
            return Shape({**values, layers: max(1, values[layers] - (model.drop_last - model.drop_first + 1))})
        name = model.package if isinstance(model, GgufModel) else model.name
        folder = Path(name).expanduser() / "config.json"
        if folder.is_file():
            return Shape(read_json(folder))
        if name in known_shapes():
            return Shape(known_shapes()[name])
        bound = parameters(model)
        like = min(known_shapes(), key=lambda other: abs(Shape(known_shapes()[other]).parameters - bound))
        self.assumed[name] = f"{name} is taken for a model as large as {like}"
        return Shape(known_shapes()[like])


def _tiny(model: TinyModel) -> dict[str, Any]:
    if model.architecture == "gpt2":
        sizes = {"n_embd": model.width, "n_layer": model.layers, "n_head": model.heads, "n_positions": model.max_length}
    else:
        sizes = {"hidden_size": model.width, "num_hidden_layers": model.layers, "num_attention_heads": model.heads}
        sizes |= {"intermediate_size": 4 * model.width, "max_position_embeddings": model.max_length}
    return {"model_type": model.architecture, "vocab_size": model.vocabulary_size, **sizes}
