"""GPU-seconds of each job, from the sizes of its models and a device's figures. No torch.

A forward or backward pass takes its operations at the stated utilisation. A decoding step takes the longer of its operations
and of reading weights and cache, and at least what starting its kernels takes. docs/cost.md has the equations.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache, cached_property

from mgsr.config.loss_terms import CrossEntropy
from mgsr.config.method import Method
from mgsr.config.plan import Plan
from mgsr.config.run_specs import AdoptSpec, SelectSpec, TrainSpec
from mgsr.config.specs import EvaluationSpec, ExposureSpec, ProbeSpec, SamplesSpec
from mgsr.cost.assumptions import Device, assumptions
from mgsr.cost.jobs import Jobs
from mgsr.cost.shapes import Shape, Shapes
from mgsr.data.prepare import load_training, split_dolly
from mgsr.errors import MgsrError
from mgsr.storage import read_json

HOST_ONLY = {"prepare-data", "prepare-test-set", "build-model", "select", "adopt", "floor", "card", "table", "open-check"}
ADAMW_BYTES = 28  # that a step reads and writes for each weight: weight, gradient, two moments, in fp32


class Work:
    """The seconds of a plan's jobs on one device. `longest`: as if every text were as long as it may be."""

    def __init__(self, plan: Plan, device: Device, longest: bool = False) -> None:
        self.plan, self.device, self.shapes, self._longest = plan, device, Shapes(plan), longest
        self._rates, self._records = assumptions().rates, assumptions().records

    def seconds(self, jobs: Jobs) -> dict[str, float]:
        """By kind of job; those that need no GPU are left out."""
        return {kind: sum(self.of(kind, name) for name in names) for kind, names in jobs.items() if kind not in HOST_ONLY}

    def of(self, kind: str, name: str) -> float:
        """GPU-seconds of one job."""
        plan = self.plan
        if kind in HOST_ONLY:
            return 0.0
        if kind == "train":
            spec = plan.runs[name]
            assert isinstance(spec, TrainSpec)
            return self._rates.start_seconds + sum(self.training(spec).values())
        seconds: dict[str, Callable[[], float]] = {
            "evaluate": lambda: self._evaluation(plan.evaluations[name]),
            "sample-teacher": lambda: self._samples(plan.samples[name]),
            "exposure": lambda: self._exposure(plan.exposures[name]),
            "probe": lambda: self._probe(plan.probes[name]),
        }
        return self._rates.start_seconds + seconds[kind]()

    def longest_chain(self, jobs: Jobs) -> float:
        """Seconds of the jobs that wait for one another, which no number of devices makes fewer."""
        plan = self.plan

        @cache
        def run(name: str | None) -> float:
            if name is None or name not in plan.runs:
                return 0.0
            spec = plan.runs[name]
            if isinstance(spec, SelectSpec):
                return max(map(run, spec.candidates))
            if isinstance(spec, AdoptSpec):
                return run(spec.teacher_run)
            return self.of("train", name) + max(run(spec.start_run), run(spec.teacher_run))

        ends = [run(plan.evaluations[name].run) + self.of("evaluate", name) for name in jobs.get("evaluate", [])]
        ends += [run(plan.exposures[name].run) + self.of("exposure", name) for name in jobs.get("exposure", [])]
        return max(ends, default=0.0)

    # -- records -------------------------------------------------------------------------------------------------------

    @cached_property
    def train_rows(self) -> int:
        """Training rows, those included whose prompt does not fit."""
        return min(self._rows_by_split["train"], self.plan.config.data.train_rows or 10**9)

    @cached_property
    def _validation_rows(self) -> int:
        return min(self._rows_by_split["validation"], self.plan.config.data.validation_rows or 10**9)

    @cached_property
    def rows_are_counted(self) -> bool:
        """Whether the rows are there, prepared or at their source; else they are assumed."""
        return self._counted is not None

    @property
    def _rows_by_split(self) -> dict[str, int]:
        return self._counted or self._records.rows

    @cached_property
    def _counted(self) -> dict[str, int] | None:
        plan, splits = self.plan, ("train", "validation")
        manifest = plan.root / "data" / plan.data_name / "manifest.json"
        if manifest.is_file():
            return {split: int(read_json(manifest)["sets"][split]["rows"]) for split in splits}
        if plan.data.source != "hub":
            with suppress(MgsrError):  # the preflight tells what is missing
                data = split_dolly(load_training(plan.data, plan.root), plan.data.split)
                return {split: len(data[split].records) for split in splits}
        return None

    def _test_rows(self, name: str, digest: str, first: int | None) -> int:
        manifest = self.plan.root / "test_sets" / digest / "manifest.json"
        known = self._records.rows.get(name, self._records.other_rows)
        return min(int(read_json(manifest)["rows"]) if manifest.is_file() else known, first or 10**9)

    def _lengths(self, limit: int) -> tuple[float, float, float]:
        """Mean tokens of a prompt, a reference and a response that may have `limit` tokens."""
        data, records = self.plan.config.data, self._records
        if self._longest:
            most = data.max_length - data.max_prompt_length
            return data.max_prompt_length, most, min(limit, most)
        room = data.max_length - min(records.prompt, data.max_prompt_length)
        return data.max_length - room, min(records.response, room), min(records.written, limit, room)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _pass(self, operations: float, kernels: float = 0.0) -> float:
        """Seconds of so many FLOPs, or of starting the kernels of so many layers where that takes longer."""
        return max(operations / (self.device.flops * self._rates.utilisation), kernels * self._rates.layer_seconds)

    def _decode(
        self, shape: Shape, rows: float, prompt: float, written: float, limit: float, batch: int, precision: str
    ) -> float:
        """Seconds to write `rows` responses of `written` tokens on average and at most `limit`, `batch` of them together."""
        if not rows:
            return 0.0
        rates, each = self._rates, 2 if precision == "bf16" else 4
        together = min(batch, rows)
        steps = rows * written / together + limit - written  # the last rows of a call run alone
        length = prompt + written / 2
        reading = (shape.layers * shape.block + shape.head) * each + together * shape.cache_bytes(length, each)
        computing = self._pass(shape.forward(together, length, together), shape.layers)
        step = max(reading / (self.device.bandwidth * rates.bandwidth_share), computing) + together * rates.row_seconds
        return steps * step + self._pass(shape.forward(rows * prompt, prompt, rows))

    # -- training ------------------------------------------------------------------------------------------------------

    def steps(self, spec: TrainSpec) -> int:
        return spec.method.training.steps_of(self.train_rows)

    def training(self, spec: TrainSpec) -> dict[str, float]:
        """Seconds by stage, under the names that a run's record has them under; `start` is not among them."""
        method, training = spec.method, spec.method.training
        student = self.shapes.of(spec.base_model)
        teacher = self._model(spec.teacher_run) if spec.teacher_run else student
        limit = method.sequences.max_new_tokens or spec.max_new_tokens
        prompt, response, written = self._lengths(limit)
        steps, batch = self.steps(spec), training.global_batch
        generated, fresh = _shares(method)
        sequences = steps * batch
        backward = 2.0 if spec.lora else 3.0  # frozen weights get no gradient

        def read(shape: Shape, rows: float, answer: float) -> float:
            operations = shape.forward(rows * (prompt + answer), prompt + answer, rows * answer)
            return self._pass(operations, rows / min(training.micro_batch, batch) * shape.layers)

        def write(shape: Shape, rows: float, start: float, answer: float) -> float:
            calls = max(1.0, rows / batch)
            together = min(batch, training.rollout_batch)
            return calls * self._decode(shape, rows / calls, start, answer, limit, together, training.precision)

        on_data, on_text = sequences * (1 - generated), sequences * generated
        seconds = {"student": backward * (read(student, on_data, response) + read(student, on_text, written))}
        if method.objective.sft_weight:
            seconds["student"] += backward * read(student, on_text, response)
        if _reads_teacher(method):
            seconds["teacher"] = read(teacher, on_data, response) + read(teacher, on_text, written)
        policy, revised = method.sequences.policy, sequences * fresh
        rollouts = 0.0
        if policy == "teacher":
            rollouts = write(teacher, min(sequences, self.train_rows), prompt, written)
        elif policy == "collection":
            rows = sequences / method.sequences.collection.inner_epochs
            rollouts = write(student, rows, prompt, written) + write(teacher, rows, prompt, written)
        elif fresh:
            rollouts = write(student, revised, prompt, written)
        if rollouts:
            seconds["rollout"] = rollouts
        if method.sequences.scrg:
            half = written / 2  # where an error stands, on average
            writer = student if method.sequences.scrg.suffix_writer == "student" else teacher
            one = (
                read(student, revised, written) + read(teacher, revised, written) + write(writer, revised, prompt + half, half)
            )
            seconds["scrg"] = method.sequences.scrg.passes * one
        checks = method.sequences.off_policy.checks or 0 if policy == "off_policy" else 0
        rows = self._validation_rows
        answered = self._decode(
            student, min(rows, training.validation_rows), prompt, self._lengths(spec.max_new_tokens)[2],
            spec.max_new_tokens, training.rollout_batch, training.precision,
        )  # fmt: skip
        losses = 1 + training.validations + checks
        seconds["validation"] = losses * read(student, rows, response) + training.validations * answered
        trained = 4 * student.layers * student.width * spec.lora.rank if spec.lora else student.parameters
        seconds["update"] = steps * trained * ADAMW_BYTES / self.device.bandwidth
        return seconds

    # -- measurements --------------------------------------------------------------------------------------------------

    def _model(self, run: str) -> Shape:
        """The shape of a run's model."""
        spec = self.plan.runs[run]
        return self._model(spec.candidates[0]) if isinstance(spec, SelectSpec) else self.shapes.of(spec.base_model)

    @property
    def _precision(self) -> str:
        return self.plan.config.training.precision

    def _evaluation(self, spec: EvaluationSpec) -> float:
        settings, model = spec.evaluation, self._model(spec.run)
        prompt, response, written = self._lengths(settings.max_new_tokens)
        parts = len(settings.protocols) * len(settings.decoding_seeds)
        seconds = 0.0
        for name, digest in spec.test_sets.items():
            rows = self._test_rows(name, digest, spec.rows[name])
            limit = settings.max_new_tokens
            seconds += parts * self._decode(model, rows, prompt, written, limit, settings.batch, self._precision)
        if spec.teacher_run:
            rows = settings.heldout_rows
            for shape in (model, self._model(spec.teacher_run)):
                seconds += self._pass(shape.forward(rows * (prompt + response), prompt + response, rows * response))
        return seconds

    def _sampled(self, spec: SamplesSpec | ExposureSpec, shape: Shape) -> tuple[float, float, float]:
        """Seconds to draw the samples, how many they are, and their mean tokens."""
        limit = min(spec.max_new_tokens, max(spec.exposure.lengths))
        prompt, _, written = self._lengths(limit)
        rows = spec.exposure.rows * spec.exposure.samples
        return self._decode(shape, rows, prompt, written, limit, spec.batch, self._precision), rows, written

    def _samples(self, spec: SamplesSpec) -> float:
        return self._sampled(spec, self._model(spec.teacher_run))[0]

    def _exposure(self, spec: ExposureSpec) -> float:
        student, teacher = self._model(spec.run), self._model(spec.teacher_run)
        seconds, rows, written = self._sampled(spec, student)
        length = self._lengths(spec.max_new_tokens)[0] + written
        both = sum(shape.forward(rows * length, length, rows * written) for shape in (student, teacher))
        return seconds + self._pass(2 * both)  # on the student's samples and on the teacher's

    def _probe(self, spec: ProbeSpec) -> float:
        """Rollouts and their revision, and a like number of continuations after planted errors."""
        student, teacher = self._model(spec.student_run), self._model(spec.teacher_run)
        prompt, _, written = self._lengths(spec.max_new_tokens)
        rows = spec.probe.rows * (spec.probe.samples + 6)
        length = prompt + written
        both = sum(shape.forward(rows * length, length, rows * written) for shape in (student, teacher))
        written_twice = 2 * self._decode(student, rows, prompt, written, spec.max_new_tokens, spec.batch, self._precision)
        return written_twice + self._pass(2 * both)


def _reads_teacher(method: Method) -> bool:
    """Whether each step has a forward pass of the teacher, as `Objective.needs_teacher` says."""
    objective = method.objective
    distils = objective.distils and not isinstance(objective.distillation, CrossEntropy)
    return method.role == "student" and (distils or objective.span_weight > 0)


def _shares(method: Method) -> tuple[float, float]:
    """Shares of steps on text that a model wrote, and on text that was written for the step."""
    sequences = method.sequences
    match sequences.policy:
        case "dataset":
            return 0.0, 0.0
        case "mixed":
            return sequences.student_share, sequences.student_share
        case "off_policy":
            return 2 * assumptions().off_policy, assumptions().off_policy
        case _:
            return 1.0, 1.0
