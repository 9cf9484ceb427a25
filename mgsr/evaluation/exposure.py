"""Measures exposure bias (Table 4a): how far the student is from the teacher on its own prefixes, compared with the teacher's
prefixes. Responses are sampled at T = 1, and no n-gram is forbidden. A family's teacher is sampled once, for all its students.

`samples/<name>/`: samples.jsonl, one teacher's sample a line. `exposure/<name>/`: summary.json, and prompts.jsonl with the sums
by prompt and position, from which intervals and paired comparisons are made (`mgsr.evaluation.accumulation`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Items
from pathlib import Path

import numpy as np
import torch

from mgsr.config.measurement import ExposureConfig
from mgsr.config.specs import ExposureSpec, SamplesSpec, read_spec
from mgsr.data.encoding import Example
from mgsr.errors import MgsrError
from mgsr.evaluation.accumulation import SOURCES, Divergences
from mgsr.evaluation.intervals import Numbers, percentile_interval
from mgsr.evaluation.trained_model import SEED, TrainedModel, response_log_probabilities
from mgsr.models.kl import forward_kl
from mgsr.rollouts.sampler import Decoding, Prompt
from mgsr.rollouts.sequence import Sequence
from mgsr.storage import check_folder, new_folder, read_jsonl, write_json, write_jsonl

SCHEMA = 1


def _draw(writer: TrainedModel, examples: list[Example], spec: SamplesSpec | ExposureSpec) -> list[Sequence]:
    """`samples` responses to each example, prompt by prompt. Teacher and students share their random numbers, so that models
    that agree write the same text, which makes the difference of the two sums less noisy."""
    limit = min(spec.max_new_tokens, max(spec.exposure.lengths))  # later positions are not looked at
    decoding = Decoding(limit, spec.max_length, seed=SEED, batch=spec.batch)
    numbers = range(spec.exposure.samples)
    prompts = [Prompt(example.id, example.prompt_ids, visit=number) for example in examples for number in numbers]
    return writer.write(prompts, decoding, purpose="exposure")


def sample_teacher(root: Path, name: str) -> None:
    """Write `samples/<name>`: the teacher's samples that every student of the family is measured on."""
    spec = read_spec(root, name, SamplesSpec)
    torch.set_num_threads(spec.threads)
    teacher = TrainedModel.load(root, spec.teacher_run)
    examples = teacher.examples(root, spec, spec.exposure.rows)
    lines = [
        {
            "id": sequence.example_id,
            "sample": place % spec.exposure.samples,
            "response_ids": list(sequence.response_ids),
            "finished": sequence.finished,
        }
        for place, sequence in enumerate(_draw(teacher, examples, spec))
    ]
    with new_folder(root / "samples" / name) as out:
        write_jsonl(out / "samples.jsonl", lines)
        write_json(out / "spec.json", spec.model_dump(mode="json"))


def _teacher_samples(folder: Path, examples: list[Example], samples: int) -> list[Sequence]:
    """The teacher's samples of these examples, in their order. Raises MgsrError where they are of other rows."""
    check_folder(folder)
    lines = list(read_jsonl(folder / "samples.jsonl"))
    expected = [(example.id, number) for example in examples for number in range(samples)]
    if [(line["id"], line["sample"]) for line in lines] != expected:
        raise MgsrError(f"{folder}: its samples are not those of the rows to measure on; remove the folder to sample anew")
    prompts = {example.id: example.prompt_ids for example in examples}
    return [Sequence(line["id"], prompts[line["id"]], tuple(line["response_ids"]), bool(line["finished"])) for line in lines]


def divergences_by_position(
    student: TrainedModel, teacher: TrainedModel, sequences: Items[Sequence], batch: int
) -> list[Numbers]:
    """KL(t_i || s_i) of each sequence at each of its response positions, end-of-sequence included."""
    values: list[Numbers] = [np.empty(0)] * len(sequences)
    for i, (student_logp, teacher_logp) in response_log_probabilities((student, teacher), sequences, batch):
        values[i] = forward_kl(student_logp, teacher_logp).double().cpu().numpy()
    return values


def sum_by_prompt(
    sequences: dict[str, list[Sequence]], values: dict[str, list[Numbers]], ids: Items[str], config: ExposureConfig
) -> Divergences:
    """Sum the divergences (`values`, one array a sequence) by prompt and position. A sequence counts at position i if it has a
    token there, be it end-of-sequence. With `finished: zero` one that ended before counts as 0. A sequence cut by the length
    limit counts nowhere after its cut."""
    rows = {example_id: row for row, example_id in enumerate(ids)}
    shape = len(ids), max(config.lengths)
    sums: dict[str, Numbers] = {source: np.zeros(shape) for source in SOURCES}
    counts: dict[str, Numbers] = {source: np.zeros(shape) for source in SOURCES}
    for source in SOURCES:
        for sequence, kl in zip(sequences[source], values[source], strict=True):
            row, length = rows[sequence.example_id], min(len(kl), shape[1])
            sums[source][row, :length] += kl[:length]
            counted = shape[1] if sequence.finished and config.finished == "zero" else length
            counts[source][row, :counted] += 1
    return Divergences(tuple(ids), sums, counts)


def _numbers(values: Numbers) -> list[float | None]:
    """Six digits; null for what is not defined."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values.tolist()]


def measure_exposure(root: Path, name: str) -> None:
    """Write `exposure/<name>`: ExAccErr of a run at each length.

    summary.json, lists by length: `excess_error` in percent and its `intervals` (95 %, percentile bootstrap over prompts),
    `accumulated` R(l), `expected` l eps(l) (both defined in
    `mgsr.evaluation.accumulation`), and `running_student`, `running_teacher`: samples that have an l-th token. Null
    where some position up to l has no sample. `by_position`: the mean divergences.
    """
    spec = read_spec(root, name, ExposureSpec)
    started = time.perf_counter()
    torch.set_num_threads(spec.threads)
    student, teacher = TrainedModel.load_pair(root, spec.run, spec.teacher_run)
    config, lengths = spec.exposure, list(spec.exposure.lengths)
    examples = student.examples(root, spec, config.rows)
    timings = {"start": time.perf_counter() - started}
    sequences = {
        "student": _draw(student, examples, spec),
        "teacher": _teacher_samples(root / "samples" / spec.samples, examples, config.samples),
    }
    timings["samples"] = time.perf_counter() - started - timings["start"]
    values = {source: divergences_by_position(student, teacher, sequences[source], spec.batch) for source in SOURCES}
    divergences = sum_by_prompt(sequences, values, [example.id for example in examples], config)
    timings["total"] = time.perf_counter() - started
    summary = {
        "schema": SCHEMA,
        "run": spec.run,
        "lengths": lengths,
        "excess_error": _numbers(divergences.excess_error(lengths)),
        "intervals": percentile_interval(divergences.excess_error_resamples(lengths)),
        "accumulated": _numbers(divergences.accumulated("student", lengths)),
        "expected": _numbers(divergences.accumulated("teacher", lengths)),
        **{f"running_{source}": [sum(len(kl) >= length for kl in values[source]) for length in lengths] for source in SOURCES},
        "rows": len(examples),
        "samples": config.samples,
        "finished": config.finished,
        "by_position": {source: _numbers(divergences.means(source)) for source in SOURCES},
        "timings": {name: round(seconds, 3) for name, seconds in timings.items()},
    }
    sums, counts = divergences.sums, divergences.counts
    lines = [
        {"id": example_id}
        | {
            source: {"sums": _numbers(sums[source][row]), "counts": counts[source][row].astype(int).tolist()}
            for source in SOURCES
        }
        for row, example_id in enumerate(divergences.ids)
    ]
    with new_folder(root / "exposure" / name) as out:
        write_jsonl(out / "prompts.jsonl", lines)
        write_json(out / "spec.json", spec.model_dump(mode="json"))
        write_json(out / "summary.json", summary)
