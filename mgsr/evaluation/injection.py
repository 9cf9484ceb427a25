"""Plants one error in each good response, at a known place: repetition, semantic drift, factual substitution.

An error is planted in the text, between words, and the text is tokenised anew, so that it looks like a model's own error. Its
position k is the first response token that differs from the original's; all tokens before it are the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from textblob.en.parsers import PatternParser

from mgsr.data.encoding import Example, Tokenizer
from mgsr.rollouts.noise import uniform

Item = TypeVar("Item")

ERRORS = ("repetition", "drift", "substitution")
FIRST_WORD = 3  # words before an error at least
REPEATED_WORDS = 3  # the last words before the error come again...
REPEATS = 2  # ...so many times
FACTS = ("CD", "NNP", "NNS", "NN")  # tags of the words that are substituted: numbers first, then names, then nouns

_parser = PatternParser()
_WORD = re.compile(r"\S+")
_CORE = re.compile(r"\w(?:.*\w)?")  # a word without the punctuation around it
_SENTENCE_END = re.compile(r"[.!?:]\W*$")


@dataclass(frozen=True)
class Injected:
    """A response with an error. ids, original_ids: with and without it, both cut alike. position: k. end: one past the last
    planted token."""

    example: Example
    error: str
    ids: tuple[int, ...]
    original_ids: tuple[int, ...]
    position: int
    end: int


def _tags(text: str) -> dict[str, str]:
    """Part of speech by word, as the chunker of the span priors tags it."""
    fields = (tagged.rsplit("/", 3) for tagged in str(_parser.parse(text)).split())
    return {field[0]: field[1] for field in fields if len(field) == 4}


class Planter:
    """Plants errors in the references of these examples. A borrowed word or answer comes from another one of them."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self._tags = {example.id: _tags(example.references[0]) for example in examples}
        words = [(word, tag) for tags in self._tags.values() for word, tag in tags.items()]
        self._pool = {fact: sorted({word for word, tag in words if tag == fact}) for fact in FACTS}
        self._errors = dict(zip(ERRORS, (self._repetition, self._drift, self._substitution), strict=True))

    def plant(self, example: Example, error: str) -> str | None:
        """The example's reference with this error; None where it is too short, or has nothing to substitute."""
        text = example.references[0]
        words = list(_WORD.finditer(text))
        return self._errors[error](example, text, words) if len(words) > FIRST_WORD else None

    def _repetition(self, example: Example, text: str, words: list[re.Match[str]]) -> str | None:
        """The words before the error come again, then the response goes on."""
        at = _choose(range(FIRST_WORD, len(words)), example, "repetition")
        start = words[at].start()
        return text[:start] + text[words[at - REPEATED_WORDS].start() : start] * REPEATS + text[start:]

    def _drift(self, example: Example, text: str, words: list[re.Match[str]]) -> str | None:
        """From the error on, the answer to another question; where a sentence begins, if one begins late enough."""
        others = [other for other in self._examples if other.references[0] != text]
        if not others:
            return None
        places = range(FIRST_WORD, len(words))
        begins = [at for at in places if _SENTENCE_END.search(words[at - 1].group())]
        at = _choose(begins or places, example, "drift")
        return text[: words[at].start()] + _choose(others, example, "drift", "lender").references[0]

    def _substitution(self, example: Example, text: str, words: list[re.Match[str]]) -> str | None:
        """One number, name or noun becomes another one that the response does not hold."""
        tags = self._tags[example.id]
        cores = [match for word in words[FIRST_WORD:] if (match := _CORE.search(text, *word.span()))]
        for tag in FACTS:
            places = [core for core in cores if tags.get(core.group()) == tag]
            others = [word for word in self._pool[tag] if word not in tags]
            if places and others:
                core = _choose(places, example, "substitution")
                return text[: core.start()] + _choose(others, example, "substitution", "word") + text[core.end() :]
        return None


def _choose(items: Sequence[Item], example: Example, *axes: str) -> Item:
    return items[int(uniform("injection", *axes, example.id) * len(items))]


def inject(
    examples: Sequence[Example], tokenizer: Tokenizer, room: Callable[[Example], int]
) -> tuple[list[Injected], dict[str, int]]:
    """Plant each error in each example. Returns the rows, and by error how many examples could not have it. `room`: how many
    tokens the response to an example may have."""
    planter, injected = Planter(examples), list[Injected]()
    for example, error in product(examples, ERRORS):
        text = planter.plant(example, error)
        if text is not None and (row := _tokenise(example, error, text, tokenizer, room(example))):
            injected.append(row)
    counts = Counter(row.error for row in injected)
    return injected, {error: len(examples) - counts[error] for error in ERRORS}


def _tokenise(example: Example, error: str, text: str, tokenizer: Tokenizer, room: int) -> Injected | None:
    """The tokens of an example with this error in its text; None where the error lies beyond the room, or changes no token."""
    original, ids = (
        (*tokenizer(piece, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
        for piece in (example.references[0], text)
    )
    shorter = min(len(original), len(ids))
    position = next((i for i in range(shorter) if ids[i] != original[i]), shorter)
    if not 0 < position < min(shorter, room):
        return None
    # a drift goes on to the end; after any other error the original's tokens come again
    after = range(0 if error == "drift" else shorter - position)
    common = next((i for i in after if ids[-1 - i] != original[-1 - i]), len(after))
    return Injected(example, error, ids[:room], original[:room], position, min(len(ids) - common, room))
