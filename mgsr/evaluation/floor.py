"""The floor under every score: each row answered with the reference of another row of the same kind, cut as answers are.

A model that has learnt the form of the answers and nothing else scores about this much, so a gain counts from here.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mgsr.config.specs import FloorSpec, read_spec
from mgsr.data.encoding import Tokenizer, encode_examples
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


def borrowed(records: Sequence[Record], chosen: Sequence[Record], tokenizer: Tokenizer, spec: FloorSpec) -> list[Answer]:
    """To each record the first reference of its lender, cut where an answer would be; dropped where the prompt is too long."""
    asked = [replace(record, references=lender.references[:1]) for record, lender in zip(records, chosen, strict=True)]
    answers = {}
    for example in encode_examples(asked, tokenizer, spec)[0]:
        ids, text = example.response_ids[: spec.max_new_tokens], example.references[0]
        whole = ids[-1:] == (tokenizer.eos_token_id,)
        text = text if whole else str(tokenizer.decode(list(ids), skip_special_tokens=True))
        answers[example.id] = Answer(id=example.id, text=text, length=len(ids), finish_reason="eos" if whole else "length")
    return [answers.get(record.id) or Answer(id=record.id, text="", length=0, finish_reason="dropped") for record in records]


def evaluate_floor(
    records: Mapping[str, Sequence[Record]], metrics: Mapping[str, Metric], tokenizer: Tokenizer, spec: FloorSpec
) -> tuple[list[AnswerRow], dict[str, dict[str, int]]]:
    """The rows over test sets by name, each record answered with what it borrows, and the summary's `sets`, which count the
    lenders of another category too.

    Nothing is decoded: seed 0, protocol `plain`.
    """
    rows: list[AnswerRow] = []
    sets: dict[str, dict[str, int]] = {}
    for name, members in records.items():
        chosen = lenders(members)
        scored = score_answers(RUN, (name, "plain", 0), members, borrowed(members, chosen, tokenizer, spec), metrics)
        across = sum(lender.category != borrower.category for borrower, lender in zip(members, chosen, strict=True))
        sets[name] = {"rows": len(scored), "dropped": len(members) - len(scored), "borrowed_across_categories": across}
        rows += scored
    return rows, sets


def write_floor(root: Path, name: str) -> None:
    """Write `evaluations/<name>` of the floor over prepared test sets. `name`: digest of a FloorSpec in `specs`."""
    from mgsr.models.loading import load_tokenizer  # it imports torch

    started = time.perf_counter()
    spec = read_spec(root, name, FloorSpec)
    tokenizer = load_tokenizer(root / "models" / spec.base_model)
    records = {test_set: prepared_records(root, spec, test_set) for test_set in sorted(spec.test_sets)}
    rows, sets = evaluate_floor(records, load_metrics(spec.metrics), tokenizer, spec)
    summary = build_summary(rows, sets=sets, timings={"total": time.perf_counter() - started})
    write_evaluation(root / "evaluations" / name, spec, rows, summary)
