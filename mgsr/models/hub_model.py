"""Models of the Hugging Face hub, or local folders in its format. The only step of this layer that uses the network."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mgsr.errors import MgsrError
from mgsr.hub import download, resolve
from mgsr.models.adapters import START
from mgsr.models.hub_tokenizer import check_tokenizer
from mgsr.storage import file_digest, new_folder, read_json, write_json

SAFETENSORS, PICKLES = "model.safetensors", "pytorch_model.bin"
# Decoding defaults and remote code are left behind.
KEPT = ("config.json", "LICENSE", "LICENSE.txt", "LICENSE.md", "USE_POLICY.md")
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
TOKENIZER = (*VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def fetch_model(name: str, out: Path, lock_path: Path | None, card: Mapping[str, Any] | None = None) -> None:
    """Write the model folder `out` from a local folder or from the hub, at the commit in the lock file.

    The tokenizer comes first and is checked, before hours are spent on the weights. Weights keep their type (`load_model`
    widens them). Where there are pickles only, they are read once, with code execution barred, and written as safetensors;
    those that this call fetched then leave the hub's cache. Raises MgsrError for a model that is gated or missing or has no
    usable tokenizer or weights, and where there is no network.
    """
    local = Path(name).expanduser()
    repository = None
    fetched: list[Path] = []
    if (local / START).is_file():
        raise MgsrError(f"{name} holds adapters alone; write the whole model with `mgsr merge {name} FOLDER`, and name FOLDER")
    if local.is_dir():
        files = choose_files(name, [file.name for file in local.iterdir() if file.is_file()], local)
    elif lock_path is None:
        raise MgsrError(f"{name}: no such folder, and a model of the hub needs a lock file")
    else:
        repository = resolve("model", name, lock_path)
        files = choose_files(name, repository.files, None)
        local = download(repository, [file for file in files if file in (*KEPT, *TOKENIZER)])
    tokenizer = check_tokenizer(name, local)
    if repository is not None:
        absent = [file for file in files if not (local / file).exists()]
        download(repository, files)
        files = choose_files(name, repository.files, local)
        fetched = [local / file for file in files if file in absent and file.endswith(".bin")]
    weights = [file for file in files if file.endswith((".safetensors", ".bin"))]
    converted = weights[0].startswith("pytorch_model")
    with new_folder(out) as folder:
        for file in files:
            if file not in TOKENIZER and not file.startswith("pytorch_model"):
                _place(local / file, folder / file, link=repository is not None)
                _check_safetensors(local / file)
        if converted:
            convert_pickles([local / file for file in weights], folder)
        tokenizer.save_pretrained(folder)
        checksums = {file: file_digest(local / file) for file in weights}
        source = {"source": name, "revision": repository.revision if repository else None}
        write_json(folder / "model_card.json", {**(card or {}), **source, "converted": converted, "sha256": checksums})
    for pickle_file in fetched:  # links to the cache's blobs
        pickle_file.resolve().unlink(missing_ok=True)
        pickle_file.unlink(missing_ok=True)


def choose_files(name: str, files: Iterable[str], folder: Path | None) -> list[str]:
    """Choose what to take of a model's files: tokenizer, config and one set of weights, safetensors before pickles.

    Once `folder` holds the index file, exactly the shards that it names are taken, and a missing one is an error.
    """
    present = set(files)
    if "config.json" not in present:
        raise MgsrError(f"model {name} has no config.json; it is not in the format of transformers")
    if not present.intersection(VOCABULARIES):  # transformers would make up a tokenizer of three tokens
        raise MgsrError(f"model {name} has no tokenizer; it needs one of {', '.join(VOCABULARIES)}")
    for whole in (SAFETENSORS, PICKLES):
        stem, _, suffix = whole.rpartition(".")
        index = f"{whole}.index.json"
        if whole in present:
            weights = [whole]
        elif index not in present:
            continue
        elif folder is None:
            weights = [index, *(file for file in sorted(present) if file.startswith(f"{stem}-") and file.endswith(suffix))]
        else:
            weights = [index, *sorted(set(read_json(folder / index)["weight_map"].values()))]
        if missing := sorted(set(weights) - present):
            raise MgsrError(f"model {name} lacks {', '.join(missing)}, which its {index} names")
        return sorted(present.intersection((*KEPT, *TOKENIZER))) + weights
    raise MgsrError(f"model {name} has neither {SAFETENSORS} nor {PICKLES} (nor shards of them): {', '.join(sorted(present))}")


def convert_pickles(files: list[Path], out: Path) -> None:
    """Write each pickled state dict as safetensors, with an index where there are several."""
    weight_map: dict[str, str] = {}
    size = 0
    for number, file in enumerate(files, 1):
        try:
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise MgsrError(f"{file.name} holds more than weights, or is broken ({error}); it was not executed") from error
        tensors: dict[str, torch.Tensor] = {}
        storages: set[int] = set()
        for key, value in state.items():
            if isinstance(value, torch.Tensor):  # from the mapped file; safetensors wants tied ones apart
                storage = value.untyped_storage().data_ptr()
                tensors[key] = value.clone() if storage in storages else value.contiguous()
                storages.add(storage)
        target = SAFETENSORS if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        save_file(tensors, out / target, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, target)
        size += sum(value.numel() * value.element_size() for value in tensors.values())
    if len(files) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(out / f"{SAFETENSORS}.index.json", index)


def _check_safetensors(file: Path) -> None:
    """Raise MgsrError where a file of weights is shorter than its header says."""
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise MgsrError(f"{file.name} is broken ({error}); delete {file.resolve()} and fetch it again") from error


def _is_zip(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(2) == b"PK"  # torch's format since 1.6, which alone can be mapped


def _place(source: Path, target: Path, *, link: bool) -> None:
    """Copy a user's file, which may change later. Link a file of the hub's cache, which does not: 26 GB take space once."""
    if link:
        try:
            return os.link(source.resolve(), target)
        except OSError:  # another file system, or one without links
            pass
    shutil.copyfile(source, target)
