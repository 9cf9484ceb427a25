"""Gives each optimiser step its sequences: from the data set, the student or the teacher (corrected or not), the replay buffer,
a collection, or a function of the user's."""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Any

from mgsr.config.loss_terms import CrossEntropy, PolicyGradientConfig
from mgsr.config.run_specs import TrainSpec
from mgsr.data.encoding import Example
from mgsr.data.spans import token_spans
from mgsr.errors import MgsrError
from mgsr.plugins import load_custom
from mgsr.rollouts.collection import Collection, collect
from mgsr.rollouts.schedule import RolloutPolicy, Source
from mgsr.rollouts.sequence import Sequence
from mgsr.training.clock import Clock
from mgsr.training.distributed import World
from mgsr.training.order import DataOrder
from mgsr.training.step import StepSequences, whitened
from mgsr.training.texts import Models, Rollouts, prompts_of


class StepSource:
    """Makes the sequences of each step, all of them before its first backward pass. Ask once for each step, in order."""

    def __init__(
        self,
        spec: TrainSpec,
        models: Models,
        examples: Items[Example],
        steps: int,
        world: World,
        clock: Clock,
        with_spans: bool,
    ) -> None:
        """`steps`: of the whole run. Raises MgsrError where the function of the method's policy cannot be loaded."""
        self._spec, self._models, self._world, self._clock, self._with_spans = spec, models, world, clock, with_spans
        self._training, self._config = spec.method.training, spec.method.sequences
        self._policy = RolloutPolicy(self._config, seed=spec.seed, global_batch=self._training.global_batch)
        self._order = DataOrder(examples, spec.seed, self._training.global_batch)
        self._rollouts = Rollouts(spec, models, self._order, world, clock)
        self._run_steps = steps
        self._steps = self._student_steps = 0
        self._custom = load_custom(self._config.function) if self._config.function else None
        self._collection: Collection | None = None
        if self._config.policy == "collection":
            batch = self._training.global_batch
            self._collection = Collection(self._config.collection, seed=spec.seed, global_batch=batch)

    @property
    def student_share(self) -> float | None:
        """Share of the steps so far that trained on text of the student, fresh, replayed or corrected; None where the method
        wants none of it and there was none."""
        wanted = self._spec.method.wants_student_text or self._student_steps > 0
        return self._student_steps / self._steps if wanted and self._steps else None

    def step(self, step: int) -> tuple[StepSequences, dict[str, Any]]:
        """This process's sequences of optimiser step `step` (from 1), and what the metrics say about those of all processes.

        Metrics: `source`; `student_share` up to here; after SCRG `scrg_hits`, [position, response length] of each correction;
        where the teacher wrote `teacher_text_gold`, the share of its texts that equal the ground truth.
        """
        source = self._policy.plan(step, self._run_steps)
        facts: dict[str, Any] = {"source": source}
        if self._collection is not None:
            sequences = self._collected(step, self._collection)
        else:
            visited = self._order.batch(step)[self._world.slice(self._training.global_batch)]
            examples, visits = [example for example, _ in visited], [visit for _, visit in visited]
            truth = self._rollouts.dataset(examples)
            distilled = truth if source == "dataset" else self._distilled(step, source, examples, visits)
            sft_only = source == "dataset" and self._config.dataset_terms == "sft"
            spans = [[] for _ in distilled] if sft_only else self._spans(distilled)
            sequences = StepSequences(distilled, spans, truth, sft_only=sft_only)
            if source == "teacher":
                facts["teacher_text_gold"] = self._gold_share(self._rollouts.teacher(examples, visits), truth)
        if self._config.scrg is not None and source in ("student", "teacher", "custom"):
            facts["scrg_hits"] = self._world.gather(self._rollouts.take_hits())
        self._steps += 1
        self._student_steps += self._has_student_text(source, sequences.distilled)
        return sequences, facts | {"student_share": self._student_steps / self._steps}

    def _has_student_text(self, source: Source, distilled: list[Sequence]) -> bool:
        # A revised rollout begins with the student's text whoever finished it, and a sequence keeps its last author alone. So
        # sequences are looked at only where no rollout of the student is sure to be among them.
        if source in ("dataset", "student", "buffer"):
            return source != "dataset"
        return self._world.sum([sum(sequence.author == "student" for sequence in distilled)])[0] > 0

    def _distilled(self, step: int, source: Source, examples: list[Example], visits: list[int]) -> list[Sequence]:
        if source == "buffer":
            return self._policy.draw(step)[self._world.slice(self._training.global_batch)]
        if self._custom is not None:
            sequences = self._custom(self._rollouts, examples, visits, step=step, steps=self._run_steps)
            return self._checked(sequences, examples)
        fresh = (self._rollouts.teacher if source == "teacher" else self._rollouts.student)(examples, visits)
        if source == "teacher":
            self._rollouts.keep_teacher_text(self._world.gather(fresh))
        if self._config.scrg is not None:
            fresh = self._rollouts.revise(fresh, visits)
        if source == "teacher":
            self._check_targets(fresh)
        self._policy.store(self._world.gather(fresh))
        return fresh

    def _gold_share(self, teacher_text: list[Sequence], truth: list[Sequence]) -> float:
        gold = sum(text.response_ids == true.response_ids for text, true in zip(teacher_text, truth, strict=True))
        return self._world.sum([gold])[0] / self._training.global_batch

    def _check_targets(self, sequences: list[Sequence]) -> None:
        """Refuse SeqKD on text that is not the teacher's own: it has been published so (docs/pitfalls.md, no. 16)."""
        objective = self._spec.method.objective
        if isinstance(objective.distillation, CrossEntropy) and objective.distillation_weight > 0:
            for sequence in sequences:
                if sequence.author != "teacher" or not self._rollouts.is_teacher_text(sequence):
                    raise MgsrError(
                        f"example {sequence.example_id}: cross-entropy under policy 'teacher' asks for the teacher's own text, "
                        f"and this sequence is by the {sequence.author}, or revised; leave sequences.scrg null"
                    )

    def _checked(self, sequences: object, examples: list[Example]) -> list[Sequence]:
        """What the user's policy gave. Raises MgsrError unless it is one response to each prompt, in order."""
        where = f"the policy {self._config.function}"
        if not isinstance(sequences, list) or not all(isinstance(sequence, Sequence) for sequence in sequences):
            raise MgsrError(f"{where} must give a list of mgsr.rollouts.sequence.Sequence; it gave {type(sequences).__name__}")
        if len(sequences) != len(examples):
            raise MgsrError(f"{where} gave {len(sequences)} sequences for {len(examples)} examples; give one each, in order")
        for sequence, example in zip(sequences, examples, strict=True):
            if (sequence.example_id, sequence.prompt_ids) != (example.id, example.prompt_ids) or not sequence.response_ids:
                raise MgsrError(f"{where} gave no response to the prompt of example {example.id} in that example's place")
            if len(sequence) > self._spec.data_config.max_length:
                raise MgsrError(
                    f"{where} gave {len(sequence)} tokens for example {example.id}; prompt and response may have "
                    f"data.max_length {self._spec.data_config.max_length}"
                )
        return sequences

    def _collected(self, step: int, collection: Collection) -> StepSequences:
        """MiniLLM's sequences: a batch of the collection that the step belongs to. Its first step makes the collection."""
        gradient = self._spec.method.objective.distillation
        assert isinstance(gradient, PolicyGradientConfig)  # the configuration has them together
        visited = [pair for batch in collection.prompt_batches(step) for pair in self._order.batch(batch)]
        if collection.due(step):
            prompts = prompts_of(visited[self._world.slice(len(visited))])
            student, teacher, mix = self._models.student, self._rollouts.teacher_model(), self._config.collection.teacher_mix
            with self._models.autocast(), self._clock.measure("rollout"):
                fresh = collect(student, teacher, prompts, self._rollouts.decoding, mix)
            collection.fill(step, self._world.gather(fresh))
        batch = collection.batch(step)[self._world.slice(self._training.global_batch)]
        distilled = [rollout.sequence for _, rollout in batch]
        truth = self._rollouts.dataset([visited[place][0] for place, _ in batch])
        columns = whitened([rollout.columns(gradient) for _, rollout in batch], self._world)
        return StepSequences(distilled, self._spans(distilled), truth, rollout=columns)

    def _spans(self, sequences: list[Sequence]) -> list[list[tuple[int, int]]]:
        if not self._with_spans:
            return [[] for _ in sequences]
        spans = self._spec.method.objective.span
        with self._clock.measure("chunker"):
            return [token_spans(sequence.response_ids, self._models.tokenizer, spans) for sequence in sequences]

    # -- validation, checkpoints ---------------------------------------------------------------------------------------

    def on_validation(self, loss: float) -> None:
        """Take the validation loss, before training and after each validation. Raises MgsrError if it is not finite."""
        self._policy.on_validation(loss)

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values; `load_state_dict` continues exactly from there."""
        state: dict[str, Any] = {"policy": self._policy.state_dict(), "steps": [self._steps, self._student_steps]}
        if self._collection is not None:
            state["collection"] = self._collection.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._policy.load_state_dict(state["policy"])
        self._steps, self._student_steps = state["steps"]
        if self._collection is not None:
            self._collection.load_state_dict(state["collection"])
