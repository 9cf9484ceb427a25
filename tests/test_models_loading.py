"""Folders to models and back; adapters; checkpoints; the vocabulary check."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from mgsr.config.families import LoraConfig
from mgsr.errors import MgsrError
from mgsr.models.language_model import load_frozen, split
from mgsr.models.loading import (
    check_shared_vocabulary,
    load_model,
    load_tokenizer,
    load_trainable_state,
    narrow,
    save_model,
    trainable_state,
    vocabulary_size,
)
from mgsr.models.tiny import train_tokenizer
from mgsr.storage import seal_folder
from tests.models_support import IDS, TARGETS, TOKENIZER, random_model
from tests.plan_support import ROOT

MASK = torch.ones_like(IDS)
MASK[0, :4] = 0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    saved = {kind: tmp_path_factory.mktemp("models") / kind for kind in TARGETS}
    for kind, folder in saved.items():
        save_model(random_model(kind), TOKENIZER, folder)
    return saved


def lora(kind: str) -> LoraConfig:
    return LoraConfig(rank=2, alpha=8, dropout=0.1, target_modules=TARGETS[kind])


def stir(model: torch.nn.Module) -> None:
    """Move every trainable weight, the adapters' zero halves among them."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("kind", TARGETS)
def test_backbone_and_head_give_the_logits_exactly(folders: dict[str, Path], kind: str, adapted: bool) -> None:
    model = load_model(folders[kind], lora=lora(kind) if adapted else None)
    stir(model)
    backbone, head = split(model)
    positions = (MASK.cumsum(1) - 1).clamp(min=0)
    hidden = backbone(IDS, attention_mask=MASK, position_ids=positions, past_key_values=None, use_cache=False)
    logits = model(input_ids=IDS, attention_mask=MASK, position_ids=positions).logits
    assert torch.equal(head(hidden.last_hidden_state), logits)
    head(hidden.last_hidden_state).sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert any("lora_" in name for name in trained) is adapted


@pytest.mark.parametrize("kind", TARGETS)
def test_narrow_weights_change_no_bit_under_autocast(folders: dict[str, Path], kind: str) -> None:
    wide, small = load_model(folders[kind], frozen=True), load_model(folders[kind], frozen=True, precision="bf16")
    sizes = [sum(parameter.nbytes for parameter in model.parameters()) for model in (wide, small)]
    assert sizes[1] < 0.75 * sizes[0]
    assert small.get_input_embeddings().weight.dtype == torch.float32  # tied to the output layer in gpt2 and opt
    results = []
    for backbone, head in (split(wide), split(small)):
        with torch.autocast("cpu", torch.bfloat16):
            first = backbone(IDS, attention_mask=MASK, use_cache=True)
            longer = torch.cat([MASK, torch.ones(len(IDS), 1, dtype=MASK.dtype)], 1)
            then = backbone(IDS[:, :1], attention_mask=longer, past_key_values=first.past_key_values, use_cache=True)
            results.append([head(output.last_hidden_state) for output in (first, then)])
    for expected, given in zip(*results, strict=True):
        assert torch.equal(expected, given)


@pytest.mark.parametrize("kind", TARGETS)
def test_a_model_loads_straight_into_the_types_it_would_be_narrowed_to(folders: dict[str, Path], kind: str) -> None:
    """Adapters too: they start from the same random numbers, in fp32. Loading draws none itself."""
    before = torch.get_rng_state()
    later = load_model(folders[kind], lora=lora(kind), seed=4)
    narrow(later)
    straight = load_model(folders[kind], lora=lora(kind), seed=4, precision="bf16")
    assert torch.equal(torch.get_rng_state(), before)
    expected = dict(later.named_parameters())
    assert {parameter.dtype for parameter in expected.values()} == {torch.float32, torch.bfloat16}
    for name, parameter in straight.named_parameters():
        assert parameter.dtype == expected[name].dtype and torch.equal(parameter, expected[name])
        assert parameter.requires_grad == expected[name].requires_grad == ("lora_" in name)


def test_the_host_holds_a_model_once_and_in_its_final_type(tmp_path: Path) -> None:
    """Shards in fp16, as LLaMA2 has them, to bf16: nowhere does the whole model stand in fp32, which takes 120 MB here."""
    sizes = {"vocab_size": 4000, "hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=8)).half()
    megabytes = 4 * sum(parameter.numel() for parameter in model.parameters()) / 2**20
    assert 100 < megabytes < 140
    model.save_pretrained(tmp_path / "large", max_shard_size="8MB")
    seal_folder(tmp_path / "large")
    save_model(random_model("llama"), TOKENIZER, tmp_path / "small")
    program = f"""if True:
        from pathlib import Path
        from resource import RUSAGE_SELF, getrusage
        from mgsr.models.loading import load_model
        load_model(Path({str(tmp_path)!r}, "small"))
        before = getrusage(RUSAGE_SELF).ru_maxrss
        model = load_model(Path({str(tmp_path)!r}, "large"), frozen=True, precision="bf16")
        print((getrusage(RUSAGE_SELF).ru_maxrss - before) / 1024)"""
    job = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(job.stdout) < 0.75 * megabytes


def test_adapters_start_from_their_own_seed(folders: dict[str, Path]) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.rand(1)
        states.append(trainable_state(load_model(folders["llama"], lora=lora("llama"), seed=seed)))
    assert all("lora_" in name for name in states[0])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


@pytest.mark.parametrize("adapted", [False, True])
def test_trainable_state_round_trip(folders: dict[str, Path], adapted: bool) -> None:
    config = lora("llama") if adapted else None
    model, fresh = load_model(folders["llama"], lora=config), load_model(folders["llama"], lora=config, seed=9)
    stir(model)
    state = trainable_state(model)
    stir(model)  # the state is a copy
    load_trainable_state(fresh, state)
    assert all(torch.equal(value, state[name]) for name, value in trainable_state(fresh).items())
    del state[next(iter(state))]
    with pytest.raises(MgsrError, match="another model"):
        load_trainable_state(fresh, state)


@pytest.mark.parametrize("kind", TARGETS)
def test_dropout_acts_in_training_only(folders: dict[str, Path], kind: str) -> None:
    model = load_model(folders[kind], dropout=0.5)
    assert torch.equal(model(input_ids=IDS).logits, load_model(folders[kind])(input_ids=IDS).logits)
    model.train()
    assert not torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)
    still = load_model(folders[kind]).train()
    assert torch.equal(still(input_ids=IDS).logits, still(input_ids=IDS).logits)


def test_half_precision_files_are_widened(tmp_path: Path) -> None:
    save_model(random_model("llama").to(torch.float16), TOKENIZER, tmp_path / "half")
    assert {value.dtype for value in load_model(tmp_path / "half").state_dict().values()} == {torch.float32}


def test_incomplete_and_unsupported_folders_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MgsrError, match="holds no model"):
        load_model(tmp_path)
    save_model(random_model("llama"), TOKENIZER, tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MgsrError, match=r"m is damaged: model\.safetensors has other contents"):
        load_model(tmp_path / "m")
    seal_folder(tmp_path / "m")
    with pytest.raises(MgsrError, match=r"lack model.layers.1.mlp.up_proj.weight"):
        load_model(tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"gemma2"'))
    seal_folder(tmp_path / "m")
    with pytest.raises(MgsrError, match="'gemma2' are not supported; choose one of gpt2, llama, opt"):
        load_model(tmp_path / "m")
    with pytest.raises(MgsrError, match="target_modules"):
        load_model(folders["gpt2"], lora=lora("llama"))


def test_pitfall_14_shared_vocabulary(tmp_path: Path) -> None:
    save_model(random_model("llama", vocabulary=320), TOKENIZER, tmp_path / "padded")
    model, tokenizer = load_frozen(tmp_path / "padded", "fp32", torch.device("cpu"))
    check_shared_vocabulary(TOKENIZER, tokenizer)
    assert model.vocabulary == vocabulary_size(TOKENIZER) == 300 < model.head.out_features == 320
    assert (model.eos_id, model.pad_id) == (TOKENIZER.eos_token_id, TOKENIZER.pad_token_id)
    assert not any(parameter.requires_grad for part in (model.backbone, model.head) for parameter in part.parameters())
    with pytest.raises(MgsrError, match=r"id 300 is no token for the teacher, '.+' for the student"):
        check_shared_vocabulary(TOKENIZER, train_tokenizer(310, 64))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(MgsrError, match="not the pre_tokenizer"):
        check_shared_vocabulary(TOKENIZER, tokenizer)
    ended = load_tokenizer(tmp_path / "padded")
    ended.eos_token = ended.pad_token
    with pytest.raises(MgsrError, match=r"end-of-sequence is '<\|end\|>' for the teacher, '<\|pad\|>'"):
        check_shared_vocabulary(TOKENIZER, ended)


def test_pad_token_falls_back_to_eos(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(300, 64)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token_id == load_tokenizer(tmp_path).eos_token_id == 0
