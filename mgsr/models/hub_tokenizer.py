"""The tokenizer of a hub model, checked before hours are spent on the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from mgsr.errors import MgsrError
from mgsr.models.loading import load_tokenizer


def check_tokenizer(name: str, folder: Path, texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder of the hub's files. Where it has a sentencepiece model, the ids of `texts` must be those
    of sentencepiece itself: the model was trained on them, and transformers' conversion leaves a normalisation out.

    Raises MgsrError, with the first text that differs.
    """
    model_file = folder / "tokenizer.model"
    if not model_file.is_file():
        return _load(name, folder)
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise MgsrError(f"model {name}: its tokenizer needs the package sentencepiece: pip install sentencepiece") from error
    tokenizer = _load(name, folder)
    library = SentencePieceProcessor(model_file=str(model_file))
    different = []
    for text in texts:
        # a text may spell a special token, such as HTML's <s>: for sentencepiece it is text
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        if ids != (expected := library.encode(text)):
            different.append((text, library.id_to_piece(expected), tokenizer.convert_ids_to_tokens(ids)))
    if different:
        text, *sides = different[0]
        at = next((i for i, (a, b) in enumerate(zip(*sides, strict=False)) if a != b), min(map(len, sides)))
        theirs, ours = (" ".join(side[at : at + 4]) for side in sides)
        raise MgsrError(
            f"model {name}: the token ids of its tokenizer, as transformers converts it, differ from sentencepiece's own on "
            f"{len(different)} of {len(texts)} texts. The first is {text[:80]!r}: sentencepiece goes on with '{theirs}', "
            f"transformers with '{ours}'. The model would read tokens that it was not trained on; name another repository of it"
        )
    return tokenizer


def _load(name: str, folder: Path) -> PreTrainedTokenizerBase:
    try:
        return load_tokenizer(folder)
    except MgsrError as error:
        raise MgsrError(f"model {name}: {error}") from error
