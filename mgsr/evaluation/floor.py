"""The floor under every score: each row answered with the reference of another row of the same kind.

A model that has learnt the form of the answers and nothing else scores about this much, so a gain counts from here.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from mgsr.config.specs import FloorSpec, read_spec
from mgsr.data.records import Record
from mgsr.errors import MgsrError
from mgsr.evaluation.answers import Answer
from mgsr.evaluation.scoring import AnswerRow, build_summary, prepared_records, score_answers, write_evaluation
from mgsr.metrics import Metric, load_metrics
from mgsr.storage import digest

RUN = "floor"


def _lender(record: Record, rows: Sequence[Record]) -> Record | None:
    """A row that asks something else, drawn by the record's id; None if there is none. A repeated question does not
    count as another one."""
    start = int(digest({"purpose": "floor", "id": record.id}), 16) % len(rows)
    order = (rows[(start + step) % len(rows)] for step in range(len(rows)))
    return next((row for row in order if row.question != record.question), None)


def lenders(records: Sequence[Record]) -> list[Record]:
    """For each record of a set another one of its category, or any other one if it is alone there."""
    kinds: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        kinds[record.category].append(record)
    chosen = []
    for record in records:
        lender = _lender(record, kinds[record.category]) or _lender(record, records)
        if lender is None:
            raise MgsrError(f"{record.id}: its set has no other question to borrow an answer from; use a larger test set")
        chosen.append(lender)
    return chosen


def evaluate_floor(
    records: Mapping[str, Sequence[Record]], metrics: Mapping[str, Metric]
) -> tuple[list[AnswerRow], dict[str, dict[str, int]]]:
    """The rows over test sets by name, each record answered with its lender's first reference, and the summary's `sets`, which
    count the answers borrowed from another category too.

    Nothing is decoded: seed 0, protocol `plain`, lengths 0.
    """
    rows: list[AnswerRow] = []
    sets: dict[str, dict[str, int]] = {}
    for name, members in records.items():
        pairs = list(zip(members, lenders(members), strict=True))
        answers = [Answer(id=one.id, text=lender.references[0], length=0, finish_reason="eos") for one, lender in pairs]
        rows += score_answers(RUN, (name, "plain", 0), members, answers, metrics)
        across = sum(lender.category != borrower.category for borrower, lender in pairs)
        sets[name] = {"rows": len(members), "dropped": 0, "borrowed_across_categories": across}
    return rows, sets


def write_floor(root: Path, name: str) -> None:
    """Write `evaluations/<name>` of the floor over prepared test sets. `name`: digest of a FloorSpec in `specs`."""
    started = time.perf_counter()
    spec = read_spec(root, name, FloorSpec)
    records = {test_set: prepared_records(root, spec, test_set) for test_set in sorted(spec.test_sets)}
    rows, sets = evaluate_floor(records, load_metrics(spec.metrics))
    summary = build_summary(rows, sets=sets, timings={"total": time.perf_counter() - started})
    write_evaluation(root / "evaluations" / name, spec, rows, summary)
