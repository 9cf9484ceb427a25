"""One row for each scored answer, and the summary over rows. Every evaluation, the floor's too, writes its files through here.

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

from pydantic import Field
from pydantic.dataclasses import dataclass

from mgsr.config.measurement import Protocol
from mgsr.config.specs import EvaluationSpec, FloorSpec
from mgsr.data.records import Record
from mgsr.errors import MgsrError
from mgsr.evaluation.answers import CONFIG, Answer, Count, Heldout, Name, parse
from mgsr.metrics import Metric, score
from mgsr.storage import digest, new_folder, read_jsonl, write_json, write_jsonl

SCHEMA = 2

Part = tuple[str, Protocol, int]
"""Test set, protocol and decoding seed: what a score of summary.json is a mean over."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class AnswerRow:
    """What one model answered to one example. Fields of another type, or out of range, are a `ValidationError`."""

    schema: Literal[2] = 2
    run: Name
    set: Name
    id: Name
    decoding_seed: int
    protocol: Protocol
    text: str
    scores: Annotated[dict[Name, Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1)]  # by metric
    length: Count  # tokens decoded, EOS included
    finish_reason: Literal["eos", "length"]

    @property
    def part(self) -> Part:
        return self.set, self.protocol, self.decoding_seed


def score_answers(
    run: str, part: Part, records: Sequence[Record], answers: Sequence[Answer], metrics: Mapping[str, Metric]
) -> list[AnswerRow]:
    """The rows of a part: one for each record whose prompt was not dropped, in order; `answers` has one for each record."""
    test_set, protocol, seed = part
    return [
        AnswerRow(
            run=run,
            set=test_set,
            id=record.id,
            decoding_seed=seed,
            protocol=protocol,
            text=answer.text,
            scores=score(metrics, answer.text, record.references, f"set {test_set}, example {record.id}"),
            length=answer.length,
            finish_reason=answer.finish_reason,
        )
        for record, answer in zip(records, answers, strict=True)
        if answer.finish_reason != "dropped"
    ]


def _check(rows: Sequence[AnswerRow], where: str) -> None:
    """One run and the same metrics; within a set the same examples, each once, for every protocol and decoding seed."""
    runs = sorted({row.run for row in rows})
    if len(runs) != 1:
        raise MgsrError(f"{where}: rows of one run expected, found {', '.join(runs) or 'no row'}; evaluate that run anew")
    if odd := next((row.id for row in rows if row.scores.keys() != rows[0].scores.keys()), None):
        raise MgsrError(f"{where}: {odd} has scores of other metrics than {rows[0].id}; evaluate that run anew")
    examples: dict[str, dict[Part, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for row in rows:
        examples[row.set][row.part][row.id] += 1
    for parts in examples.values():
        expected = Counter({name: 1 for counts in parts.values() for name in counts})
        for (test_set, protocol, seed), counts in parts.items():
            for name in expected:
                if counts[name] != 1:
                    place = f"set {test_set}, protocol {protocol}, decoding seed {seed}"
                    raise MgsrError(f"{where}: {place}: {counts[name]} rows of {name} instead of 1; evaluate that run anew")


def read_rows(path: Path) -> list[AnswerRow]:
    """Read rows.jsonl. A row of another schema or with a wrong value is an error with file, line and field."""
    remedy = f"rows of schema {SCHEMA} expected, evaluate that run anew"
    rows = [parse(AnswerRow, value, f"{path}, line {number}", remedy) for number, value in enumerate(read_jsonl(path), 1)]
    _check(rows, str(path))
    return rows


def summarise(rows: Sequence[AnswerRow]) -> list[dict[str, Any]]:
    """The `scores` of summary.json: each metric's mean over each part, in order of appearance.

    The order of the rows within a part does not matter, not even to the last bit.
    """
    _check(rows, "rows to summarise")
    parts: dict[Part, list[AnswerRow]] = defaultdict(list)
    for row in rows:
        parts[row.part].append(row)
    return [
        {
            "set": test_set,
            "protocol": protocol,
            "decoding_seed": seed,
            "rows": len(members),
            "metrics": {metric: fmean(row.scores[metric] for row in members) for metric in members[0].scores},
        }
        for (test_set, protocol, seed), members in parts.items()
    ]


def build_summary(
    rows: Sequence[AnswerRow],
    *,
    sets: Mapping[str, Mapping[str, int]],
    timings: Mapping[str, float],
    heldout: Heldout | None = None,
) -> dict[str, Any]:
    """summary.json. `sets`: by test set, how many rows were answered (`rows`) and left out (`dropped`); `timings`: seconds of
    this job, in which kept answers cost nothing; `heldout`: null where there is no teacher. `digest` is of the rows.
    """
    scores = summarise(rows)
    answered = {line["set"]: line["rows"] for line in scores}
    counted = {name: counts["rows"] for name, counts in sets.items()}
    if answered != counted:
        raise MgsrError(f"answers of {answered} do not cover the sets {counted}; evaluate that run anew")
    return {
        "schema": SCHEMA,
        "run": rows[0].run,
        "scores": scores,
        "heldout": None if heldout is None else heldout.means,
        "timings": {stage: round(seconds, 3) for stage, seconds in timings.items()},
        "sets": {name: dict(counts) for name, counts in sets.items()},
        "digest": digest([asdict(row) for row in rows]),
    }


def write_evaluation(
    folder: Path,
    spec: EvaluationSpec | FloorSpec,
    rows: Sequence[AnswerRow],
    *,
    sets: Mapping[str, Mapping[str, int]],
    timings: Mapping[str, float],
    heldout: Heldout | None = None,
) -> None:
    """Write rows.jsonl in the order given, summary.json (see `build_summary`), spec.json and, where there is a teacher,
    heldout.json with the divergences by prompt; the folder appears whole."""
    summary = build_summary(rows, sets=sets, timings=timings, heldout=heldout)
    with new_folder(folder) as out:
        write_jsonl(out / "rows.jsonl", map(asdict, rows))
        write_json(out / "spec.json", spec.model_dump(mode="json"))
        write_json(out / "summary.json", summary)
        if heldout is not None:
            write_json(out / "heldout.json", heldout.by_prompt)
