"""Token ids: prompts whole or dropped, responses with EOS unless cut, the same prompt everywhere."""

from typing import Any

from mgsr.config.record_sets import DataConfig
from mgsr.data.encoding import encode_examples
from mgsr.data.prompts import format_prompt
from mgsr.data.records import Record

RECORD = Record("x-0", "Say {hello}.", "", ("Hello.", "Hi."), "chat")
PROMPT = len(format_prompt(RECORD))


class Characters:
    """One token a character. With `bos`, it behaves as LLaMA's: a BOS unless told otherwise."""

    eos_token_id: Any = 1

    def __init__(self, bos: int | None = None) -> None:
        self.bos_token_id: Any = bos

    def __call__(self, text: Any, *, add_special_tokens: bool) -> Any:
        if isinstance(text, list):
            return {"input_ids": [self(item, add_special_tokens=add_special_tokens)["input_ids"] for item in text]}
        lead = [self.bos_token_id] if add_special_tokens and self.bos_token_id is not None else []
        return {"input_ids": lead + [ord(character) for character in text]}


def encode(prompt: int, total: int, bos: int | None = None) -> Any:
    return encode_examples([RECORD], Characters(bos), DataConfig(max_prompt_length=prompt, max_length=total))


def test_pitfall_02_the_response_ends_with_eos_unless_cut() -> None:
    (example,), _ = encode(PROMPT, PROMPT + 7)
    assert example.response_ids == (*map(ord, "Hello."), 1)
    (example,), counts = encode(PROMPT, PROMPT + 6)
    assert example.response_ids == tuple(map(ord, "Hello.")) and counts["cut_responses"] == 1


def test_pitfall_04_a_long_prompt_is_dropped_and_counted_never_cut() -> None:
    examples, counts = encode(PROMPT - 1, 2 * PROMPT)
    assert examples == [] and counts["dropped_prompts"] == 1


def test_pitfall_05_06_prompts_have_the_tokenizers_own_bos_and_are_tokenised_apart() -> None:
    (plain,), _ = encode(300, 600)
    (with_bos,), _ = encode(300, 600, bos=0)
    assert plain.prompt_ids == tuple(map(ord, format_prompt(RECORD)))
    assert with_bos.prompt_ids == (0, *plain.prompt_ids) and with_bos.response_ids == plain.response_ids
    assert plain.references == ("Hello.", "Hi.")
