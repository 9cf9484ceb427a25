"""Builds a model folder from a model's configuration."""

from __future__ import annotations

from pathlib import Path

from mgsr.config.families import GgufModel, HubModel, ModelConfig, PrunedModel, TinyModel
from mgsr.config.specs import ModelSpec, read_spec
from mgsr.errors import MgsrError
from mgsr.hub import lock_path
from mgsr.models.gguf import NAMES, build_gguf
from mgsr.models.hub_model import fetch_model
from mgsr.models.loading import load_tokenizer, save_model
from mgsr.models.pruned import build_pruned
from mgsr.models.tiny import build_tiny


def model_name(config: ModelConfig) -> str:
    """How cards and tables name a model; the name tells what was done to the weights."""
    match config:
        case TinyModel():
            return f"tiny {config.architecture}, {config.layers} x {config.width}, from random weights"
        case HubModel():
            return config.name
        case GgufModel():
            return NAMES[config.package]
        case PrunedModel():
            return f"{model_name(config.source)}, without layers {config.drop_first}-{config.drop_last}"


def build_model(spec: ModelSpec, out: Path, base: Path | None = None, lock: Path | None = None) -> None:
    """Write the model folder `out`: config, safetensors, tokenizer, model_card.json.

    `base`: the folder of a pruned model's source, already built. `lock`: the lock file of hub revisions; only a hub model
    needs it, and only it may use the network. Raises MgsrError.
    """
    config = spec.model
    card = {"name": model_name(config), "builder": config.builder, "spec": spec.model_dump(mode="json")}
    match config:
        case TinyModel():
            save_model(*build_tiny(config, spec.seed), out, card)
        case GgufModel():
            save_model(*build_gguf(config.package), out, card)
        case PrunedModel():
            if base is None:
                raise MgsrError(f"{model_name(config)}: build its source first and pass that folder as base")
            save_model(build_pruned(config, base), load_tokenizer(base), out, card)
        case HubModel():
            fetch_model(config.name, out, lock, card)


def build(root: Path, name: str) -> None:
    """Write `models/<name>`. A pruned model's source stands there already."""
    spec, models = read_spec(root, name, ModelSpec), root / "models"
    build_model(spec, models / name, models / spec.source if spec.source else None, lock_path(root))
