"""Span priors: the noun, verb and prepositional phrases of a response, as runs of its tokens (Eq. 9).

textblob's port of the `pattern` chunker marks them; its lexicon lies inside the package, nothing is downloaded. A preposition
with its noun phrase (PNP) is one phrase, in place of the bare preposition and the noun phrase.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from textblob.en.parsers import PatternParser

PHRASES = ("NP", "VP", "PP")
Span = tuple[int, int]


class Decoder(Protocol):
    """What is used of a transformers tokenizer."""

    @property
    def all_special_ids(self) -> Any: ...

    def decode(self, token_ids: Any, *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> Any: ...


_parser = PatternParser()
_pieces: WeakKeyDictionary[Decoder, dict[int, str]] = WeakKeyDictionary()


def _words(text: str) -> Iterator[tuple[str, str, str]]:
    """The chunker's (word, chunk tag, PNP tag), in order; each sentence ends with an empty word outside any phrase."""
    for sentence in _parser.parse(text).split("\n"):
        for tagged in sentence.split(" "):
            # Slashes inside a word are written `&slash;`, so the last three are the separators.
            fields = tagged.rsplit("/", 3)
            if len(fields) == 4:
                yield fields[0], fields[2], fields[3]
        yield "", "O", "O"


@lru_cache(maxsize=8192)
def _phrase_spans(text: str) -> tuple[Span, ...]:
    # The chunker moves and collapses white space but keeps all other characters in order, so words are laid over those.
    positions = [index for index, character in enumerate(text) if not character.isspace()]
    compact = "".join(text[index] for index in positions)
    spans: list[Span] = []
    cursor, current = 0, ""
    for word, chunk, pnp in _words(text):
        # A text may itself hold "&slash;": the spelling that stands in the text decides.
        found = [(at, len(form)) for form in (word.replace("&slash;", "/"), word) if (at := compact.find(form, cursor)) >= 0]
        tag = pnp if pnp != "O" else chunk
        kind = tag[2:]
        if not word or not found or kind not in (*PHRASES, "PNP"):
            current = ""
        start, length = min(found, default=(cursor, 0))
        if word and found and kind in (*PHRASES, "PNP"):
            first, end = positions[start], positions[start + length - 1] + 1
            if tag.startswith("I-") and kind == current:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((first, end))
            current = kind
        cursor = start + length
    return tuple(spans)


def phrase_spans(text: str) -> list[Span]:
    """The phrases of a text as half-open character ranges: sorted, disjoint, no white space at their ends."""
    return list(_phrase_spans(text))


def _decode(ids: Sequence[int], tokenizer: Decoder) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _token_ranges(ids: Sequence[int], tokenizer: Decoder) -> tuple[str, list[Span]]:
    """The text of ordinary tokens and the characters each adds to it; tokens that share a character share its range."""
    pieces = _pieces.setdefault(tokenizer, {})
    for token in set(ids) - pieces.keys():
        pieces[token] = _decode([token], tokenizer)
    parts = [pieces[token] for token in ids]
    text = _decode(ids, tokenizer)
    if "".join(parts) == text:
        ends = [0]
        for part in parts:
            ends.append(ends[-1] + len(part))
        return text, list(pairwise(ends))
    # Characters split over tokens (emoji), or a decoder that joins by context (SentencePiece): decode behind a window that
    # starts at a finished character and has one token of context.
    ranges: list[Span] = []
    text, context, pending = "", 0, 0
    for position in range(len(ids)):
        before = _decode(ids[context:pending], tokenizer)
        window = _decode(ids[context : position + 1], tokenizer)
        # An open character decodes to U+FFFD; after four bytes it is no beginning but an invalid byte.
        if window.endswith("\ufffd") and position + 1 < len(ids) and position - pending < 3:
            continue
        start, text = len(text), text + window[len(before) :]
        ranges += [(start, len(text))] * (position + 1 - pending)
        context, pending = pending, position + 1
    return text, ranges


def token_spans(response_ids: Sequence[int], tokenizer: Decoder) -> list[Span]:
    """The phrases of a response as half-open runs of token positions: sorted and disjoint.

    A token belongs to the phrase that covers its first non-space character. Special tokens (EOS) belong to none. A phrase
    whose characters all lie in another phrase's tokens has no run.
    """
    special = set(tokenizer.all_special_ids)
    kept = [position for position, token in enumerate(response_ids) if token not in special]
    text, ranges = _token_ranges([response_ids[position] for position in kept], tokenizer)
    owner = [-1] * len(text)
    for phrase, (start, end) in enumerate(_phrase_spans(text)):
        owner[start:end] = [phrase] * (end - start)
    owners = [-1] * len(response_ids)
    for position, (start, end) in zip(kept, ranges, strict=True):
        first = next((at for at in range(start, end) if not text[at].isspace()), start)
        if start < end:
            owners[position] = owner[first]
    runs, position = [], 0
    for phrase, group in groupby(owners):
        length = len(list(group))
        if phrase >= 0:
            runs.append((position, position + length))
        position += length
    return runs
