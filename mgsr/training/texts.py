"""Makes text for a step's prompts: the data set's, the student's or the teacher's, and its revision by SCRG."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from mgsr.config.run_specs import TrainSpec
from mgsr.data.encoding import Example
from mgsr.errors import MgsrError
from mgsr.models.language_model import LanguageModel, autocast
from mgsr.rollouts.noise import row_key
from mgsr.rollouts.sampler import Decoding, Prompt, generate
from mgsr.rollouts.scrg import revise
from mgsr.rollouts.sequence import Author, Sequence
from mgsr.training.clock import Clock
from mgsr.training.distributed import World
from mgsr.training.order import DataOrder


@dataclass(frozen=True)
class Models:
    """The two models of a run, which share a vocabulary, and the precision of their forward passes."""

    student: LanguageModel
    teacher: LanguageModel | None
    tokenizer: PreTrainedTokenizerBase
    precision: str

    def autocast(self) -> torch.autocast:
        return autocast(self.precision, self.student.device)


def _key(example_id: str, prompt_ids: tuple[int, ...]) -> tuple[str, int]:
    """The key of a teacher's text. Step and place are no part of it: in the next epoch they belong to another prompt."""
    return example_id, row_key(*prompt_ids)


def prompts_of(visited: Iterable[tuple[Example, int]]) -> list[Prompt]:
    """The prompts of examples, each with its visit."""
    return [Prompt(example.id, example.prompt_ids, visit=visit) for example, visit in visited]


class Rollouts:
    """Makes this process's sequences of a step. A user's own policy (`sequences.function`) gets it as its first argument.

    Each function gives one sequence for each example, in order. `visits` says how often each example was seen before; with the
    seed and the example's id it decides the random numbers, so text does not depend on batches or processes.
    """

    def __init__(self, spec: TrainSpec, models: Models, order: DataOrder, world: World, clock: Clock) -> None:
        self._models, self._order, self._world, self._clock = models, order, world, clock
        self._training, self._scrg = spec.method.training, spec.method.sequences.scrg
        limit = spec.method.sequences.max_new_tokens or spec.max_new_tokens
        self.decoding = Decoding(limit, spec.data_config.max_length, seed=spec.seed, batch=self._training.rollout_batch)
        self._teacher_text: dict[tuple[str, int], Sequence] = {}
        self._hits: list[tuple[int, int]] = []

    def teacher_model(self) -> LanguageModel:
        """The teacher. Raises MgsrError where the run has none."""
        if self._models.teacher is None:
            raise MgsrError("the sequences of this method need a teacher; this run has none")
        return self._models.teacher

    def dataset(self, examples: Items[Example]) -> list[Sequence]:
        """The ground-truth responses."""
        return [Sequence.from_example(example, self._models.student.eos_id) for example in examples]

    def student(self, examples: Items[Example], visits: Items[int]) -> list[Sequence]:
        """Fresh text of the student's current weights, not revised."""
        return self._write(self._models.student, examples, visits, "rollout", "student")

    def teacher(self, examples: Items[Example], visits: Items[int]) -> list[Sequence]:
        """The teacher's text: one sample at T = 1 for each prompt (Kim & Rush 2016, sampled), whatever the visit."""
        del visits
        for example in examples:
            if _key(example.id, example.prompt_ids) not in self._teacher_text:
                group = self._decoding_group(example)
                self.keep_teacher_text(self._write(self.teacher_model(), group, [0] * len(group), "teacher_text", "teacher"))
        return [self._teacher_text[_key(example.id, example.prompt_ids)] for example in examples]

    def keep_teacher_text(self, sequences: Iterable[Sequence]) -> None:
        """Keep text of the teacher that another process wrote, so that this one need not."""
        self._teacher_text |= {_key(sequence.example_id, sequence.prompt_ids): sequence for sequence in sequences}

    def is_teacher_text(self, sequence: Sequence) -> bool:
        """Whether this very text came from the teacher."""
        return self._teacher_text.get(_key(sequence.example_id, sequence.prompt_ids)) == sequence

    def revise(self, sequences: Items[Sequence], visits: Items[int]) -> list[Sequence]:
        """The sequences after SCRG, as `sequences.scrg` says. Raises MgsrError where that is null."""
        if self._scrg is None:
            raise MgsrError("sequences.scrg is null, so nothing says how to revise; give it, e.g. {passes: 1}")
        student, teacher, chunk = self._models.student, self.teacher_model(), self._training.chunk
        with self._models.autocast(), self._clock.measure("scrg"):
            revised, stats = revise(student, teacher, sequences, visits, self._scrg, self.decoding, chunk=chunk)
        self._hits += stats.hits
        return revised

    def take_hits(self) -> list[tuple[int, int]]:
        """(position, response length) of each correction since the last call."""
        hits, self._hits = self._hits, []
        return hits

    def _write(
        self, model: LanguageModel, examples: Items[Example], visits: Items[int], purpose: str, author: Author
    ) -> list[Sequence]:
        prompts = prompts_of(zip(examples, visits, strict=True))
        with self._models.autocast(), self._clock.measure("rollout"):
            return generate(model, prompts, self.decoding, purpose=purpose, author=author)

    def _decoding_group(self, example: Example) -> list[Example]:
        """The examples to decode together with this one: those that a process meets for the first time in the same step.

        The teacher's text is no part of a checkpoint, so a resumed run decodes it again, and in bf16 another batch could give
        another text. The examples of a step are the same ones after a resume.
        """
        place = self._order.first_places.get(example.id)
        if place is None:
            return [example]
        step, place = divmod(place, self._training.global_batch)
        share = self._training.global_batch // self._world.size
        start = place // share * share
        group = [other for other, visit in self._order.batch(step + 1)[start : start + share] if visit == 0]
        return group if example in group else [example]
