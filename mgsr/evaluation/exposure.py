"""Exposure bias (Table 4a): the divergence of the student from the teacher on the student's own prefixes, against that on the
teacher's. Plain sampling at T = 1, full vocabulary. A family's teacher is sampled once, for all its students.

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
from mgsr.config.specs import ExposureSpec, SamplesSpec
from mgsr.data.examples import Example
from mgsr.errors import MgsrError
from mgsr.evaluation.accumulation import SOURCES, Divergences
from mgsr.evaluation.intervals import Numbers, percentile_interval
from mgsr.evaluation.trained_model import RunModel, read
from mgsr.models.loading import check_shared_vocabulary
from mgsr.objectives.divergences import forward_kl
from mgsr.rollouts.sampler import Decoding, Prompt
from mgsr.rollouts.sequence import Sequence
from mgsr.storage import new_folder, read_jsonl, write_json, write_jsonl

SCHEMA = 1


def _draw(writer: RunModel, examples: list[Example], spec: SamplesSpec | ExposureSpec) -> list[Sequence]:
    """`samples` responses to each example, prompt by prompt. Teacher and students share their random numbers, so that two
    models that agree write the same: the difference of the two sums is then less noisy."""
    limit = min(spec.max_new_tokens, max(spec.exposure.lengths))  # later positions are not looked at
    copies = [(example, number) for example in examples for number in range(spec.exposure.samples)]
    prompts = [Prompt(example.id, example.prompt_ids) for example, _ in copies]
    visits = [number for _, number in copies]
    return writer.write(prompts, Decoding(limit, spec.max_length), purpose="exposure", visit=visits, batch=spec.batch)


def sample_teacher(name: str, spec: SamplesSpec, root: Path) -> None:
    """Write `samples/<name>`: the teacher's samples that every student of the family is measured on."""
    torch.set_num_threads(spec.threads)
    teacher = RunModel.load(root, spec.teacher_run)
    examples = teacher.examples(root, spec, spec.exposure.rows)
    written = _draw(teacher, examples, spec)
    lines = [
        {
            "id": sequence.example_id,
            "sample": place % spec.exposure.samples,
            "response_ids": list(sequence.response_ids),
            "finished": sequence.finished,
        }
        for place, sequence in enumerate(written)
    ]
    with new_folder(root / "samples" / name) as out:
        write_jsonl(out / "samples.jsonl", lines)
        write_json(out / "spec.json", spec.model_dump(mode="json"))


def _teacher_samples(folder: Path, examples: list[Example], samples: int) -> list[Sequence]:
    """The teacher's samples of these examples, in their order. Raises MgsrError where they are of other rows."""
    lines = list(read_jsonl(folder / "samples.jsonl"))
    expected = [(example.id, number) for example in examples for number in range(samples)]
    if [(line["id"], line["sample"]) for line in lines] != expected:
        raise MgsrError(f"{folder}: its samples are not those of the rows to measure on; remove the folder to sample anew")
    prompts = {example.id: example.prompt_ids for example in examples}
    return [Sequence(line["id"], prompts[line["id"]], tuple(line["response_ids"]), bool(line["finished"])) for line in lines]


def divergences_by_position(
    student: RunModel, teacher: RunModel, sequences: Items[Sequence], vocabulary: int, *, batch: int
) -> list[Numbers]:
    """KL(t_i || s_i) of each sequence at each of its response positions, end-of-sequence included."""
    found: list[Numbers] = [np.empty(0)] * len(sequences)
    for i, (student_logp, teacher_logp) in read((student, teacher), sequences, vocabulary, batch=batch):
        found[i] = forward_kl(student_logp, teacher_logp).double().cpu().numpy()
    return found


def collect(
    sequences: dict[str, list[Sequence]], values: dict[str, list[Numbers]], ids: Items[str], config: ExposureConfig
) -> Divergences:
    """Sums by prompt and position. Position i counts a sequence that still ran there: it has a token i, be it end-of-sequence.
    With `finished: zero` one that has ended counts as 0. A sequence cut by the length limit counts nowhere after its cut."""
    place = {example_id: row for row, example_id in enumerate(ids)}
    shape = len(ids), max(config.lengths)
    sums: dict[str, Numbers] = {source: np.zeros(shape) for source in SOURCES}
    counts: dict[str, Numbers] = {source: np.zeros(shape) for source in SOURCES}
    for source in SOURCES:
        for sequence, kl in zip(sequences[source], values[source], strict=True):
            row, length = place[sequence.example_id], min(len(kl), shape[1])
            sums[source][row, :length] += kl[:length]
            counted = shape[1] if sequence.finished and config.finished == "zero" else length
            counts[source][row, :counted] += 1
    return Divergences(tuple(ids), sums, counts)


def _numbers(values: Numbers) -> list[float | None]:
    """Six digits; null for what is not defined."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values.tolist()]


def measure_exposure(name: str, spec: ExposureSpec, root: Path) -> None:
    """Write `exposure/<name>`: ExAccErr of a run at each length.

    summary.json, lists by length: `excess_error` in percent and its `intervals` (95 %, percentile bootstrap over prompts),
    `accumulated` R(l), `expected` l eps(l), and `running_student`, `running_teacher`: samples that have an l-th token. Null
    where some position up to l has no sample. `by_position`: the mean divergences.
    """
    started = time.perf_counter()
    torch.set_num_threads(spec.threads)
    student, teacher = RunModel.load(root, spec.run), RunModel.load(root, spec.teacher_run)
    vocabulary = check_shared_vocabulary(teacher.tokenizer, student.tokenizer)
    config, lengths = spec.exposure, list(spec.exposure.lengths)
    examples = student.examples(root, spec, config.rows)
    timings = {"start": time.perf_counter() - started}
    sequences: dict[str, list[Sequence]] = {
        "student": _draw(student, examples, spec),
        "teacher": _teacher_samples(root / "samples" / spec.samples, examples, config.samples),
    }
    timings["samples"] = time.perf_counter() - started - timings["start"]
    values: dict[str, list[Numbers]] = {
        source: divergences_by_position(student, teacher, sequences[source], vocabulary, batch=spec.batch) for source in SOURCES
    }
    found = collect(sequences, values, [example.id for example in examples], config)
    timings["total"] = time.perf_counter() - started
    summary = {
        "schema": SCHEMA,
        "run": spec.run,
        "lengths": lengths,
        "excess_error": _numbers(found.excess_error(lengths)),
        "intervals": percentile_interval(found.excess_error_resamples(lengths)),
        "accumulated": _numbers(found.accumulated("student", lengths)),
        "expected": _numbers(found.accumulated("teacher", lengths)),
        **{
            f"running_{source}": [sum(len(s.response_ids) >= length for s in sequences[source]) for length in lengths]
            for source in SOURCES
        },
        "rows": len(examples),
        "samples": config.samples,
        "finished": config.finished,
        "by_position": {source: _numbers(found.means(source)) for source in SOURCES},
        "timings": {name: round(seconds, 3) for name, seconds in timings.items()},
    }
    lines = [
        {
            "id": example_id,
            **{
                source: {
                    "sums": [float(f"{value:.6g}") for value in found.sums[source][row]],
                    "counts": [int(value) for value in found.counts[source][row]],
                }
                for source in SOURCES
            },
        }
        for row, example_id in enumerate(found.ids)
    ]
    with new_folder(root / "exposure" / name) as out:
        write_jsonl(out / "prompts.jsonl", lines)
        write_json(out / "spec.json", spec.model_dump(mode="json"))
        write_json(out / "summary.json", summary)
