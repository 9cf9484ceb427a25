"""The decoder of our own against transformers' cache, and texts under continuous batching against the sampler's."""

from dataclasses import dataclass, field

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from mgsr.config.families import TinyModel
from mgsr.models.language_model import split
from mgsr.models.tiny import build_tiny
from mgsr.rollouts.continuous import decode_continuously
from mgsr.rollouts.decoder import CacheDecoder, inference
from mgsr.rollouts.decoder_weights import decoder_weights
from mgsr.rollouts.noise import coupled_scores, row_key
from mgsr.rollouts.sampler import Decoding, generate
from mgsr.rollouts.static_decoder import StaticDecoder
from tests.rollouts_support import AXES, EOS, KINDS, PAD, VOCABULARY, prompts, tiny

LIMIT = 20
CPU = torch.device("cpu")


def grouped(seed=0, heads=6, key_heads=2):
    """A llama whose heads share keys, with a rotary base, head width and norms of its own."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=36,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=heads,
            num_key_value_heads=key_heads,
            head_dim=8,
            attention_bias=True,
            rope_parameters={"rope_type": "default", "rope_theta": 100.0},
            tie_word_embeddings=True,
            initializer_range=0.3,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) / 4)
    return model.eval()


def adapted():
    model = get_peft_model(grouped(), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model.eval()


MODELS = {**{kind: lambda kind=kind: tiny(kind) for kind in KINDS}, "grouped": grouped, "adapted": adapted}


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_those_over_transformers_cache(name):
    """Prompts of several lengths; rows that leave and change places, in both ways of moving them; a cache that grows."""
    model = split(MODELS[name]())
    draw = torch.Generator().manual_seed(1)
    with inference(model):
        ours, theirs = StaticDecoder(decoder_weights(model)), CacheDecoder(model, PAD)
        texts = [item.ids for item in prompts(7, seed=2)]
        logits = [decoder.prefill(texts) for decoder in (ours, theirs)]
        for step in range(60):
            torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)
            kept = {5: [0, 1, 6, 3, 4, 5], 9: [0, 2, 3, 5], 12: [3, 0, 2], 40: [2, 1]}.get(step)
            if kept is not None:
                for decoder in (ours, theirs):
                    decoder.select(torch.tensor(kept))
                texts = [texts[row] for row in kept]
            tokens = torch.randint(VOCABULARY, (len(texts),), generator=draw)
            logits = [decoder.step(tokens) for decoder in (ours, theirs)]


@dataclass
class Row:
    """A text of the sampler's, for the loop of continuous batching."""

    prompt: tuple[int, ...]
    key: int
    response: list[int] = field(default_factory=list)

    @property
    def tokens(self):
        return (*self.prompt, *self.response)

    @property
    def is_complete(self):
        return self.response[-1:] == [EOS] or len(self.response) == LIMIT

    def append(self, token):
        self.response.append(token)


def choose(logits, rows, keys):
    positions = torch.tensor([len(row.response) for row in rows])
    return coupled_scores(logits[0][:, :VOCABULARY].float().log_softmax(-1), keys, positions).argmax(-1)


def continuous_texts(model, items, batch):
    rows = [Row(item.ids, row_key(10, "rollout", 0, 0, item.example_id)) for item in items]
    with inference(model):
        decode_continuously([StaticDecoder(decoder_weights(model))], rows, choose, batch, CPU)
    return [tuple(row.response) for row in rows]


def sampled_texts(model, items):
    written = generate(model, items, Decoding(LIMIT, 128), seed=10, purpose="rollout", visit=0, batch=8, **AXES)
    return [sequence.response_ids for sequence in written]


@pytest.mark.parametrize("name", MODELS)
def test_texts_equal_the_samplers_token_by_token(name):
    model, items = split(MODELS[name]()), prompts(20)
    expected = sampled_texts(model, items)
    assert len({len(text) for text in expected}) > 2  # rows leave and enter at different times
    for batch in (1, 3, 20):
        assert continuous_texts(model, items, batch) == expected


@pytest.mark.parametrize("seed", range(3))
def test_texts_of_the_tiny_models_of_smoke(seed):
    config = TinyModel(builder="tiny", architecture="llama", layers=2, width=64, heads=4, initializer_range=0.06)
    model = split(build_tiny(config, seed)[0])
    items = prompts(24, seed=seed, longest=40)
    assert continuous_texts(model, items, 6) == sampled_texts(model, items)


def test_many_long_prompts_enter_one_after_the_other():
    model = split(tiny())
    items = prompts(30, longest=60)
    assert sum(len(item.ids) for item in items) > 512
    assert continuous_texts(model, items, 30) == sampled_texts(model, items)


def test_weights_are_cast_to_the_type_of_autocast():
    model = split(tiny())
    with torch.autocast("cpu", torch.bfloat16):
        weights = decoder_weights(model)
    assert weights.dtype == weights.blocks[0].down.weight.dtype == weights.head.weight.dtype == torch.bfloat16
    logits, exact = (StaticDecoder(w).prefill([(4, 5), (6,)]) for w in (weights, decoder_weights(model)))
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), exact, rtol=0.1, atol=0.2)


def test_architectures_without_a_reader_are_left_to_the_generic_decoder():
    common = {"vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    for change in ({"do_layer_norm_before": False}, {"word_embed_proj_dim": 16}):
        assert decoder_weights(split(OPTForCausalLM(OPTConfig(**common, **{"word_embed_proj_dim": 32, **change})))) is None
