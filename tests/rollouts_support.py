"""Tiny random models, and text of theirs by the definition, for the tests of the rollouts."""

from dataclasses import replace

import torch
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor

from mgsr.models.language_model import LanguageModel, inference, split
from mgsr.rollouts.noise import coupled_scores, key_tensor, row_key
from mgsr.rollouts.sampler import Decoding, Prompt, Row, complete, generate
from mgsr.rollouts.sequence import Sequence
from tests.models_support import random_model

VOCABULARY = 40
EOS = 3
PAD = 3  # as in many tokenizers; masks go by position
KINDS = ("llama", "gpt2", "opt")
PLAIN = Decoding(max_new_tokens=20, max_length=64, seed=10, batch=8)


def tiny(kind="llama", seed=0, init=0.3, vocabulary=VOCABULARY):
    """A transformers model with its own random weights; the large init makes its distributions differ by context."""
    return random_model(kind, vocabulary, seed=seed, init=init, eos_id=EOS, pad_id=PAD, width=32).eval()


def language_model(model):
    return LanguageModel(*split(model), eos_id=EOS, pad_id=PAD, vocabulary=VOCABULARY)


def parts(kind="llama", **options):
    return language_model(tiny(kind, **options))


def prompts(count, seed=0, longest=12):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    draw = [torch.randint(4, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    return [Prompt(f"row-{i}", tuple(ids)) for i, ids in enumerate(draw)]


def sample(model, items, decoding=PLAIN, *, visit=0, purpose="rollout", pass_=0, author="student"):
    items = [replace(item, visit=visit) for item in items]
    return generate(model, items, decoding, purpose=purpose, pass_=pass_, author=author)


def greedy(model, items, decoding=PLAIN):
    """Through the one decode loop, the most probable token at each position."""
    rows = [Row(item, decoding, model.eos_id, "rollout") for item in items]
    complete([model], rows, lambda logits, running, keys: logits[0][:, : model.vocabulary].argmax(-1), decoding.batch)
    return [row.sequence("student") for row in rows]


def reference(model, prompt, decoding=PLAIN, pass_=0, author="student"):
    """One sequence, no cache, no padding: the definition."""
    key = key_tensor([row_key(decoding.seed, "rollout", prompt.visit, pass_, prompt.example_id)])
    response = list(prompt.prefix)
    limit = min(decoding.max_new_tokens, decoding.max_length - len(prompt.ids))
    with inference(model):
        while len(response) < limit and response[-1:] != [model.eos_id]:
            ids = torch.tensor([[*prompt.ids, *response]])
            state = model.backbone(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, -1]
            logits = model.head(state)[:, : model.vocabulary].float()
            if decoding.no_repeat_ngram:
                logits = NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram)(ids, logits)
            response.append(coupled_scores(logits.log_softmax(-1), key, torch.tensor([len(response)])).argmax(-1).item())
    return Sequence(prompt.example_id, prompt.ids, tuple(response), response[-1:] == [model.eos_id], author)
