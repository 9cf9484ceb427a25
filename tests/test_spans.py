"""Phrases by characters, then by tokens, on ordinary and on odd text."""

import random
from itertools import pairwise
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mgsr.config.loss_terms import SpanConfig
from mgsr.data.spans import phrase_spans, sentence_spans, token_spans

ODD = [
    "", " ", "\n\n", "a", "...", "/", "&slash;", "and/or &slash; x/y", "I like 🙂 emoji — naïve café…",
    "1. Red\n2. Blue & green",
    "“Quoted” don't, e.g. Mr. Smith :-) : )", "日本語 のテキスト",
    "END-OF-SENTENCE is here.\n\nAnother\r\nline", "\u2028a\u00a0b\tc",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bytes_ = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<eos>"], initial_alphabet=bytes_, show_progress=False)
    bpe.train_from_iterator(["the old man walked to the river and the big bank"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>")


def encoded(text: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def texts(text: str, tokenizer: PreTrainedTokenizerFast, **config: Any) -> list[str]:
    """The spans of a text that ends with an end-of-sequence."""
    ids = [*encoded(text, tokenizer), tokenizer.eos_token_id]
    return [tokenizer.decode(ids[start:end]).strip() for start, end in token_spans(ids, tokenizer, SpanConfig(**config))]


READINGS = [
    SpanConfig(),
    SpanConfig(prepositional="chunk", uncovered="own"),
    SpanConfig(priors="fixed", fixed_length=3),
    SpanConfig(priors="sentences", min_tokens=2, uncovered="own"),
]
each_reading = pytest.mark.parametrize("config", READINGS, ids=lambda config: f"{config.priors}-{config.prepositional}")


def phrases(text: str) -> list[str]:
    return [text[start:end] for start, end in phrase_spans(text)]


def test_slashes_stay_in_their_word() -> None:
    assert phrases("The cat and/or dog sleeps.")[0] == "The cat and/or dog"
    assert phrases("The x&slash;y sleeps.")[0] == "The x&slash;y"  # the chunker's own spelling of a slash


@each_reading
@pytest.mark.parametrize("text", ODD)
def test_odd_text_gives_sorted_disjoint_spans(text: str, tokenizer: PreTrainedTokenizerFast, config: SpanConfig) -> None:
    for spans in (phrase_spans(text), phrase_spans(text, "chunk"), sentence_spans(text)):
        assert all(0 <= start < end <= len(text) for start, end in spans)
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
        assert all(not text[start].isspace() and not text[end - 1].isspace() for start, end in spans)
    ids = encoded(text, tokenizer)
    runs = token_spans(ids, tokenizer, config)
    assert all(0 <= start < end <= len(ids) for start, end in runs)
    assert all(a[1] <= b[0] for a, b in pairwise(runs))


@each_reading
def test_random_token_ids_never_fail(tokenizer: PreTrainedTokenizerFast, config: SpanConfig) -> None:
    """Students write invalid bytes and special tokens in the middle."""
    draw = random.Random(0)
    for _ in range(200):
        ids = [draw.randrange(len(tokenizer)) for _ in range(draw.randrange(40))]
        runs = token_spans(ids, tokenizer, config)
        assert all(end - start >= config.min_tokens for start, end in runs)
        inside = [position for start, end in runs for position in range(start, end)]
        assert inside == sorted(set(inside)) and all(0 <= position < len(ids) for position in inside)
        assert all(ids[position] != tokenizer.eos_token_id for position in inside)


def test_a_preposition_takes_its_noun_phrase_or_leaves_it_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "The old man walked to the river."
    assert texts(text, tokenizer) == phrases(text) == ["The old man", "walked", "to the river"]
    assert texts(text, tokenizer, prepositional="chunk") == ["The old man", "walked", "to", "the river"]


def test_characters_split_over_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    """An emoji is four byte tokens here; all four belong to the phrase of the emoji."""
    text = "the 🙂 man"
    ids = encoded(text, tokenizer)
    assert phrases(text) == [text] and token_spans(ids, tokenizer, SpanConfig()) == [(0, len(ids))]


def test_sentences_keep_their_abbreviations_and_end_at_blank_lines(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "Mr. Smith and/or I went. Did we?\n\nA heading\n\nThe end"
    expected = ["Mr. Smith and/or I went.", "Did we?", "A heading", "The end"]
    assert [text[start:end] for start, end in sentence_spans(text)] == expected
    assert texts(text, tokenizer, priors="sentences") == expected


def test_fixed_runs_start_anew_behind_a_special_token(tokenizer: PreTrainedTokenizerFast) -> None:
    eos = tokenizer.eos_token_id
    assert eos is not None
    ids = [5, 6, 7, 8, 9, eos, 5, 6, eos]
    config = SpanConfig(priors="fixed", fixed_length=2)
    assert token_spans(ids, tokenizer, config) == [(0, 2), (2, 4), (4, 5), (6, 8)]
    assert token_spans(ids, tokenizer, config.model_copy(update={"min_tokens": 2})) == [(0, 2), (2, 4), (6, 8)]
    assert token_spans([], tokenizer, config) == []


def test_uncovered_runs_become_spans_and_cover_all_ordinary_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "The old man, walked... to the river!"
    ids = [*encoded(text, tokenizer), tokenizer.eos_token_id]
    own = token_spans(ids, tokenizer, SpanConfig(uncovered="own"))
    assert [position for start, end in own for position in range(start, end)] == list(range(len(ids) - 1))
    phrases_only = token_spans(ids, tokenizer, SpanConfig())
    assert set(phrases_only) < set(own)
    assert [tokenizer.decode(ids[a:b]).strip() for a, b in own if (a, b) not in phrases_only] == [",", "...", "!"]


def test_min_tokens_leaves_short_spans_out(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "the old man walked to the river"
    ids = encoded(text, tokenizer)
    every = token_spans(ids, tokenizer, SpanConfig())
    longest = max(end - start for start, end in every)
    kept = token_spans(ids, tokenizer, SpanConfig(min_tokens=longest))
    assert kept == [(start, end) for start, end in every if end - start == longest] != every
