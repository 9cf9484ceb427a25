"""The tokenizer of a hub model, checked before hours are spent on the weights."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from mgsr.errors import MgsrError
from mgsr.models.loading import load_tokenizer

# What records are made of, and what normalisations and conversions change. The list is fixed, so that a model's folder depends
# on no records and can be built before them.
TEXTS = (
    "Below is an instruction that describes a task. Write a response.\n\n### Instruction:\nAdd 12 and 3.5\n\n### Response:\n",
    "A\n\nB",
    "two  spaces, four    spaces\n    and an indented\tline  \n",
    "1. First (90% of €1,000)\n2. Second: x_1 = {'a': [0]}; y != z",
    "“Curly” quotes, it’s a naïve café… – Ångström, Ελλάδα, Москва",
    "漢字とかな, 한국어, العربية, 🙂",
    "ﬁne ½ x² Ⅷ ＡＢＣ ① no\u00a0break e\u0301",  # forms that NFKC replaces
    "<s>struck out</s> <unk>",  # HTML, not special tokens
)


def check_tokenizer(name: str, folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder of the hub's files. Where it has a sentencepiece model, the ids of `TEXTS` must be those
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
    for text in TEXTS:
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
            f"{len(different)} of {len(TEXTS)} texts. The first is {text[:80]!r}: sentencepiece goes on with '{theirs}', "
            f"transformers with '{ours}'. The model would read tokens that it was not trained on; name another repository of it"
        )
    return tokenizer


def _load(name: str, folder: Path) -> PreTrainedTokenizerBase:
    try:
        return load_tokenizer(folder)
    except MgsrError as error:
        raise MgsrError(f"model {name}: {error}") from error
