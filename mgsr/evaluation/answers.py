"""What a model gave, kept for good: its answers to one part of an evaluation (one test set under one protocol with one decoding
seed), and its held-out divergence. Scores are kept elsewhere, so that a metric that is added later decodes no answer anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from mgsr.errors import MgsrError
from mgsr.storage import check_folder, read_json, read_jsonl

CONFIG = ConfigDict(strict=True, extra="forbid")
REMEDY = "delete its folder to have it made anew"
ANSWERS, HELDOUT = "answers.jsonl", "heldout.json"

Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
Nats = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Parsed = TypeVar("Parsed")


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Answer:
    """The answer to one record. It is empty, and `dropped`, where the prompt was too long."""

    id: Name
    text: str
    length: Count  # tokens decoded, EOS included
    finish_reason: Literal["eos", "length", "dropped"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Heldout:
    """Mean divergences from the teacher in nats a response token; how many tokens of how many rows they are means over.

    by_prompt: by example id, the two divergences summed over the response's tokens, and the number of these.
    """

    schema: Literal[2] = 2
    forward_kl: Nats
    reverse_kl: Nats
    tokens: Count
    rows: Count
    by_prompt: dict[Name, Annotated[list[Nats], Field(min_length=3, max_length=3)]]

    @property
    def means(self) -> dict[str, float]:
        """All but what is by prompt."""
        return {"forward_kl": self.forward_kl, "reverse_kl": self.reverse_kl, "tokens": self.tokens, "rows": self.rows}


def _parse(kind: Callable[..., Parsed], value: Any, where: str) -> Parsed:
    """A JSON object as a `kind`. Raises MgsrError with the place and the field where it is none."""
    if not isinstance(value, dict):
        raise MgsrError(f"{where}: a {type(value).__name__}, not a JSON object; {REMEDY}")
    try:
        return kind(**value)
    except ValidationError as error:
        first = error.errors()[0]
        raise MgsrError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}; {REMEDY}") from None


def read_answers(folder: Path, ids: Sequence[str]) -> list[Answer]:
    """The answers to the records of these ids, in order. Raises MgsrError for a folder that is not as it was written, for a
    line that is no answer, and for other ids."""
    check_folder(folder)
    path = folder / ANSWERS
    answers = [_parse(Answer, value, f"{path}, line {number}") for number, value in enumerate(read_jsonl(path), 1)]
    if [answer.id for answer in answers] != list(ids):
        raise MgsrError(f"{path}: its {len(answers)} lines are not one for each of the {len(ids)} records, in order; {REMEDY}")
    return answers


def read_heldout(folder: Path) -> Heldout:
    """Raises MgsrError for a folder that is not as it was written, and for a value that is no divergence."""
    check_folder(folder)
    path = folder / HELDOUT
    return _parse(Heldout, read_json(path), str(path))
