"""Where the sequences of an optimiser step come from: the data set, the student (corrected or not), the replay buffer."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from mgsr.config.schema import PolicyGradientConfig, RunSpec
from mgsr.data.examples import Example
from mgsr.data.spans import token_spans
from mgsr.errors import MgsrError
from mgsr.models.heads import LanguageModel
from mgsr.rollouts.collection import Collection, collect
from mgsr.rollouts.policies import RolloutPolicy, Source
from mgsr.rollouts.sampler import Decoding, Prompt, generate
from mgsr.rollouts.scrg import revise
from mgsr.rollouts.sequence import Sequence
from mgsr.training.clock import Clock
from mgsr.training.distributed import World
from mgsr.training.order import DataOrder
from mgsr.training.step import StepSequences, autocast, whitened


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


class StepSource:
    """Makes the sequences of each step, all of them before its first backward pass. Ask once for each step, in order."""

    def __init__(
        self, spec: RunSpec, models: Models, examples: Items[Example], world: World, clock: Clock, with_spans: bool
    ) -> None:
        self._spec, self._models, self._world, self._clock, self._with_spans = spec, models, world, clock, with_spans
        self._training, self._config = spec.method.training, spec.method.sequences
        self._policy = RolloutPolicy(self._config, seed=spec.seed, global_batch=self._training.global_batch)
        self._order = DataOrder(examples, spec.seed, self._training.global_batch)
        limit = self._config.max_new_tokens or spec.max_new_tokens
        self._decoding = Decoding(limit, spec.data_config.max_length)
        self._hits: list[tuple[int, int]] = []
        self._collection: Collection | None = None
        if self._config.policy == "collection":
            batch = self._training.global_batch
            self._collection = Collection(self._config.collection, seed=spec.seed, global_batch=batch)

    @property
    def student_share(self) -> float | None:
        """Share of the steps so far that trained on text of the student; None where the method uses the data set alone."""
        return None if self._config.policy == "dataset" else self._policy.student_share

    def step(self, step: int) -> tuple[StepSequences, dict[str, Any]]:
        """This process's sequences of optimiser step `step` (from 1), and what the metrics say about them: `source`, and
        `scrg_hits` where SCRG was at work: [position, response length] of each correction, of all processes."""
        self._hits = []
        if self._collection is not None:
            return self._collected(step, self._collection)
        seen = self._order.batch(step)[self._world.slice(self._training.global_batch)]
        truth = [Sequence.from_example(example, self._models.eos_id) for example, _ in seen]
        source = self._policy.plan(step, self._training.steps)
        distilled = truth if source == "dataset" else self._distilled(step, source, seen)
        facts: dict[str, Any] = {"source": source, "student_share": self._policy.student_share}
        if self._config.scrg is not None and source == "student":
            facts["scrg_hits"] = self._world.gather(self._hits)
        return StepSequences(distilled, self._spans(distilled), truth), facts

    def _distilled(self, step: int, source: Source, seen: list[tuple[Example, int]]) -> list[Sequence]:
        if source == "buffer":
            return self._policy.draw(step)[self._world.slice(self._training.global_batch)]
        fresh = self._student([example for example, _ in seen], [visit for _, visit in seen])
        self._policy.store(self._world.gather(fresh))
        return fresh

    def _collected(self, step: int, collection: Collection) -> tuple[StepSequences, dict[str, Any]]:
        """MiniLLM's: a batch of the collection that the step belongs to, which is made where its first step asks for it."""
        gradient = self._spec.method.objective.distillation
        assert isinstance(gradient, PolicyGradientConfig)  # the configuration has them together
        source = self._policy.plan(step, self._training.steps)
        seen = [pair for batch in collection.prompt_batches(step) for pair in self._order.batch(batch)]
        if collection.due(step):
            if self._models.teacher is None:
                raise MgsrError("sequences.policy 'collection' needs a teacher; this run has none")
            own = seen[self._world.slice(len(seen))]
            prompts = [Prompt(example.id, example.prompt_ids) for example, _ in own]
            with autocast(self._training.precision, self._world.device), self._clock.measure("rollout"):
                fresh = collect(
                    self._models.student,
                    self._models.teacher,
                    prompts,
                    teacher_mix=self._config.collection.teacher_mix,
                    **self._axes([visit for _, visit in own]),
                )
            collection.fill(step, self._world.gather(fresh))
        chosen = collection.batch(step)[self._world.slice(self._training.global_batch)]
        distilled = [rollout.sequence for _, rollout in chosen]
        truth = [Sequence.from_example(seen[place][0], self._models.eos_id) for place, _ in chosen]
        columns = whitened([rollout.columns(gradient) for _, rollout in chosen], self._world)
        facts = {"source": source, "student_share": self._policy.student_share}
        return StepSequences(distilled, self._spans(distilled), truth, rollout=columns), facts

    def _spans(self, sequences: list[Sequence]) -> list[list[tuple[int, int]]]:
        if not self._with_spans:
            return [[] for _ in sequences]
        with self._clock.measure("chunker"):
            return [token_spans(sequence.response_ids, self._models.tokenizer) for sequence in sequences]

    # -- making text ---------------------------------------------------------------------------------------------------

    def _axes(self, visits: list[int]) -> dict[str, Any]:
        models = self._models
        return {
            "seed": self._spec.seed, "visit": visits, "decoding": self._decoding, "eos_id": models.eos_id,
            "pad_id": models.pad_id, "vocabulary": models.vocabulary, "batch": self._training.rollout_batch,
        }  # fmt: skip

    def _student(self, examples: list[Example], visits: list[int]) -> list[Sequence]:
        """Fresh text of the student's current weights, revised where the method has SCRG."""
        prompts = [Prompt(example.id, example.prompt_ids) for example in examples]
        with autocast(self._training.precision, self._world.device), self._clock.measure("rollout"):
            sequences = generate(self._models.student, prompts, purpose="rollout", **self._axes(visits))
        return self._revised(sequences, visits)

    def _revised(self, sequences: list[Sequence], visits: list[int]) -> list[Sequence]:
        if self._config.scrg is None:
            return sequences
        if self._models.teacher is None:
            raise MgsrError("sequences.scrg needs a teacher; this run has none")
        with autocast(self._training.precision, self._world.device), self._clock.measure("scrg"):
            revised, stats = revise(
                self._models.student,
                self._models.teacher,
                sequences,
                self._config.scrg,
                chunk=self._training.chunk,
                **self._axes(visits),
            )
        self._hits += stats.hits
        return revised

    # -- validation, checkpoints ---------------------------------------------------------------------------------------

    def on_validation(self, loss: float) -> None:
        """Tell the validation loss: before training, and after each validation. MgsrError if it is not finite."""
        self._policy.on_validation(loss)

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values; `load_state_dict` continues exactly from there."""
        state: dict[str, Any] = {"policy": self._policy.state_dict()}
        if self._collection is not None:
            state["collection"] = self._collection.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._policy.load_state_dict(state["policy"])
        if self._collection is not None:
            self._collection.load_state_dict(state["collection"])
