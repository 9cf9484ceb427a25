"""Span priors: what a span of a response is (Eq. 9), as runs of its tokens. `SpanConfig` has the choices.

Phrases are marked by textblob's port of the `pattern` chunker; its lexicon lies inside the package, nothing is downloaded. A
preposition with its noun phrase (PNP) is one phrase, in place of the bare preposition and the noun phrase, unless `chunk` is
asked for. Sentences are its tokeniser's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Literal
from weakref import WeakKeyDictionary

from textblob.en import tokenize
from textblob.en.parsers import PatternParser

from mgsr.config.loss_terms import SpanConfig
from mgsr.data.encoding import Tokenizer

PHRASES = ("NP", "VP", "PP")
Span = tuple[int, int]


_parser = PatternParser()
_pieces: WeakKeyDictionary[Tokenizer, dict[int, str]] = WeakKeyDictionary()


def _words(text: str) -> Iterator[tuple[str, str, str]]:
    """The chunker's (word, chunk tag, PNP tag), in order; each sentence ends with an empty word outside any phrase."""
    for sentence in _parser.parse(text).split("\n"):
        for tagged in sentence.split(" "):
            # Slashes inside a word are written `&slash;`, so the last three are the separators.
            fields = tagged.rsplit("/", 3)
            if len(fields) == 4:
                yield fields[0], fields[2], fields[3]
        yield "", "O", "O"


def _located(words: Iterable[str], text: str) -> Iterator[Span | None]:
    """The characters of each word; None for an empty one and for one that does not stand in the text."""
    # The chunker moves and collapses white space but keeps all other characters in order, so words are laid over those.
    positions = [index for index, character in enumerate(text) if not character.isspace()]
    compact = "".join(text[index] for index in positions)
    cursor = 0
    for word in words:
        # A text may itself hold "&slash;": the spelling that stands in the text decides.
        forms = (word.replace("&slash;", "/"), word) if word else ()
        places = [(at, len(form)) for form in forms if (at := compact.find(form, cursor)) >= 0]
        if not places:
            yield None
            continue
        start, length = min(places)
        yield positions[start], positions[start + length - 1] + 1
        cursor = start + length


@lru_cache(maxsize=8192)
def phrase_spans(text: str, prepositional: Literal["pnp", "chunk"] = "pnp") -> tuple[Span, ...]:
    """The phrases of a text as half-open character ranges: sorted, disjoint, no white space at their ends."""
    tagged = list(_words(text))
    spans: list[Span] = []
    current = ""
    for (_, chunk, pnp), place in zip(tagged, _located((word for word, _, _ in tagged), text), strict=True):
        tag = pnp if pnp != "O" and prepositional == "pnp" else chunk
        kind = tag[2:]
        if place is None or kind not in (*PHRASES, "PNP"):
            current = ""
            continue
        if tag.startswith("I-") and kind == current:
            spans[-1] = (spans[-1][0], place[1])
        else:
            spans.append(place)
        current = kind
    return tuple(spans)


@lru_cache(maxsize=8192)
def sentence_spans(text: str) -> tuple[Span, ...]:
    """The sentences of a text, their punctuation included, likewise. A blank line ends one."""
    sentences = [sentence.split(" ") for sentence in tokenize(text)]
    places = _located((word for sentence in sentences for word in sentence), text)
    located = [[place for _ in sentence if (place := next(places))] for sentence in sentences]
    return tuple((sentence[0][0], sentence[-1][1]) for sentence in located if sentence)


def _decode(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _token_ranges(ids: Sequence[int], tokenizer: Tokenizer) -> tuple[str, list[Span]]:
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


_SPECIAL, _UNCOVERED = -2, -1


def token_spans(response_ids: Sequence[int], tokenizer: Tokenizer, config: SpanConfig) -> list[Span]:
    """The spans of a response as half-open runs of token positions: sorted and disjoint.

    A token belongs to the phrase or sentence that covers its first non-space character; where all of one's characters lie in
    another one's tokens, it has no run. Spans of `fixed` length start at the first token, and the last one is what is left.
    Special tokens (EOS) belong to no span. Runs outside phrases are spans where `uncovered` is `own`. Spans below `min_tokens`
    are left out.
    """
    special = set(tokenizer.all_special_ids)
    owners = [_SPECIAL if token in special else _UNCOVERED for token in response_ids]
    kept = [position for position, owner in enumerate(owners) if owner != _SPECIAL]
    if config.priors == "fixed":
        for start, end in list(_runs(owners)):
            if owners[start] != _SPECIAL:
                owners[start:end] = [offset // config.fixed_length for offset in range(end - start)]
    elif kept:
        text, ranges = _token_ranges([response_ids[position] for position in kept], tokenizer)
        phrases = sentence_spans(text) if config.priors == "sentences" else phrase_spans(text, config.prepositional)
        owner = [_UNCOVERED] * len(text)
        for phrase, (start, end) in enumerate(phrases):
            owner[start:end] = [phrase] * (end - start)
        for position, (start, end) in zip(kept, ranges, strict=True):
            first = next((at for at in range(start, end) if not text[at].isspace()), start)
            if start < end:
                owners[position] = owner[first]
    lowest = _UNCOVERED if config.uncovered == "own" else 0
    return [(start, end) for start, end in _runs(owners) if owners[start] >= lowest and end - start >= config.min_tokens]


def _runs(owners: Sequence[int]) -> Iterator[Span]:
    """The runs of equal owners."""
    start = 0
    for _, group in groupby(owners):
        end = start + len(list(group))
        yield start, end
        start = end
