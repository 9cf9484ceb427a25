"""A student made of its teacher's layers, for want of a small pre-trained model with the same vocabulary."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from mgsr.config.families import PrunedModel
from mgsr.errors import MgsrError
from mgsr.models.architectures import architecture_of
from mgsr.models.loading import load_model


def build_pruned(config: PrunedModel, source: Path) -> PreTrainedModel:
    """The model in folder `source` without its layers drop_first..drop_last (both included).

    Save and load it before use: blocks keep the cache index of their old place. Raises MgsrError for layers that
    the model does not have.
    """
    model = load_model(source)
    assert isinstance(model, PreTrainedModel)
    architecture = architecture_of(str(model.config.model_type))
    parent, _, name = architecture.layers.rpartition(".")
    layers = list(model.get_submodule(architecture.layers).children())
    first, last = config.drop_first, config.drop_last
    kept = layers[:first] + layers[last + 1 :]
    if not first <= last < len(layers) or not kept:
        raise MgsrError(
            f"layers {first} to {last} cannot be dropped: the model has layers 0 to {len(layers) - 1}, "
            "and at least one must stay; mend drop_first and drop_last"
        )
    setattr(model.get_submodule(parent), name, nn.ModuleList(kept))
    setattr(model.config, architecture.layer_count, len(kept))
    return model
