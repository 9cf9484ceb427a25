"""Tiny models: deterministic down to the byte, with a vocabulary that any text fits."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from mgsr.config.families import TinyModel
from mgsr.config.specs import ModelSpec
from mgsr.data.builtin_records import load_builtin
from mgsr.data.prompts import format_prompt
from mgsr.models.build import build_model
from mgsr.models.loading import load_model, load_tokenizer


def spec(seed: int = 10, **changes: object) -> ModelSpec:
    settings = {"builder": "tiny", "layers": 2, "width": 16, "heads": 2, "vocabulary_size": 400} | changes
    return ModelSpec(model=TinyModel.model_validate(settings), seed=seed, code="test")


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_rebuild_is_byte_identical_and_leaves_the_random_state(tmp_path: Path, architecture: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    build_model(spec(architecture=architecture), tmp_path / "a")
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    build_model(spec(architecture=architecture), tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    build_model(spec(seed=11, architecture=architecture), tmp_path / "c")
    changed = {name for name, content in files(tmp_path / "c").items() if content != files(tmp_path / "a")[name]}
    assert changed - {"checksums.json", "seal.json"} == {"model.safetensors", "model_card.json"}
    assert str(tmp_path).encode() not in b"".join(files(tmp_path / "a").values())


def test_tokenizer_round_trip_and_special_tokens(tmp_path: Path) -> None:
    build_model(spec(), tmp_path / "m")
    tokenizer, model = load_tokenizer(tmp_path / "m"), load_model(tmp_path / "m")
    text = format_prompt(load_builtin()["train"].records[0]) + "never seen: naïve 日本 🙂 1234"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) == model.config.vocab_size == 400
    assert tokenizer.eos_token_id == model.config.eos_token_id != tokenizer.pad_token_id == model.config.pad_token_id
    assert model.config.bos_token_id is None
    assert not {tokenizer.eos_token_id, tokenizer.pad_token_id} & set(ids)


def test_initial_deviation(tmp_path: Path) -> None:
    build_model(spec(initializer_range=0.06), tmp_path / "m")
    assert load_model(tmp_path / "m").get_input_embeddings().weight.std().item() == pytest.approx(0.06, rel=0.05)


def test_heads_of_odd_width_are_refused_in_a_llama() -> None:
    spec(heads=4, width=20, architecture="gpt2")
    with pytest.raises(ValidationError, match="width 20 is not a multiple of heads 4 times 2"):
        spec(heads=4, width=20)
