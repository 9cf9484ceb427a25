"""Low-rank adapters: how a model gets them, and a folder that keeps them in place of a whole model.

Such a folder is one of PEFT's, with the tokenizer and `start.json`, which names what the adapters were trained on: a base
model, or a run, which may itself have adapters. Whoever loads it adds them to the start's weights (`Adapter.merge`). Folders
are named relative to one another, so that a results folder can be moved as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mgsr.config.families import LoraConfig
from mgsr.errors import MgsrError
from mgsr.storage import CHECKSUMS, check_folder, file_digest, read_json, write_json

CONFIG, WEIGHTS, START = "adapter_config.json", "adapter_model.safetensors", "start.json"
_PREFIX = "base_model.model."  # PEFT's, before the names of a model


def adapt(model: PreTrainedModel, lora: LoraConfig, seed: int) -> PeftModel:
    """Freeze a model under new adapters, which change nothing at first; `seed` fixes their random half. Raises MgsrError where
    the model has no linear layers of these names."""
    config = PeftConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # only divided by the rank
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # GPT-2's weights are transposed
    )
    where = f"lora.target_modules {list(lora.target_modules)} do not fit a {model.config.model_type} model"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:
            raise MgsrError(f"{where}: {error}") from error
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and not isinstance(module.get_base_layer(), nn.Linear | Conv1D):
            raise MgsrError(f"{where}: {name} is no linear layer")
    return adapted


def save_adapter(model: PeftModel, state: Mapping[str, Tensor], start: Path, folder: Path) -> None:
    """Write adapters into a folder that exists. `state`: their weights, as `trainable_state` gives them. `start`: the folder of
    what they were trained on."""
    config: Any = model.peft_config["default"]
    tensors = {name.replace(".default.", "."): value.contiguous() for name, value in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    shown = ("r", "lora_alpha", "lora_dropout", "fan_in_fan_out")
    values = {name: getattr(config, name) for name in shown} | {"target_modules": sorted(config.target_modules)}
    write_json(folder / CONFIG, {"peft_type": "LORA", "task_type": "CAUSAL_LM", **values})
    relative = os.path.relpath(start.resolve(), folder.resolve())
    write_json(folder / START, {"folder": Path(relative).as_posix(), "checksums": file_digest(start / CHECKSUMS)})


@dataclass(frozen=True)
class Adapter:
    """What adapters add to the weights of a model."""

    pairs: dict[str, tuple[Tensor, Tensor]]  # by the weight's name: A [rank, in] and B [out, rank], fp32 on the CPU
    scale: float
    transposed: bool  # weights are [in, out]

    @classmethod
    def read(cls, folder: Path) -> Adapter:
        config = read_json(folder / CONFIG)
        try:
            state = load_file(folder / WEIGHTS)
            stems = sorted({name.rpartition(".lora_")[0] for name in state})
            parts = [(state[f"{stem}.lora_A.weight"], state[f"{stem}.lora_B.weight"]) for stem in stems]
        except (OSError, SafetensorError, KeyError) as error:
            raise MgsrError(f"{folder}: the adapters do not load ({error}); delete the run and train it again") from error
        names = [f"{stem.removeprefix(_PREFIX)}.weight" for stem in stems]
        return cls(dict(zip(names, parts, strict=True)), config["lora_alpha"] / config["r"], config["fan_in_fan_out"])

    def merge(self, name: str, weight: Tensor) -> Tensor:
        """The weight of this name with the update added, in fp32: on the CPU, so that no bit depends on the device."""
        if name not in self.pairs:
            return weight
        a, b = self.pairs[name]
        update = b @ a
        return weight.float() + (update.T if self.transposed else update) * self.scale


def whole_model(folder: Path) -> tuple[Path, list[Adapter]]:
    """The folder of the whole model that `folder` stands on (itself, without adapters), and the adapters to merge, in order.
    Raises MgsrError where a start is missing or another one."""
    adapters: list[Adapter] = []
    while (folder / START).is_file():
        stated = read_json(folder / START)
        start = Path(os.path.normpath(folder / stated["folder"]))
        if not start.is_dir():
            raise MgsrError(f"{folder} holds adapters of {start}, which is not there; move or restore the whole results folder")
        check_folder(folder)
        if not (start / CHECKSUMS).is_file() or file_digest(start / CHECKSUMS) != stated["checksums"]:
            raise MgsrError(
                f"{folder} holds adapters of {start}, whose weights are no longer those that they were trained on; restore "
                "them, or delete this run and train it again"
            )
        adapters.insert(0, Adapter.read(folder))
        folder = start
    return folder, adapters
