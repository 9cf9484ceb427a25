"""The floor under every score: each row answered with the reference of another row of the same kind.

A model that has learnt the form of the answers and nothing else scores about this much, so a gain counts from here.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgsr.config.specs import FloorSpec, read_spec
from mgsr.data.records import Record, load_records
from mgsr.errors import MgsrError
from mgsr.evaluation.answers import AnswerRow, build_summary, write_rows
from mgsr.rouge import rouge_l
from mgsr.storage import digest, new_folder, write_json

RUN = "floor"


@dataclass(frozen=True)
class Borrowed:
    """An answer and whether its owner is of the borrower's category."""

    prediction: str
    same_category: bool


def _lender(record: Record, rows: Sequence[Record]) -> Record | None:
    """A row that asks something else, drawn by the record's id; None if there is none. A repeated row is no other row."""
    start = int(digest({"purpose": "floor", "id": record.id}), 16) % len(rows)
    order = (rows[(start + step) % len(rows)] for step in range(len(rows)))
    return next((row for row in order if row.question != record.question), None)


def borrowed_answers(records: Sequence[Record]) -> list[Borrowed]:
    """For each record of a set the first reference of another one of its category, or of any other one if it is alone there."""
    kinds: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        kinds[record.category].append(record)
    answers = []
    for record in records:
        lender = _lender(record, kinds[record.category]) or _lender(record, records)
        if lender is None:
            raise MgsrError(f"{record.id}: its set has no other question to borrow an answer from; use a larger test set")
        answers.append(Borrowed(lender.references[0], lender.category == record.category))
    return answers


def evaluate_floor(records: Mapping[str, Sequence[Record]]) -> tuple[list[AnswerRow], dict[str, Any]]:
    """Rows and summary over test sets by name. Nothing is decoded: seed 0, protocol `plain`, lengths 0.

    `sets` of the summary also counts the answers borrowed from another category.
    """
    start = time.monotonic()
    rows: list[AnswerRow] = []
    sets: dict[str, dict[str, int]] = {}
    for name, members in records.items():
        answers = borrowed_answers(members)
        rows += [
            AnswerRow(
                run=RUN,
                set=name,
                id=record.id,
                decoding_seed=0,
                protocol="plain",
                text=answer.prediction,
                score=rouge_l(answer.prediction, record.references),
                length=0,
                finish_reason="eos",
            )
            for record, answer in zip(members, answers, strict=True)
        ]
        other = sum(not answer.same_category for answer in answers)
        sets[name] = {"rows": len(members), "dropped": 0, "borrowed_across_categories": other}
    return rows, build_summary(rows, sets=sets, timings={"total": time.monotonic() - start})


def write_floor(root: Path, name: str) -> None:
    """Write `evaluations/<name>` of the floor over prepared test sets."""
    spec = read_spec(root, name, FloorSpec)
    records = {
        test_set: load_records(root / "test_sets" / folder, "records")[: spec.rows[test_set]]
        for test_set, folder in spec.test_sets.items()
    }
    rows, summary = evaluate_floor(records)
    with new_folder(root / "evaluations" / name) as folder:
        write_rows(folder / "rows.jsonl", rows)
        write_json(folder / "summary.json", summary)
