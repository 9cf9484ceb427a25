"""Every answer of one run: test sets x protocols x decoding seeds, and the held-out divergence from the teacher.

A finished cell (set, protocol, seed) is kept at once, so an interrupted evaluation goes on where it was.
"""

from __future__ import annotations

import shutil
import time
from itertools import product
from pathlib import Path

import torch

from mgsr.config.base import IN_DOMAIN
from mgsr.config.measurement import NO_REPEAT_NGRAM, Protocol
from mgsr.config.specs import EvaluationSpec, read_spec
from mgsr.data.examples import Example, encode_examples
from mgsr.data.records import load_records
from mgsr.evaluation.answers import AnswerRow, build_summary, read_rows, write_rows
from mgsr.evaluation.trained_model import RunModel, read
from mgsr.models.loading import check_shared_vocabulary
from mgsr.objectives.divergences import forward_kl, reverse_kl
from mgsr.rollouts.sampler import Decoding, Prompt
from mgsr.rollouts.sequence import Sequence, decode_texts
from mgsr.rouge import rouge_l_many
from mgsr.storage import new_folder, write_json


class Evaluator:
    """A run's model, with what it needs to answer."""

    def __init__(self, spec: EvaluationSpec, root: Path) -> None:
        self.spec, self.root = spec, root
        self.run_model = RunModel.load(root, spec.run)

    def examples(self, test_set: str) -> tuple[list[Example], int]:
        """A test set's rows that fit, and how many were dropped."""
        records = load_records(self.root / "test_sets" / self.spec.test_sets[test_set], "records")[: self.spec.rows[test_set]]
        kept, dropped = encode_examples(records, self.run_model.tokenizer, self.spec)
        return kept, dropped["dropped_prompts"]

    def answer(self, test_set: str, examples: list[Example], protocol: Protocol, seed: int) -> list[AnswerRow]:
        """One sampled response to each example, scored."""
        evaluation = self.spec.evaluation
        decoding = Decoding(evaluation.max_new_tokens, self.spec.max_length, NO_REPEAT_NGRAM[protocol])
        prompts = [Prompt(example.id, example.prompt_ids) for example in examples]
        written = self.run_model.write(prompts, decoding, purpose="evaluation", visit=0, batch=evaluation.batch, seed=seed)
        texts = decode_texts(self.run_model.tokenizer, written)
        scores = rouge_l_many(texts, [example.references for example in examples])
        return [
            AnswerRow(
                run=self.spec.run,
                set=test_set,
                id=example.id,
                decoding_seed=seed,
                protocol=protocol,
                text=text,
                score=score,
                length=len(sequence.response_ids),
                finish_reason="eos" if sequence.finished else "length",
            )
            for example, sequence, text, score in zip(examples, written, texts, scores, strict=True)
        ]

    def heldout(self, examples: list[Example]) -> dict[str, float | int] | None:
        """Mean divergence from the teacher per response token, in nats, teacher-forced on reference answers."""
        if self.spec.teacher_run is None:
            return None
        student, teacher = self.run_model, RunModel.load(self.root, self.spec.teacher_run)
        vocabulary = check_shared_vocabulary(teacher.tokenizer, student.tokenizer)
        sequences = [Sequence.from_example(example, student.eos_id) for example in examples]
        totals = dict.fromkeys(("forward_kl", "reverse_kl"), 0.0)
        for _, (s_logp, t_logp) in read([student, teacher], sequences, vocabulary, batch=self.spec.evaluation.batch):
            totals["forward_kl"] += float(forward_kl(s_logp, t_logp).double().sum())
            totals["reverse_kl"] += float(reverse_kl(s_logp, t_logp).double().sum())
        tokens = sum(len(sequence.response_ids) for sequence in sequences)
        return {**{name: total / tokens for name, total in totals.items()}, "tokens": tokens, "rows": len(sequences)}


def evaluate(root: Path, name: str) -> None:
    """Write `evaluations/<name>`: rows.jsonl and summary.json."""
    started = time.perf_counter()
    spec = read_spec(root, name, EvaluationSpec)
    torch.set_num_threads(spec.threads)
    evaluator = Evaluator(spec, root)
    cells = root / "checkpoints" / f"evaluation-{name}"
    rows: list[AnswerRow] = []
    sets: dict[str, dict[str, int]] = {}
    timings: dict[str, float] = {"start": time.perf_counter() - started}
    for test_set in spec.test_sets:
        began = time.perf_counter()
        examples, dropped = evaluator.examples(test_set)
        sets[test_set] = {"rows": len(examples), "dropped": dropped}
        for protocol, seed in product(spec.evaluation.protocols, spec.evaluation.decoding_seeds):
            cell = cells / f"{test_set}-{protocol}-{seed}.jsonl"
            if not cell.is_file():
                write_rows(cell, evaluator.answer(test_set, examples, protocol, seed))
            rows += read_rows(cell)
        timings[test_set] = time.perf_counter() - began
    began = time.perf_counter()
    heldout = evaluator.heldout(evaluator.examples(IN_DOMAIN)[0][: spec.evaluation.heldout_rows])
    timings |= {"heldout": time.perf_counter() - began, "total": time.perf_counter() - started}
    timings = {stage: round(seconds, 3) for stage, seconds in timings.items()}
    with new_folder(root / "evaluations" / name) as out:
        write_rows(out / "rows.jsonl", rows)
        write_json(out / "spec.json", spec.model_dump(mode="json"))
        write_json(out / "summary.json", build_summary(rows, sets=sets, timings=timings, heldout=heldout))
    shutil.rmtree(cells)
