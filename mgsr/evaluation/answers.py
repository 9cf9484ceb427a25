"""One row for each decoded answer, and the summary over rows. Every evaluation writes its two files through here.

`rows.jsonl` holds an `AnswerRow` a line, `summary.json` what `build_summary` returns. Decoding seeds stay apart in both: their
deviation is no run-to-run deviation, so nothing here averages over them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from mgsr.errors import MgsrError
from mgsr.storage import digest, read_jsonl, write_jsonl

SCHEMA = 1

Name = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid"))
class AnswerRow:
    """What one model answered to one example. Fields of another type, or out of range, are a `ValidationError`."""

    schema: Literal[1] = 1
    run: Name
    set: Name
    id: Name
    decoding_seed: int
    protocol: Literal["published", "plain"]
    text: str
    score: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
    length: Annotated[int, Field(ge=0)]  # tokens decoded, EOS included
    finish_reason: Literal["eos", "length"]

    @property
    def cell(self) -> tuple[str, str, int]:
        """What a score of summary.json is a mean over."""
        return self.set, self.protocol, self.decoding_seed


def _check(rows: Sequence[AnswerRow], where: str) -> None:
    """One run; within a set the same examples, each once, for every protocol and decoding seed."""
    runs = sorted({row.run for row in rows})
    if len(runs) != 1:
        raise MgsrError(f"{where}: rows of one run expected, found {', '.join(runs) or 'no row'}; evaluate that run anew")
    examples: dict[str, dict[tuple[str, str, int], Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for row in rows:
        examples[row.set][row.cell][row.id] += 1
    for cells in examples.values():
        expected = Counter({name: 1 for found in cells.values() for name in found})
        for (test_set, protocol, seed), found in cells.items():
            for name in expected:
                if found[name] != 1:
                    place = f"set {test_set}, protocol {protocol}, decoding seed {seed}"
                    raise MgsrError(f"{where}: {place}: {found[name]} rows of {name} instead of 1; evaluate that run anew")


def write_rows(path: Path, rows: Sequence[AnswerRow]) -> None:
    """Write rows.jsonl, in the order given."""
    _check(rows, str(path))
    write_jsonl(path, map(asdict, rows))


def read_rows(path: Path) -> list[AnswerRow]:
    """Read rows.jsonl. A row of another schema or with a wrong value is an error with file, line and field."""
    rows = []
    for number, value in enumerate(read_jsonl(path), 1):
        where = f"{path}, line {number}"
        if not isinstance(value, dict):
            raise MgsrError(f"{where}: a {type(value).__name__}, not a JSON object; evaluate that run anew")
        try:
            rows.append(AnswerRow(**value))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise MgsrError(
                f"{where}: {field}: {first['msg']}; rows of schema {SCHEMA} expected, evaluate that run anew"
            ) from None
    _check(rows, str(path))
    return rows


def summarise(rows: Sequence[AnswerRow]) -> list[dict[str, Any]]:
    """The `scores` of summary.json: mean ROUGE-L (0..100) of each set, protocol and decoding seed, in order of appearance.

    The order of the rows within a cell does not matter, not even to the last bit.
    """
    _check(rows, "rows to summarise")
    scores: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for row in rows:
        scores[row.cell].append(row.score)
    return [
        {"set": test_set, "protocol": protocol, "decoding_seed": seed, "rouge_l": fmean(values), "rows": len(values)}
        for (test_set, protocol, seed), values in scores.items()
    ]


def build_summary(
    rows: Sequence[AnswerRow],
    *,
    sets: Mapping[str, Mapping[str, int]],
    timings: Mapping[str, float],
    heldout: Mapping[str, float | int] | None = None,
) -> dict[str, Any]:
    """summary.json. `sets`: by test set, how many rows were answered (`rows`) and left out (`dropped`); `timings` in seconds;
    `heldout`: mean divergences from the teacher in nats a token, null where there is no teacher. `digest` is of the rows.
    """
    scores = summarise(rows)
    answered = {score["set"]: score["rows"] for score in scores}
    counted = {name: counts["rows"] for name, counts in sets.items()}
    if answered != counted:
        raise MgsrError(f"answers of {answered} do not cover the sets {counted}; evaluate that run anew")
    return {
        "schema": SCHEMA,
        "run": rows[0].run,
        "scores": scores,
        "heldout": None if heldout is None else dict(heldout),
        "timings": dict(timings),
        "sets": {name: dict(counts) for name, counts in sets.items()},
        "digest": digest([asdict(row) for row in rows]),
    }
