"""Scores of one run: test sets x protocols x decoding seeds, and the held-out divergence from the teacher.

Answers are decoded once and kept under the digest of all that they depend on, part by part. So an interrupted evaluation goes
on where it was, and one with another metric, test set, protocol or decoding seed decodes only what does not exist. The model
is loaded when the first answer is missing, not before.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgsr.config.base import IN_DOMAIN
from mgsr.config.specs import AnswersSpec, EvaluationSpec, HeldoutSpec, read_spec, spec_digest
from mgsr.data.records import Record
from mgsr.evaluation.answers import ANSWERS, HELDOUT, Answer, Heldout, read_answers, read_heldout
from mgsr.evaluation.scoring import AnswerRow, Part, build_summary, prepared_records, score_answers, write_evaluation
from mgsr.metrics import load_metrics
from mgsr.storage import new_folder, write_json, write_jsonl

if TYPE_CHECKING:
    from mgsr.evaluation.answering import Answerer


def _conditions(spec: EvaluationSpec, test_set: str) -> dict[str, Any]:
    """What the answers to a test set and the held-out divergence on it both depend on."""
    return {
        **spec.model_dump(include={"run", "max_length", "max_prompt_length", "threads"}),
        "test_set": spec.test_sets[test_set],
        "rows": spec.rows[test_set],
        "batch": spec.evaluation.batch,
        "code": spec.answer_code,
    }


def answers_spec(spec: EvaluationSpec, part: Part) -> AnswersSpec:
    """What a part of an evaluation depends on; its digest names the kept answers."""
    test_set, protocol, seed = part
    return AnswersSpec(
        protocol=protocol, decoding_seed=seed, max_new_tokens=spec.evaluation.max_new_tokens, **_conditions(spec, test_set)
    )


def heldout_spec(spec: EvaluationSpec) -> HeldoutSpec | None:
    """What the held-out divergence depends on; None for a teacher."""
    if spec.teacher_run is None:
        return None
    conditions = _conditions(spec, IN_DOMAIN)
    return HeldoutSpec(teacher_run=spec.teacher_run, heldout_rows=spec.evaluation.heldout_rows, **conditions)


def parts_of(spec: EvaluationSpec) -> list[Part]:
    """All parts of an evaluation. The order of test sets is no part of the digest."""
    return list(product(sorted(spec.test_sets), spec.evaluation.protocols, spec.evaluation.decoding_seeds))


class Evaluator:
    """Gives what a run's scores are made of. What is not kept yet is made by the model and then kept."""

    def __init__(self, root: Path, spec: EvaluationSpec) -> None:
        self.root, self.spec = root, spec

    @cached_property
    def answerer(self) -> Answerer:
        from mgsr.evaluation.answering import Answerer  # it imports torch

        return Answerer(self.root, self.spec.run, self.spec.threads)

    def answers(self, part: Part, records: Sequence[Record]) -> list[Answer]:
        """One answer to each record of the part's test set, in order."""
        spec = answers_spec(self.spec, part)
        folder = self.root / "answers" / spec_digest(spec)
        if not folder.exists():
            self._write_spec(spec)
            answers = self.answerer.answers(records, spec)
            with new_folder(folder) as out:
                write_jsonl(out / ANSWERS, map(asdict, answers))
        return read_answers(folder, [record.id for record in records])

    def heldout(self) -> Heldout | None:
        """Mean divergence from the teacher on reference answers; None for a teacher."""
        spec = heldout_spec(self.spec)
        if spec is None:
            return None
        folder = self.root / "heldout" / spec_digest(spec)
        if not folder.exists():
            heldout = self.answerer.heldout(prepared_records(self.root, self.spec, IN_DOMAIN), spec)
            self._write_spec(spec)
            with new_folder(folder) as out:
                write_json(out / HELDOUT, asdict(heldout))
        return read_heldout(folder)

    def _write_spec(self, spec: AnswersSpec | HeldoutSpec) -> None:
        """For a reader who asks what a folder of answers is; no job reads it."""
        write_json(self.root / "specs" / f"{spec_digest(spec)}.json", spec.model_dump(mode="json"))


def evaluate(root: Path, name: str) -> None:
    """Write `evaluations/<name>`: rows.jsonl, summary.json and spec.json. `name`: digest of an EvaluationSpec in `specs`.

    Raises MgsrError for kept answers that are damaged, and for a metric that fails; no answer is lost by it.
    """
    started = time.perf_counter()
    spec = read_spec(root, name, EvaluationSpec)
    metrics = load_metrics(spec.metrics)
    evaluator = Evaluator(root, spec)
    rows: list[AnswerRow] = []
    sets: dict[str, dict[str, int]] = {}
    timings: dict[str, float] = {}
    for test_set in sorted(spec.test_sets):  # their order is no part of the digest
        began = time.perf_counter()
        records = prepared_records(root, spec, test_set)
        for protocol, seed in product(spec.evaluation.protocols, spec.evaluation.decoding_seeds):
            part = (test_set, protocol, seed)
            scored = score_answers(spec.run, part, records, evaluator.answers(part, records), metrics)
            sets[test_set] = {"rows": len(scored), "dropped": len(records) - len(scored)}
            rows += scored
        timings[test_set] = time.perf_counter() - began
    began = time.perf_counter()
    heldout = evaluator.heldout()
    timings |= {"heldout": time.perf_counter() - began, "total": time.perf_counter() - started}
    summary = build_summary(rows, sets=sets, timings=timings, heldout=heldout)
    write_evaluation(root / "evaluations" / name, spec, rows, summary, heldout)
