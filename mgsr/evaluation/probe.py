"""The open checks that train nothing, on the SFT student and the teacher of a family: injected errors, span priors, diversity.

`probes/<name>/probe.json` holds summaries, for tables, and the rows that they are made of, all on one line. Intervals (`low`,
`high`) are 95 %, by percentile bootstrap over prompts, null below two prompts; samples of a prompt are averaged first.
`source`: reference, student (its rollouts), scrg (the same rollouts, revised). docs/measurement.md lists all fields.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from mgsr.config.policy import ScrgConfig
from mgsr.config.specs import ProbeSpec, read_spec
from mgsr.data.encoding import Example
from mgsr.evaluation.detection import BASELINES, DETECTORS, STARTS, WINDOWS, detection_rows
from mgsr.evaluation.diversity import MEASURES, corpus_diversity, response_diversity
from mgsr.evaluation.injection import ERRORS, inject
from mgsr.evaluation.intervals import mean_interval
from mgsr.evaluation.span_statistics import PRIORS, pooled, span_counts
from mgsr.evaluation.trained_model import SEED, TrainedModel
from mgsr.rollouts.sampler import Decoding, Prompt
from mgsr.rollouts.scrg import revise
from mgsr.rollouts.sequence import Sequence as TokenSequence
from mgsr.rollouts.sequence import decode_texts
from mgsr.storage import canonical_json, new_folder, write_json, write_text

SCHEMA = 1
SOURCES = ("reference", "student", "scrg")
ALL = "all"  # in place of a category
CHUNK = 256  # positions whose logits exist at one time
CORRECTION_MEASURES = ("teacher_logp", "rouge_l")

Row = dict[str, Any]


def rollouts(
    student: TrainedModel, teacher: TrainedModel, examples: list[Example], samples: int, decoding: Decoding
) -> tuple[list[TokenSequence], list[TokenSequence]]:
    """`samples` responses of the student to each example, prompt by prompt, and the same ones after SCRG as printed."""
    prompts = [Prompt(example.id, example.prompt_ids, visit=number) for example in examples for number in range(samples)]
    written = student.write(prompts, decoding, purpose="rollout")
    visits = [prompt.visit for prompt in prompts]
    with student.autocast():
        revised, _ = revise(student.model, teacher.model, written, visits, ScrgConfig(), decoding, chunk=CHUNK)
    return written, revised


# --- summaries --------------------------------------------------------------------------------------------------------


def by_prompt(values: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    """The mean of each prompt's values, which come with its id; None is passed over, and so is a prompt with nothing else."""
    by_id: dict[str, list[float]] = defaultdict(list)
    for name, value in values:
        if value is not None:
            by_id[name].append(value)
    return {name: fmean(numbers) for name, numbers in by_id.items()}


def _interval(values: Sequence[float], name: str) -> Row:
    """The mean under this name, and its interval."""
    mean, low, high = mean_interval(values)
    return {name: mean, "low": low, "high": high, "prompts": len(values)}


def _paired(pairs: Sequence[tuple[float, float]], names: tuple[str, str], difference: str) -> Row:
    """The means of both sides under their names, null without pairs; the second minus the first, with its interval."""
    means = {name: fmean(pair[side] for pair in pairs) if pairs else None for side, name in enumerate(names)}
    return means | _interval([second - first for first, second in pairs], difference)


def summarise_detection(rows: list[Row]) -> list[Row]:
    """`injected_errors.detection`."""
    lines = []
    for error, detector, (at, window) in product(ERRORS, DETECTORS, enumerate(WINDOWS)):
        hits = [row["hits"] for row in rows if row["error"] == error]
        pairs = [(by_detector[detector][at + len(WINDOWS)], by_detector[detector][at]) for by_detector in hits]
        line: Row = {"error": error, "detector": detector, "window": window}
        line |= _paired(pairs, ("original_rate", "rate"), "difference")
        for baseline in BASELINES:
            above = mean_interval([by_detector[detector][at] - by_detector[baseline][at] for by_detector in hits])
            line |= zip((f"above_{baseline}", f"above_{baseline}_low", f"above_{baseline}_high"), above, strict=True)
        lines.append(line)
    return lines


def summarise_correction(rows: list[Row]) -> list[Row]:
    """`injected_errors.correction`: over the rows that have both values."""
    lines = []
    for error, start, (at, measure) in product(ERRORS, STARTS, enumerate(CORRECTION_MEASURES)):
        continued = [row["continued"] for row in rows if row["error"] == error]
        pairs = [(by_start["kept"][at], by_start[start][at]) for by_start in continued]
        line = {"error": error, "start": start, "measure": measure}
        lines.append(line | _paired([pair for pair in pairs if None not in pair], ("kept", "corrected"), "gain"))
    return lines


def summarise_spans(rows: list[Row]) -> list[Row]:
    """`spans.summary`: all rows first, then each category."""
    lines = []
    for source in SOURCES:
        of_source = [row for row in rows if row["source"] == source]
        for category, prior in product((ALL, *sorted({row["category"] for row in of_source})), PRIORS):
            members = [row for row in of_source if category in (ALL, row["category"])]
            terms = by_prompt((row["id"], row["priors"][prior][3]) for row in members)
            line = {"source": source, "priors": prior, "category": category, "responses": len(members)}
            lines.append(line | pooled(members, prior) | _interval(list(terms.values()), "span_term"))
    return lines


def summarise_diversity(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """`diversity.summary` and `diversity.differences`."""
    lines, differences = [], []
    for measure in MEASURES:
        values = {source: by_prompt((row["id"], row[measure]) for row in rows if row["source"] == source) for source in SOURCES}
        for source, by_id in values.items():
            lines.append({"source": source, "measure": measure} | _interval(list(by_id.values()), "mean"))
        revised = values["scrg"]
        change = [revised[name] - mean for name, mean in values["student"].items() if name in revised]
        differences.append({"measure": measure} | _interval(change, "difference"))
    return lines, differences


def summarise_corpus(texts: dict[str, list[str]], samples: int) -> list[Row]:
    """`diversity.corpus`. texts: by source, prompt by prompt. A corpus is one response a prompt, so that all have one size."""
    lines = []
    for source, responses in texts.items():
        step = 1 if source == "reference" else samples
        corpora = [corpus_diversity(responses[first::step]) for first in range(step)]
        line: Row = {"source": source, "responses": len(responses) // step}
        for name in corpora[0]:
            values = [value for corpus in corpora if (value := corpus[name]) is not None]
            line[name] = fmean(values) if values else None
        lines.append(line)
    return lines


# --- the stage --------------------------------------------------------------------------------------------------------


def probe(root: Path, name: str) -> None:
    """Write `probes/<name>`: probe.json, whose fields are listed above, and spec.json."""
    spec = read_spec(root, name, ProbeSpec)
    started = time.perf_counter()
    torch.set_num_threads(spec.threads)
    student, teacher = TrainedModel.load_pair(root, spec.student_run, spec.teacher_run)
    examples = student.examples(root, spec, spec.probe.rows)
    decoding = Decoding(spec.max_new_tokens, spec.max_length, seed=SEED, batch=spec.batch)
    timings = {"start": time.perf_counter() - started}

    began = time.perf_counter()
    injected, skipped = inject(examples, student.tokenizer, lambda example: decoding.limit(example.prompt_ids))
    errors = detection_rows(injected, student, teacher, decoding)
    timings["injected_errors"] = time.perf_counter() - began

    began = time.perf_counter()
    written, revised = rollouts(student, teacher, examples, spec.probe.samples, decoding)
    references = [TokenSequence.from_example(example, student.model.eos_id) for example in examples]
    timings["rollouts"] = time.perf_counter() - began

    began = time.perf_counter()
    sequences = {"reference": references, "student": written, "scrg": revised}
    texts = {source: decode_texts(student.tokenizer, members) for source, members in sequences.items()}
    category = {example.id: example.category for example in examples}
    spans: list[Row] = []
    diversity: list[Row] = []
    for source, members in sequences.items():
        samples = 1 if source == "reference" else spec.probe.samples
        counts = span_counts(members, student, teacher, spec.batch)
        for place, (sequence, priors, text) in enumerate(zip(members, counts, texts[source], strict=True)):
            row = {"id": sequence.example_id, "source": source, "sample": place % samples}
            tokens = len(sequence.response_ids)
            spans.append({**row, "category": category[sequence.example_id], "tokens": tokens, "priors": priors})
            diversity.append({**row, **response_diversity(text)})
    summary, differences = summarise_diversity(diversity)
    content = {
        "schema": SCHEMA,
        "student_run": spec.student_run,
        "teacher_run": spec.teacher_run,
        "rows": len(examples),
        "samples": spec.probe.samples,
        "timings": timings,
        "injected_errors": {
            "skipped": skipped,
            "detection": summarise_detection(errors),
            "correction": summarise_correction(errors),
            "rows": errors,
        },
        "spans": {"summary": summarise_spans(spans), "rows": spans},
        "diversity": {
            "summary": summary,
            "differences": differences,
            "corpus": summarise_corpus(texts, spec.probe.samples),
            "rows": diversity,
        },
    }
    timings |= {"statistics": time.perf_counter() - began, "total": time.perf_counter() - started}
    with new_folder(root / "probes" / name) as out:
        write_json(out / "spec.json", spec.model_dump(mode="json"))
        write_text(out / "probe.json", canonical_json(_rounded(content)) + "\n")


def _rounded(value: Any) -> Any:
    """Six digits for every number with a fraction."""
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
