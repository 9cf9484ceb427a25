import random
from itertools import pairwise

import pytest
import torch
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor

from mgsr.errors import MgsrError
from mgsr.models.language_model import inference, split
from mgsr.rollouts.decoder import CacheDecoder
from mgsr.rollouts.noise import coupled_scores, key_tensor, row_key
from mgsr.rollouts.sampler import Decoding, NgramBan, Prompt, generate
from mgsr.rollouts.sequence import Sequence, collate
from tests.rollouts_support import AXES, EOS, KINDS, PAD, VOCABULARY, parts, prompts, tiny

PLAIN = Decoding(max_new_tokens=20, max_length=64)
GREEDY = Decoding(max_new_tokens=20, max_length=64, greedy=True)


def sample(model, items, decoding=PLAIN, batch=8, seed=10, purpose="rollout", visit=0, **options):
    return generate(model, items, decoding, seed=seed, purpose=purpose, visit=visit, batch=batch, **{**AXES, **options})


def reference(model, prompt, decoding, seed=10, purpose="rollout", visit=0, pass_=0, author="student"):
    """One sequence, no cache, no padding: the definition."""
    key = key_tensor([row_key(seed, purpose, visit, pass_, prompt.example_id)])
    response = list(prompt.prefix)
    limit = min(decoding.max_new_tokens, decoding.max_length - len(prompt.ids))
    with inference(model):
        while len(response) < limit and response[-1:] != [EOS]:
            ids = torch.tensor([[*prompt.ids, *response]])
            state = model.backbone(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, -1]
            logp = model.head(state)[:, :VOCABULARY].float().log_softmax(-1)
            score = logp if decoding.greedy else coupled_scores(logp, key, torch.tensor([len(response)]))
            response.append(score.argmax(-1).item())
    return Sequence(prompt.example_id, prompt.ids, tuple(response), response[-1:] == [EOS], author)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_equals_transformers_generate(kind):
    model = tiny(kind)
    items = prompts(12)
    mine = sample(split(model), items, GREEDY)
    for item, sequence in zip(items, mine, strict=True):
        ids = torch.tensor([item.ids])
        theirs = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20, eos_token_id=EOS, pad_token_id=PAD
        )
        assert sequence.response_ids == tuple(theirs[0, ids.shape[1] :].tolist())
    length = max(len(item.ids) for item in items)
    padded = torch.tensor([[PAD] * (length - len(item.ids)) + list(item.ids) for item in items])
    mask = torch.tensor([[0] * (length - len(item.ids)) + [1] * len(item.ids) for item in items])
    theirs = model.generate(padded, attention_mask=mask, do_sample=False, max_new_tokens=20, eos_token_id=EOS, pad_token_id=PAD)
    for sequence, row in zip(mine, theirs[:, length:].tolist(), strict=True):
        assert tuple(row[: len(sequence.response_ids)]) == sequence.response_ids


@pytest.mark.parametrize("kind", KINDS)
def test_text_equals_the_definition_whatever_the_batch(kind):
    model = parts(kind)
    items = prompts(14)
    expected = [reference(model, item, PLAIN) for item in items]
    assert len({len(s.response_ids) for s in expected}) > 1  # rows leave the batch at different times
    assert {s.finished for s in expected} == {True, False}
    for batch in (1, 3, 14):
        assert sample(model, items, batch=batch) == expected


def test_pitfall_23_results_come_in_the_order_of_the_prompts():
    model = parts()
    items = prompts(20)
    expected = dict(zip(items, sample(model, items), strict=True))
    random.Random(1).shuffle(items)
    assert sample(model, items, batch=6) == [expected[item] for item in items]
    assert [r.example_id for r in sample(model, items[3:9])] == [item.example_id for item in items[3:9]]


def test_every_axis_changes_the_text():
    model = parts()
    items = prompts(8)
    base = sample(model, items)
    for change in ({"seed": 11}, {"purpose": "evaluation"}, {"visit": 1}, {"pass_": 1}):
        assert sample(model, items, **change) != base
    renamed = [Prompt("x" + item.example_id, item.ids) for item in items]
    assert [s.response_ids for s in sample(model, renamed)] != [s.response_ids for s in base]
    mixed = sample(model, items, visit=[0] * 4 + [1] * 4)
    assert mixed == base[:4] + sample(model, items, visit=1)[4:]


def test_a_prefix_is_continued_as_if_it_had_just_been_written():
    model = parts()
    for item, whole in zip(prompts(5), sample(model, prompts(5)), strict=True):
        for cut in range(0, len(whole.response_ids) + 1, 2):
            assert sample(model, [Prompt(item.example_id, item.ids, whole.response_ids[:cut])]) == [whole]


def test_the_limit_counts_prompt_prefix_and_response():
    model = parts()
    never = {"eos_id": VOCABULARY + 1}
    short = Decoding(max_new_tokens=20, max_length=16)
    for item, sequence in zip(prompts(8), sample(model, prompts(8), short, **never), strict=True):
        assert len(sequence.response_ids) == min(20, 16 - len(item.ids)) and not sequence.finished
    (full,) = sample(model, [Prompt("a", (5,), (6,) * 15)], short, **never)
    assert full == Sequence("a", (5,), (6,) * 15, False, "student")
    with pytest.raises(MgsrError, match="example a: a prompt of 16 tokens"):
        sample(model, [Prompt("a", (5,) * 16)], short)


def test_ids_beyond_the_shared_vocabulary_are_never_chosen():
    model = parts(vocabulary=64)
    texts = sample(model, prompts(10), vocabulary=20, eos_id=3)
    assert max(token for s in texts for token in s.response_ids) < 20
    assert max(token for s in sample(model, prompts(10), vocabulary=64) for token in s.response_ids) >= 40


def test_modes_and_gradients_are_left_alone():
    model = tiny("gpt2")  # dropout 0.1
    expected = sample(split(model), prompts(4))
    model.train()
    model.transformer.h[0].eval()
    before = [module.training for module in model.modules()]
    assert sample(split(model), prompts(4)) == expected
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled() and all(p.requires_grad for p in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_decoder_and_teacher_forced_logits_agree(kind):
    model = parts(kind)
    texts = sample(model, prompts(6), Decoding(6, 64), eos_id=VOCABULARY + 1)
    decoder = CacheDecoder(model, PAD)
    seen = [decoder.prefill([s.prompt_ids for s in texts])]
    for i in range(5):
        seen.append(decoder.step(torch.tensor([s.response_ids[i] for s in texts])))
        if i == 2:  # drop and reorder rows under way
            order = torch.tensor([4, 0, 5, 2])
            decoder.select(order)
            texts, seen = [texts[j] for j in order], [logits[order] for logits in seen]
    batch = collate(texts, PAD)
    states = model.backbone(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state.flatten(0, 1)
    forced = model.head(states[batch.hidden_index]).view(4, 6, -1)
    torch.testing.assert_close(torch.stack(seen, 1), forced, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_ngram_ban_equals_transformers(n):
    generator = torch.Generator().manual_seed(n)
    for length in (1, 2, 5, 40, 90):
        tokens = torch.randint(0, 3 if n > 1 else 9, (length,), generator=generator).tolist()
        theirs = NoRepeatNGramLogitsProcessor(n)(torch.tensor([tokens]), torch.zeros(1, 10))
        assert set(NgramBan(n, tokens).banned()) == set((theirs[0] == -torch.inf).nonzero().flatten().tolist())


@pytest.mark.parametrize("greedy", [True, False])
def test_no_ngram_repeats_over_prompt_and_response(greedy):
    model = tiny()
    decoding = Decoding(30, 64, no_repeat_ngram=2, greedy=greedy)
    options = {"eos_id": VOCABULARY + 1, "vocabulary": 8}  # few tokens, so that bans matter
    items = [Prompt(f"r{i}", tuple(torch.randint(0, 8, (i + 2,)).tolist())) for i in range(5)]
    texts = sample(split(model), items, decoding, **options)
    assert texts == sample(split(model), items, decoding, batch=2, **options)
    for s in texts:
        tokens = [*s.prompt_ids, *s.response_ids]
        pairs = list(pairwise(tokens))
        fresh = pairs[len(s.prompt_ids) - 1 :]
        assert len(set(fresh)) == len(fresh) and not set(fresh) & set(pairs[: len(s.prompt_ids) - 1])
    assert texts != sample(split(model), items, Decoding(30, 64, greedy=greedy), **options)


def test_greedy_with_ban_equals_transformers_generate():
    model = tiny()
    item = Prompt("a", (5, 6, 7, 5, 6, 8))
    ids = torch.tensor([item.ids])
    theirs = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=50,
        no_repeat_ngram_size=2,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    (mine,) = sample(split(model), [item], Decoding(50, 64, no_repeat_ngram=2, greedy=True))
    assert mine.response_ids == tuple(theirs[0, 6:].tolist())


@pytest.mark.parametrize("greedy", [True, False])
def test_diverged_weights_are_named(greedy):
    model = tiny()
    model.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(MgsrError, match="example row-0, response position 0: the model's logits are not finite"):
        sample(split(model), prompts(1), Decoding(4, 64, greedy=greedy))
