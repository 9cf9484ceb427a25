"""Phrases by characters, then by tokens, on ordinary and on odd text."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mgsr.data.spans import phrase_spans, token_spans

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
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(["the old man walked to the river and the big bank"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>")


def phrases(text: str) -> list[str]:
    return [text[start:end] for start, end in phrase_spans(text)]


def test_a_preposition_takes_its_noun_phrase() -> None:
    assert phrases("The old man walked to the river.") == ["The old man", "walked", "to the river"]


def test_slashes_stay_in_their_word() -> None:
    assert phrases("The cat and/or dog sleeps.")[0] == "The cat and/or dog"
    assert phrases("The x&slash;y sleeps.")[0] == "The x&slash;y"  # the chunker's own spelling of a slash


@pytest.mark.parametrize("text", ODD)
def test_odd_text_gives_sorted_disjoint_spans(text: str, tokenizer: PreTrainedTokenizerFast) -> None:
    spans = phrase_spans(text)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert all(not text[start].isspace() and not text[end - 1].isspace() for start, end in spans)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    runs = token_spans(ids, tokenizer)
    assert all(0 <= start < end <= len(ids) for start, end in runs)
    assert all(a[1] <= b[0] for a, b in pairwise(runs))


def test_random_token_ids_never_fail(tokenizer: PreTrainedTokenizerFast) -> None:
    """Students write invalid bytes and special tokens in the middle."""
    draw = random.Random(0)
    for _ in range(200):
        ids = [draw.randrange(len(tokenizer)) for _ in range(draw.randrange(40))]
        runs = token_spans(ids, tokenizer)
        inside = [position for start, end in runs for position in range(start, end)]
        assert inside == sorted(set(inside)) and all(0 <= position < len(ids) for position in inside)
        assert all(ids[position] != tokenizer.eos_token_id for position in inside)


def test_runs_cover_the_words_of_the_phrases(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "The old man walked to the river."
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert [tokenizer.decode(ids[start:end]).strip() for start, end in token_spans(ids, tokenizer)] == phrases(text)


def test_characters_split_over_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    """An emoji is four byte tokens here; all four belong to the phrase of the emoji."""
    text = "the 🙂 man"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert phrases(text) == [text] and token_spans(ids, tokenizer) == [(0, len(ids))]
