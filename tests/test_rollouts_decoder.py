"""Both decoders against each other, and the texts that each of them leads to."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from mgsr.models.language_model import inference
from mgsr.rollouts import sampler
from mgsr.rollouts.decoder import CacheDecoder, open_decoder
from mgsr.rollouts.decoder_weights import decoder_weights
from mgsr.rollouts.static_decoder import StaticDecoder
from tests.rollouts_support import EOS, PAD, PLAIN, VOCABULARY, language_model, parts, prompts, reference, sample, tiny

IDS = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": PAD}
OPT_SHAPE = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 32}


def opt(**changes):
    torch.manual_seed(0)
    return OPTForCausalLM(OPTConfig(**IDS, **{**OPT_SHAPE, **changes}, init_std=0.3, max_position_embeddings=128)).eval()


def grouped():
    """A llama whose heads share keys, with biases, a head width and a rotary base of its own, and norms that are not 1."""
    torch.manual_seed(0)
    shape = {"hidden_size": 36, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 6}
    own = {"num_key_value_heads": 2, "head_dim": 8, "attention_bias": True, "rope_parameters": {"rope_theta": 100.0}}
    model = LlamaForCausalLM(LlamaConfig(**IDS, **shape, **own, tie_word_embeddings=True, initializer_range=0.3))
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            parameter.data += torch.randn_like(parameter) / 4
    return model.eval()


def adapted():
    model = get_peft_model(grouped(), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return model.eval()


MODELS = {"llama": tiny, "grouped": grouped, "adapted": adapted, "gpt2": lambda: tiny("gpt2"), "opt": opt}


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_the_static_decoder_equal_those_over_transformers_cache(name):
    """Prompts of several lengths; rows that leave, change places in both ways of moving them, and join; a cache that grows."""
    model = language_model(MODELS[name]())
    draw = torch.Generator().manual_seed(1)
    kept = {5: [0, 1, 6, 3, 4, 5], 9: [0, 2, 3, 5], 12: [3, 0, 2], 40: [2, 1], 44: []}
    joins = {0: prompts(7, seed=2), 13: prompts(3, seed=3, longest=40), 45: prompts(2, seed=4)}
    with inference(model):
        ours, theirs = open_decoder(model), CacheDecoder(model)
        assert isinstance(ours, StaticDecoder)
        rows = 0
        for step in range(60):
            tokens = torch.randint(VOCABULARY, (rows,), generator=draw)
            entering = [item.ids for item in joins.get(step, ())]
            logits = [decoder.advance(tokens, entering) for decoder in (ours, theirs)]
            rows += len(entering)
            assert logits[0].shape == (rows, VOCABULARY)
            torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)
            if step in kept:
                rows = len(kept[step])
                for decoder in (ours, theirs):
                    decoder.select(torch.tensor(kept[step], dtype=torch.int64))


@pytest.fixture(params=[open_decoder, CacheDecoder], ids=["static", "generic"])
def decoder(request, monkeypatch):
    monkeypatch.setattr(sampler, "open_decoder", request.param)


@pytest.mark.parametrize("name", MODELS)
def test_text_equals_the_definition_whatever_the_batch(name, decoder):
    model, items = language_model(MODELS[name]()), prompts(14)
    expected = [reference(model, item) for item in items]
    assert len({len(s.response_ids) for s in expected}) > 1  # rows leave and join at different times
    for batch in (1, 3, 14):
        assert sample(model, items, replace(PLAIN, batch=batch)) == expected


def test_many_long_prompts_enter_in_several_steps(decoder):
    model, items, long = parts(), prompts(30, longest=60), replace(PLAIN, max_length=128)
    assert sum(len(item.ids) for item in items) > 512
    assert sample(model, items, replace(long, batch=30)) == [reference(model, item, long) for item in items]


def test_weights_are_cast_to_the_type_of_autocast():
    model = parts()
    with torch.autocast("cpu", torch.bfloat16):
        weights = decoder_weights(model)
    assert weights.dtype == weights.blocks[0].down.weight.dtype == weights.head.weight.dtype == torch.bfloat16
    empty = torch.empty(0, dtype=torch.int64)
    logits, exact = (StaticDecoder(w).advance(empty, [(4, 5), (6,)]) for w in (weights, decoder_weights(model)))
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), exact, rtol=0.1, atol=0.2)


@pytest.mark.parametrize("change", [{"do_layer_norm_before": False}, {"word_embed_proj_dim": 16}])
def test_other_architectures_are_left_to_the_generic_decoder(change):
    assert isinstance(open_decoder(language_model(opt(**change))), CacheDecoder)
