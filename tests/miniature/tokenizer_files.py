"""Small tokenizers of the real kinds, trained on generated records, as the files that the hub has of each family."""

from __future__ import annotations

import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.convert_slow_tokenizer import generate_merges

from mgsr.data.builtin_records import load_builtin
from mgsr.data.prompts import format_prompt

SIZE = 512  # of every vocabulary
OPT_PADDING = 7  # classes of OPT's output layer that are no token: 50,272 of 50,265

Files = dict[str, bytes]


def _token(content: str, *, normalized: bool = True) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": normalized, "rstrip": False, "single_word": False}
    return {"__type": "AddedToken", "content": content, **flags}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode()


@cache
def _texts() -> list[str]:
    records = load_builtin()["train"].records[:1500]
    return [text for record in records for text in (format_prompt(record), record.response)]


def sentencepiece_model(normalization: str = "identity") -> bytes:
    """A tokenizer.model like LLaMA's: BPE with bytes to fall back to, digits apart. `normalization`: sentencepiece's rule."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in _texts() for line in text.split("\n") if line),
        model_writer=out,
        model_type="bpe",
        vocab_size=SIZE,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name=normalization,
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return out.getvalue()


def _llama_config(**given: Any) -> bytes:
    tokens = {"bos_token": _token("<s>"), "eos_token": _token("</s>"), "unk_token": _token("<unk>"), "pad_token": None}
    common = {"add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False, "sp_model_kwargs": {}}
    return _json({**common, **tokens, "tokenizer_class": "LlamaTokenizer", **given})


def open_llama_files(normalization: str = "identity") -> Files:
    """tokenizer.model and nothing that transformers could read without sentencepiece."""
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return {
        "tokenizer.model": sentencepiece_model(normalization),
        "tokenizer_config.json": _llama_config(model_max_length=2048),
        "special_tokens_map.json": _json(special),
    }


def llama2_files() -> Files:
    """tokenizer.model, and the tokenizer.json that was made of it."""
    model = sentencepiece_model()
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocabulary = {pieces.id_to_piece(index): index for index in range(pieces.get_piece_size())}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, generate_merges(vocabulary, None), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return {
        "tokenizer.model": model,
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": _llama_config(legacy=False, model_max_length=10**30, padding_side="right"),
        "special_tokens_map.json": _json({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    }


def _byte_level(size: int, special: list[str], last: list[str]) -> Tokenizer:
    """Byte-level BPE: `special` takes the first ids, `last` the last ones."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(last),
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.add_special_tokens(last)
    return tokenizer


def _vocabulary_and_merges(tokenizer: Tokenizer) -> Files:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.model.save(folder)
        merges = (Path(folder) / "merges.txt").read_bytes()
    vocabulary = dict(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    return {"vocab.json": json.dumps(vocabulary, ensure_ascii=False).encode(), "merges.txt": merges}


def gpt2_files() -> Files:
    """vocab.json, merges.txt and tokenizer.json; one special token, and none for padding."""
    tokenizer = _byte_level(SIZE, [], ["<|endoftext|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return {
        **_vocabulary_and_merges(tokenizer),
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": _json({"model_max_length": 1024}),
    }


def opt_files() -> Files:
    """vocab.json and merges.txt; every text begins with </s>, and the model has more classes than there are tokens."""
    last = [f"madeupword{number:04d}" for number in range(3)]
    tokenizer = _byte_level(SIZE - OPT_PADDING, ["<s>", "<pad>", "</s>", "<unk>"], last)
    end, pad = _token("</s>"), _token("<pad>")
    special = {"bos_token": end, "eos_token": end, "unk_token": end, "pad_token": pad}
    config = {"errors": "replace", "add_prefix_space": False, "add_bos_token": True, "tokenizer_class": "GPT2Tokenizer"}
    return {
        **_vocabulary_and_merges(tokenizer),
        "tokenizer_config.json": _json({**config, **special}),
        "special_tokens_map.json": _json({name: token["content"] for name, token in special.items()}),
    }
