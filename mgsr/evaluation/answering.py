"""All that an evaluation needs a model for: its answers, and its held-out divergence from the teacher.

The digest of this module's code is part of what names both, so it imports nothing that scores.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from pathlib import Path

import torch

from mgsr.config.measurement import NO_REPEAT_NGRAM
from mgsr.config.specs import AnswersSpec, HeldoutSpec
from mgsr.data.encoding import encode_examples
from mgsr.data.records import Record
from mgsr.evaluation.answers import Answer, Heldout
from mgsr.evaluation.trained_model import TrainedModel, response_log_probabilities
from mgsr.models.kl import forward_kl, reverse_kl
from mgsr.models.loading import check_shared_vocabulary
from mgsr.rollouts.sampler import Decoding, Prompt
from mgsr.rollouts.sequence import Sequence, decode_texts


class Answerer:
    """The model of a run, loaded."""

    def __init__(self, root: Path, run: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.root, self.model = root, TrainedModel.load(root, run)

    def answers(self, records: Items[Record], spec: AnswersSpec) -> list[Answer]:
        """One sampled answer to each record, in order."""
        examples = encode_examples(records, self.model.tokenizer, spec)[0]
        decoding = Decoding(
            spec.max_new_tokens, spec.max_length, spec.decoding_seed, spec.batch, NO_REPEAT_NGRAM[spec.protocol]
        )
        prompts = [Prompt(example.id, example.prompt_ids) for example in examples]
        sequences = self.model.write(prompts, decoding, "evaluation")
        texts = decode_texts(self.model.tokenizer, sequences)
        answered = {
            sequence.example_id: Answer(
                id=sequence.example_id,
                text=text,
                length=len(sequence.response_ids),
                finish_reason="eos" if sequence.finished else "length",
            )
            for sequence, text in zip(sequences, texts, strict=True)
        }
        return [
            answered.get(record.id) or Answer(id=record.id, text="", length=0, finish_reason="dropped") for record in records
        ]

    def heldout(self, records: Items[Record], spec: HeldoutSpec) -> Heldout:
        """Mean divergence from the teacher on the first rows that fit, teacher-forced on their reference answers."""
        student, teacher = self.model, TrainedModel.load(self.root, spec.teacher_run)
        check_shared_vocabulary(teacher.tokenizer, student.tokenizer)
        examples = encode_examples(records, student.tokenizer, spec)[0][: spec.heldout_rows]
        sequences = [Sequence.from_example(example, student.model.eos_id) for example in examples]
        forward = reverse = 0.0
        by_prompt: dict[str, list[float]] = {}
        for i, (s_logp, t_logp) in response_log_probabilities([student, teacher], sequences, spec.batch):
            sums = [float(divergence(s_logp, t_logp).double().sum()) for divergence in (forward_kl, reverse_kl)]
            forward, reverse = forward + sums[0], reverse + sums[1]
            by_prompt[sequences[i].example_id] = [*sums, float(len(sequences[i].response_ids))]
        tokens = sum(len(sequence.response_ids) for sequence in sequences)
        return Heldout(
            forward_kl=forward / tokens,
            reverse_kl=reverse / tokens,
            tokens=tokens,
            rows=len(sequences),
            by_prompt=dict(sorted(by_prompt.items())),
        )
