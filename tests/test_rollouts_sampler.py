import random
from dataclasses import replace

import pytest
import torch
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor

from mgsr.errors import MgsrError
from mgsr.rollouts.sampler import NgramBan, Prompt
from mgsr.rollouts.sequence import Sequence
from tests import rollouts_support
from tests.rollouts_support import EOS, PAD, PLAIN, VOCABULARY, greedy, language_model, parts, prompts, reference, sample, tiny


def endless(**options):
    """A model whose text never ends."""
    return replace(parts(**options), eos_id=VOCABULARY + 1)


@pytest.mark.parametrize("kind", rollouts_support.KINDS)
def test_greedy_equals_transformers_generate(kind):
    model = tiny(kind)
    items = prompts(12)
    mine = greedy(language_model(model), items)
    limits = {"do_sample": False, "max_new_tokens": 20, "eos_token_id": EOS, "pad_token_id": PAD}
    for item, sequence in zip(items, mine, strict=True):
        ids = torch.tensor([item.ids])
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), **limits)
        assert sequence.response_ids == tuple(theirs[0, ids.shape[1] :].tolist())
    length = max(len(item.ids) for item in items)
    padded = torch.tensor([[PAD] * (length - len(item.ids)) + list(item.ids) for item in items])
    mask = torch.tensor([[0] * (length - len(item.ids)) + [1] * len(item.ids) for item in items])
    theirs = model.generate(padded, attention_mask=mask, **limits)
    for sequence, row in zip(mine, theirs[:, length:].tolist(), strict=True):
        assert tuple(row[: len(sequence.response_ids)]) == sequence.response_ids


def test_pitfall_23_results_come_in_the_order_of_the_prompts():
    model = parts()
    items = prompts(20)
    expected = dict(zip(items, sample(model, items), strict=True))
    random.Random(1).shuffle(items)
    assert sample(model, items, replace(PLAIN, batch=6)) == [expected[item] for item in items]
    assert [r.example_id for r in sample(model, items[3:9])] == [item.example_id for item in items[3:9]]


def test_every_axis_changes_the_text():
    model = parts()
    items = prompts(8)
    base = sample(model, items)
    for change in ({"decoding": replace(PLAIN, seed=11)}, {"purpose": "evaluation"}, {"visit": 1}, {"pass_": 1}):
        assert sample(model, items, **change) != base
    renamed = [Prompt("x" + item.example_id, item.ids) for item in items]
    assert [s.response_ids for s in sample(model, renamed)] != [s.response_ids for s in base]
    assert sample(model, items[4:], visit=1) == sample(model, items, visit=1)[4:]


def test_a_prefix_is_continued_as_if_it_had_just_been_written():
    model = parts()
    for item, whole in zip(prompts(5), sample(model, prompts(5)), strict=True):
        for cut in range(0, len(whole.response_ids) + 1, 2):
            assert sample(model, [Prompt(item.example_id, item.ids, whole.response_ids[:cut])]) == [whole]


def test_the_limit_counts_prompt_prefix_and_response():
    model, short = endless(), replace(PLAIN, max_length=16)
    for item, sequence in zip(prompts(8), sample(model, prompts(8), short), strict=True):
        assert len(sequence.response_ids) == min(20, 16 - len(item.ids)) and not sequence.finished
    (full,) = sample(model, [Prompt("a", (5,), (6,) * 15)], short)
    assert full == Sequence("a", (5,), (6,) * 15, False, "student")
    with pytest.raises(MgsrError, match="example a: a prompt of 16 tokens"):
        sample(model, [Prompt("a", (5,) * 16)], short)


def test_ids_beyond_the_shared_vocabulary_are_never_chosen():
    model = parts(vocabulary=64)
    longest = {}
    for vocabulary in (20, 64):
        texts = sample(replace(model, vocabulary=vocabulary), prompts(10))
        longest[vocabulary] = max(token for s in texts for token in s.response_ids)
    assert longest[20] < 20 and longest[64] >= 40


def test_modes_and_gradients_are_left_alone():
    model = tiny("gpt2")  # dropout 0.1
    expected = sample(language_model(model), prompts(4))
    model.train()
    model.transformer.h[0].eval()
    before = [module.training for module in model.modules()]
    assert sample(language_model(model), prompts(4)) == expected
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled() and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_ngram_ban_equals_transformers(n):
    generator = torch.Generator().manual_seed(n)
    for length in (1, 2, 5, 40, 90):
        tokens = torch.randint(0, 3 if n > 1 else 9, (length,), generator=generator).tolist()
        theirs = NoRepeatNGramLogitsProcessor(n)(torch.tensor([tokens]), torch.zeros(1, 10))
        assert set(NgramBan(n, tokens).banned()) == set((theirs[0] == -torch.inf).nonzero().flatten().tolist())


def test_no_ngram_repeats_over_prompt_and_response():
    model = replace(endless(), vocabulary=8)  # few tokens, so that bans matter
    free = replace(PLAIN, max_new_tokens=30)
    decoding = replace(free, no_repeat_ngram=2)
    items = [Prompt(f"r{i}", tuple(torch.randint(0, 8, (i + 2,)).tolist())) for i in range(5)]
    texts = sample(model, items, decoding)
    assert texts == sample(model, items, replace(decoding, batch=2)) == [reference(model, item, decoding) for item in items]
    assert texts != sample(model, items, free)


def test_diverged_weights_are_named():
    model = tiny()
    model.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(MgsrError, match="example row-0, response position 0: the logits are not finite"):
        sample(language_model(model), prompts(1))
