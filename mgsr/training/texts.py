"""Text for a step's prompts: what the data set, the student or the teacher writes, and its revision by SCRG."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from mgsr.config.specs import TrainSpec
from mgsr.data.examples import Example
from mgsr.errors import MgsrError
from mgsr.models.language_model import LanguageModel
from mgsr.rollouts.noise import row_key
from mgsr.rollouts.sampler import Decoding, Prompt, generate
from mgsr.rollouts.scrg import revise
from mgsr.rollouts.sequence import Author, Sequence
from mgsr.training.clock import Clock
from mgsr.training.distributed import World
from mgsr.training.order import DataOrder
from mgsr.training.step import autocast


@dataclass(frozen=True)
class Models:
    """The two models of a run and the vocabulary they share; tokens from `vocabulary` on are padding of output layers."""

    student: LanguageModel
    teacher: LanguageModel | None
    tokenizer: PreTrainedTokenizerBase
    vocabulary: int

    @property
    def eos_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)


Key = tuple[str, int]


def _key(example_id: str, prompt_ids: tuple[int, ...]) -> Key:
    """What the teacher's text is kept by: never a step or a place, which a shuffled walk gives to another prompt."""
    return example_id, row_key(*prompt_ids)


class Rollouts:
    """Makes this process's sequences of a step. A policy of your own (`sequences.function`) works with it, too.

    Each function gives one sequence for each example, in order. `visits` says how often each example was seen before; together
    with seed and example id it decides the random numbers, so text does not depend on batches or processes.
    """

    def __init__(self, spec: TrainSpec, models: Models, order: DataOrder, world: World, clock: Clock) -> None:
        self._spec, self._models, self._order, self._world, self._clock = spec, models, order, world, clock
        self._training, self._scrg = spec.method.training, spec.method.sequences.scrg
        limit = spec.method.sequences.max_new_tokens or spec.max_new_tokens
        self._decoding = Decoding(limit, spec.data_config.max_length)
        self._teacher_text: dict[Key, Sequence] = {}
        self._hits: list[tuple[int, int]] = []

    def axes(self, visits: Items[int]) -> dict[str, Any]:
        """What every function that makes text asks for."""
        models = self._models
        return {
            "seed": self._spec.seed, "visit": visits, "decoding": self._decoding, "eos_id": models.eos_id,
            "pad_id": models.pad_id, "vocabulary": models.vocabulary, "batch": self._training.rollout_batch,
        }  # fmt: skip

    def teacher_model(self) -> LanguageModel:
        """MgsrError where the run has no teacher."""
        if self._models.teacher is None:
            raise MgsrError("the sequences of this method need a teacher; this run has none")
        return self._models.teacher

    def dataset(self, examples: Items[Example]) -> list[Sequence]:
        """The ground-truth responses."""
        return [Sequence.from_example(example, self._models.eos_id) for example in examples]

    def student(self, examples: Items[Example], visits: Items[int]) -> list[Sequence]:
        """Fresh text of the student's current weights, not revised."""
        return self._write(self._models.student, examples, visits, "rollout", "student")

    def teacher(self, examples: Items[Example], visits: Items[int]) -> list[Sequence]:
        """The teacher's text: one sample at T = 1 for each prompt (Kim & Rush 2016, sampled), whatever the visit."""
        del visits
        for example in examples:
            if _key(example.id, example.prompt_ids) not in self._teacher_text:
                group = self._written_with(example)
                self.keep_teacher_text(self._write(self.teacher_model(), group, [0] * len(group), "teacher_text", "teacher"))
        return [self._teacher_text[_key(example.id, example.prompt_ids)] for example in examples]

    def keep_teacher_text(self, sequences: Iterable[Sequence]) -> None:
        """Teacher's text that this process need not write, for another one did."""
        self._teacher_text |= {_key(sequence.example_id, sequence.prompt_ids): sequence for sequence in sequences}

    def is_teacher_text(self, sequence: Sequence) -> bool:
        """Whether this very text came from the teacher."""
        return self._teacher_text.get(_key(sequence.example_id, sequence.prompt_ids)) == sequence

    def revise(self, sequences: Items[Sequence], visits: Items[int]) -> list[Sequence]:
        """The sequences after SCRG, as `sequences.scrg` says. MgsrError where it says nothing."""
        if self._scrg is None:
            raise MgsrError("sequences.scrg is null, so nothing says how to revise; give it, e.g. {passes: 1}")
        with autocast(self._training.precision, self._world.device), self._clock.measure("scrg"):
            revised, stats = revise(
                self._models.student,
                self.teacher_model(),
                sequences,
                self._scrg,
                chunk=self._training.chunk,
                **self.axes(visits),
            )
        self._hits += stats.hits
        return revised

    def take_hits(self) -> list[tuple[int, int]]:
        """(position, response length) of each correction since the last call."""
        hits, self._hits = self._hits, []
        return hits

    def _write(
        self, model: LanguageModel, examples: Items[Example], visits: Items[int], purpose: str, author: Author
    ) -> list[Sequence]:
        prompts = [Prompt(example.id, example.prompt_ids) for example in examples]
        with autocast(self._training.precision, self._world.device), self._clock.measure("rollout"):
            return generate(model, prompts, purpose=purpose, author=author, **self.axes(visits))

    def _written_with(self, example: Example) -> list[Example]:
        """The examples that share a decoding batch with this one: those that a process meets for the first time in the step
        where it meets this one. After a resume the batch is the same again; in bf16 another one would give another text."""
        place = self._order.first_places.get(example.id)
        if place is None:
            return [example]
        step, place = divmod(place, self._training.global_batch)
        share = self._training.global_batch // self._world.size
        start = place // share * share
        group = [other for other, visit in self._order.batch(step + 1)[start : start + share] if visit == 0]
        return group if example in group else [example]
