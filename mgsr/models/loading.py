"""Models are loaded from folders and saved to folders. Weights are fp32. A folder holds a whole model, or adapters of another
folder's (`mgsr.models.adapters`), which are merged in on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D

from mgsr.config.families import LoraConfig
from mgsr.errors import MgsrError
from mgsr.models.adapters import Adapter, adapt, whole_model
from mgsr.models.architectures import architecture_of
from mgsr.storage import check_folder, new_folder, read_json, write_json

transformers.utils.logging.disable_progress_bar()

Model = PreTrainedModel | PeftModel
SHARD = "2GB"  # as much of a model as passes the host's memory at once when it is saved from a device


def load_model(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dropout: float = 0.0,
    lora: LoraConfig | None = None,
    seed: int = 0,
    frozen: bool = False,
    precision: str = "fp32",
) -> Model:
    """Load a model folder, in evaluation mode, without touching the network. Each weight goes from its file to the device in
    the type that it will have there, so that the host never holds a whole model.

    `dropout` acts in training mode, in every place where the architecture has one (Llama: on attention weights only). With
    `lora` the model is frozen under new adapters, which change nothing at first; `seed` fixes their random half. A `frozen`
    model has no weight that is trained. Weights are fp32; for `precision` bf16, which is used under bf16 autocast alone, see
    `narrow`.
    Raises MgsrError for a folder without a whole model of a supported type.
    """
    folder, adapters = whole_model(folder)
    config = _config(folder)

    def fill(model: PreTrainedModel) -> None:
        _read_weights(model, folder, adapters, torch.device(device))

    return make_model(config, fill, dropout=dropout, lora=lora, seed=seed, frozen=frozen, precision=precision)


def make_model(
    config: PretrainedConfig,
    fill: Callable[[PreTrainedModel], None],
    *,
    dropout: float,
    lora: LoraConfig | None,
    seed: int,
    frozen: bool,
    precision: str,
) -> Model:
    """A model as `load_model` gives it. It has no weights until `fill` puts them in, each in the type that it finds there."""
    architecture = architecture_of(str(config.model_type))
    for name in architecture.dropout:
        setattr(config, name, dropout)
    for name in architecture.layer_dropout:
        setattr(config, name, 0.0)
    model = _without_weights(config)
    model.requires_grad_(lora is None and not frozen)
    if precision == "bf16":
        narrow(model, besides=lora.target_modules if lora else ())
    fill(model)
    loaded: Model = model if lora is None else adapt(model, lora, seed)
    if precision == "bf16":
        narrow(loaded)
    loaded.train(False)
    return loaded


def _config(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise MgsrError(f"{folder} holds no model (config.json is missing); run the workflow, which builds it")
    check_folder(folder)
    return AutoConfig.from_pretrained(folder, local_files_only=True)


def _without_weights(config: Any) -> PreTrainedModel:
    with init_empty_weights(include_buffers=False):  # LLaMA's rotary tables are computed, and in no file
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    model.tie_weights()
    return model


def parameter_count(folder: Path) -> int:
    """Parameters of the model in a folder, tied ones counted once."""
    return sum(parameter.numel() for parameter in _without_weights(_config(whole_model(folder)[0])).parameters())


def _read_weights(model: PreTrainedModel, folder: Path, adapters: Sequence[Adapter], device: torch.device) -> None:
    """Fill a model without weights, file by file, each weight in the type that the model has for it."""
    weights = dict(model.named_parameters())
    if strangers := [name for adapter in adapters for name in adapter.pairs if name not in weights]:
        raise MgsrError(f"{folder}: the model has no {strangers[0]}, for which there are adapters; train that run again")
    lacking = set(weights)
    index = folder / "model.safetensors.index.json"
    files = sorted(set(read_json(index)["weight_map"].values())) if index.exists() else ["model.safetensors"]
    try:
        for file in files:
            state: dict[str, torch.Tensor] = {}
            with safe_open(folder / file, framework="pt") as stored:
                for key in stored.keys():  # noqa: SIM118  # it is no dictionary
                    # some of the hub's checkpoints have the backbone's own names, or tables that are no weights
                    name = key if key in weights else f"{model.base_model_prefix}.{key}"
                    if name in weights:
                        value = stored.get_tensor(key)
                        for adapter in adapters:
                            value = adapter.merge(name, value)
                        state[name] = value.to(device).to(weights[name].dtype)
            model.load_state_dict(state, strict=False, assign=True)
            lacking -= state.keys()
    except torch.OutOfMemoryError as error:
        raise MgsrError(f"{folder}: the model does not fit on {device} ({error}); free memory there, or use more") from error
    except (OSError, RuntimeError, SafetensorError) as error:
        raise MgsrError(f"{folder}: the weights do not load ({error}); delete the folder and build it again") from error
    if lacking:
        raise MgsrError(f"{folder}: the weights lack {', '.join(sorted(lacking)[:5])}; delete the folder and build it again")
    model.tie_weights()
    model.to(device)  # type: ignore[arg-type]  # its signature is lost behind a decorator


def narrow(model: Model, besides: Sequence[str] = ()) -> None:
    """Keep the weights of frozen linear layers in bf16, in place; for use under bf16 autocast alone. `besides`: last names of
    layers that stay, as the random half of an adapter takes the type of the layer that it is made for.

    Autocast would round these weights to bf16 at every call, so no bit of a result changes, and they take half the memory.
    Layers that share their weight with an embedding stay as they are. Never save such a model: load it anew, as its weights
    are rounded.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for name, module in model.named_modules():
        linear = isinstance(module, nn.Linear | Conv1D) and id(module.weight) not in embeddings
        trained = any(parameter.requires_grad for parameter in module.parameters()) or name.rpartition(".")[2] in besides
        if linear and not trained:
            module.to(torch.bfloat16)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a folder's tokenizer. Where it has no padding token, end-of-sequence serves, as masks go by position. Raises
    MgsrError where it has no end-of-sequence token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise MgsrError(f"{folder}: no tokenizer that loads ({error})") from error
    if tokenizer.eos_token_id is None:
        raise MgsrError(f"{folder}: the tokenizer has no end-of-sequence token; responses could not end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path, card: Mapping[str, Any] | None = None
) -> None:
    """Write a model folder, whole or not at all: config, safetensors, tokenizer, and `card` as model_card.json.

    Decoding defaults are not written: they belong to the evaluation protocol (docs/pitfalls.md, no. 27).
    """
    with new_folder(out) as folder:
        model.save_pretrained(folder, max_shard_size=SHARD)
        (folder / "generation_config.json").unlink(missing_ok=True)
        tokenizer.save_pretrained(folder)
        if card is not None:
            write_json(folder / "model_card.json", dict(card))


def trained_weights(model: Model) -> dict[str, torch.Tensor]:
    """The weights that are trained, where they stand: all of them, or the adapters alone."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def trainable_state(model: Model) -> dict[str, torch.Tensor]:
    """Copies, on the CPU, of the weights that are trained."""
    return {name: weight.to("cpu", copy=True) for name, weight in trained_weights(model).items()}


def load_trainable_state(model: Model, state: Mapping[str, torch.Tensor]) -> None:
    """Put `trainable_state` back, bit for bit. Raises MgsrError where names or shapes differ from the model's."""
    trained = trained_weights(model)
    differing = sorted(trained.keys() ^ state.keys()) or sorted(n for n in trained if trained[n].shape != state[n].shape)
    if differing:
        raise MgsrError(f"the checkpoint is of another model: {', '.join(differing[:5])} differ; remove it to start anew")
    for name, weight in trained.items():
        weight.copy_(state[name])


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """The number of token ids. Logits are cut to it: output layers may be padded."""
    return max(tokenizer.get_vocab().values()) + 1


def check_shared_vocabulary(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> None:
    """Raise MgsrError where two models' tokenizers would turn one text into different ids (docs/pitfalls.md, no. 14)."""
    words = teacher.get_vocab(), student.get_vocab()
    if words[0] != words[1]:
        ids = [{index: token for token, index in vocabulary.items()} for vocabulary in words]
        first = min(i for i in ids[0].keys() | ids[1].keys() if ids[0].get(i) != ids[1].get(i))
        tokens = [f"'{side[first]}'" if first in side else "no token" for side in ids]
        raise _different(f"id {first} is {tokens[0]} for the teacher, {tokens[1]} for the student")
    if teacher.eos_token_id != student.eos_token_id:
        raise _different(f"end-of-sequence is '{teacher.eos_token}' for the teacher, '{student.eos_token}' for the student")
    for part, ours, theirs in zip(_PARTS, _parts(teacher), _parts(student), strict=True):
        if ours != theirs:
            raise _different(f"the tokens are the same, but not the {part}")


_PARTS = ("model", "normalizer", "pre_tokenizer")  # what turns text into ids, in a tokenizer.json


def _parts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    serial = json.loads(backend.to_str()) if backend is not None else {}
    return [json.dumps(serial.get(part), sort_keys=True) for part in _PARTS]


def _different(reason: str) -> MgsrError:
    return MgsrError(f"teacher and student have different vocabularies: {reason}; choose models of one family")
