"""Every answer of one run: test sets x protocols x decoding seeds, and the held-out divergence from the teacher.

A finished cell (set, protocol, seed) is kept at once, so an interrupted evaluation goes on where it was.
"""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from itertools import product
from pathlib import Path

import torch

from mgsr.config.schema import TEST_SETS, EvaluationSpec, RunSpec
from mgsr.data.examples import Example, encode_examples
from mgsr.data.records import load_records
from mgsr.evaluation.rows import AnswerRow, build_summary, read_rows, write_rows
from mgsr.models.heads import LanguageModel, split
from mgsr.models.loading import check_shared_vocabulary, load_model, load_tokenizer
from mgsr.objectives.chunked import log_probabilities
from mgsr.objectives.divergences import forward_kl, reverse_kl
from mgsr.rollouts.decoder import inference
from mgsr.rollouts.sampler import PUBLISHED_NGRAM, Decoding, Prompt, generate
from mgsr.rollouts.sequence import Sequence, by_length, collate, decode_texts
from mgsr.rouge import rouge_l_many
from mgsr.storage import new_folder, read_json, write_json
from mgsr.training.step import autocast, response_states

CHUNK = 256  # positions whose logits exist at one time


class Evaluator:
    """A run's model on its device, with what it needs to answer."""

    def __init__(self, spec: EvaluationSpec, root: Path) -> None:
        self.spec, self.root = spec, root
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        folder = root / "runs" / spec.run
        self.precision = RunSpec.model_validate(read_json(folder / "spec.json")).method.training.precision
        self.tokenizer = load_tokenizer(folder / "model")
        self.vocabulary = len(self.tokenizer)
        self.eos_id, self.pad_id = int(self.tokenizer.eos_token_id), int(self.tokenizer.pad_token_id)
        self.model = split(load_model(folder / "model", device=self.device))

    def examples(self, test_set: str) -> tuple[list[Example], int]:
        """A test set's rows that fit, and how many were dropped."""
        records = load_records(self.root / "data" / self.spec.data, test_set)
        config = self.spec.data_config
        kept, dropped = encode_examples(records[: config.test_rows.get(test_set)], self.tokenizer, config)
        return kept, dropped["dropped_prompts"]

    def answer(self, test_set: str, examples: list[Example], protocol: str, seed: int) -> list[AnswerRow]:
        """One sampled response to each example, scored."""
        evaluation = self.spec.evaluation
        ngram = PUBLISHED_NGRAM if protocol == "published" else 0
        decoding = Decoding(evaluation.max_new_tokens, self.spec.data_config.max_length, ngram)
        with autocast(self.precision, self.device):
            written = generate(
                self.model,
                [Prompt(example.id, example.prompt_ids) for example in examples],
                decoding,
                seed=seed,
                purpose="evaluation",
                visit=0,
                eos_id=self.eos_id,
                pad_id=self.pad_id,
                vocabulary=self.vocabulary,
                batch=evaluation.batch,
            )
        texts = decode_texts(self.tokenizer, written)
        scores = rouge_l_many(texts, [example.references for example in examples])
        return [
            AnswerRow(
                run=self.spec.run,
                set=test_set,
                id=example.id,
                decoding_seed=seed,
                protocol=protocol,  # type: ignore[arg-type]
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
        folder = self.root / "runs" / self.spec.teacher_run / "model"
        vocabulary = check_shared_vocabulary(load_tokenizer(folder), self.tokenizer)
        teacher: LanguageModel = split(load_model(folder, device=self.device))
        sequences = [Sequence.from_example(example, self.eos_id) for example in examples]
        totals: defaultdict[str, float] = defaultdict(float)
        with inference(self.model, teacher), autocast(self.precision, self.device):
            for rows in by_length([len(sequence) for sequence in sequences], self.spec.evaluation.batch):
                batch = collate([sequences[i] for i in rows], self.pad_id).to(self.device)
                hidden = [torch.split(response_states(model, batch), CHUNK) for model in (self.model, teacher)]
                for s, t in zip(*hidden, strict=True):
                    student_logp = log_probabilities(self.model.head, s, vocabulary)
                    teacher_logp = log_probabilities(teacher.head, t, vocabulary)
                    totals["forward_kl"] += float(forward_kl(student_logp, teacher_logp).double().sum())
                    totals["reverse_kl"] += float(reverse_kl(student_logp, teacher_logp).double().sum())
                totals["tokens"] += len(batch.targets)
        means = {name: totals[name] / totals["tokens"] for name in ("forward_kl", "reverse_kl")}
        return {**means, "tokens": int(totals["tokens"]), "rows": len(sequences)}


def evaluate(name: str, spec: EvaluationSpec, root: Path) -> None:
    """Write `evaluations/<name>`: rows.jsonl and summary.json."""
    started = time.perf_counter()
    torch.set_num_threads(spec.threads)
    evaluator = Evaluator(spec, root)
    cells = root / "checkpoints" / f"evaluation-{name}"
    rows: list[AnswerRow] = []
    sets: dict[str, dict[str, int]] = {}
    timings: dict[str, float] = {"start": time.perf_counter() - started}
    for test_set in TEST_SETS:
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
    heldout = evaluator.heldout(evaluator.examples("dolly")[0][: spec.evaluation.heldout_rows])
    timings |= {"heldout": time.perf_counter() - began, "total": time.perf_counter() - started}
    timings = {stage: round(seconds, 3) for stage, seconds in timings.items()}
    with new_folder(root / "evaluations" / name) as out:
        write_rows(out / "rows.jsonl", rows)
        write_json(out / "spec.json", spec.model_dump(mode="json"))
        write_json(out / "summary.json", build_summary(rows, sets=sets, timings=timings, heldout=heldout))
    shutil.rmtree(cells)
