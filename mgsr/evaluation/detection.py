"""Does SCRG's detection find planted errors, and does their correction help? This module makes the rows that
`mgsr.evaluation.probe` summarises.

Detection is SCRG's own (`mgsr.rollouts.scrg`), with each of its scores.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from mgsr.config.policy import ScrgConfig
from mgsr.errors import MgsrError
from mgsr.evaluation.injection import Injected
from mgsr.evaluation.trained_model import SEED, TrainedModel, response_log_probabilities
from mgsr.rollouts.noise import key_tensor, row_key
from mgsr.rollouts.sampler import Decoding, Prompt
from mgsr.rollouts.scrg import Candidate, detection_scores, error_token, teacher_tokens
from mgsr.rollouts.sequence import Sequence, decode_texts
from mgsr.rouge import rouge_l_many

SCORES = {
    "kl_student_teacher": ScrgConfig(),
    "kl_teacher_student": ScrgConfig(direction="teacher_student"),
    "teacher_nll": ScrgConfig(score="teacher_nll"),
    "log_ratio": ScrgConfig(score="log_ratio"),
}
BASELINES = ("student_entropy", "random")
DETECTORS = (*SCORES, *BASELINES)
WINDOW = 5  # positions before and after the planted one
WINDOWS = ("at", "after", "before")
STARTS = ("at_error", *SCORES)  # where a correction is made: at the planted position, or where a score says


@dataclass(frozen=True)
class Detection:
    """What each detector would correct in a sequence. tokens: the teacher's, by position. candidates: where it disagrees.
    chosen: the position by detector, None without candidate. The detector `random` is left out, because it takes all
    candidates with equal probability."""

    tokens: list[int]
    candidates: list[int]
    chosen: dict[str, int | None]


def detect(student: TrainedModel, teacher: TrainedModel, sequences: Items[Sequence], batch: int) -> list[Detection]:
    """One detection a sequence. A corrupted response and its original have the same teacher's draws up to the error."""
    detections: dict[int, Detection] = {}
    for i, (student_logp, teacher_logp) in response_log_probabilities((student, teacher), sequences, batch):
        written = torch.tensor(sequences[i].response_ids, device=student_logp.device)
        key = key_tensor([row_key(SEED, "teacher_token", 0, 1, sequences[i].example_id)], student_logp.device)
        positions = torch.arange(len(written), device=student_logp.device)
        tokens = teacher_tokens(teacher_logp, key.expand(len(written), -1), positions, ScrgConfig()).tolist()
        scores = {name: detection_scores(student_logp, teacher_logp, written, config) for name, config in SCORES.items()}
        scores["student_entropy"] = -(student_logp.exp() * student_logp).sum(-1)
        for name, score in scores.items():
            if not score.isfinite().all():
                raise MgsrError(f"example {sequences[i].example_id}: the score '{name}' is not finite; so are a model's logits")
        candidates = [place for place, token in enumerate(sequences[i].response_ids) if tokens[place] != token]
        chosen = {}
        for name, score in scores.items():
            error = error_token([Candidate(place, tokens[place], float(score[place])) for place in candidates])
            chosen[name] = error.position if error else None
        detections[i] = Detection(tokens, candidates, chosen)
    return [detections[i] for i in range(len(sequences))]


def hits(detection: Detection, position: int) -> dict[str, list[float]]:
    """By detector, for each window of `WINDOWS` around the position: 1 if the detector chose a position in it, else 0. For
    `random` it is the probability that it does so."""
    after = position + 1
    windows = [range(position, after), range(after, after + WINDOW), range(position - WINDOW, position)]
    places: dict[str, Items[int | None]] = {name: [place] for name, place in detection.chosen.items()}
    places["random"] = detection.candidates or [None]
    return {name: [fmean(place in window for place in each) for window in windows] for name, each in places.items()}


def _sequence(row: Injected, ids: tuple[int, ...], eos_id: int) -> Sequence:
    return Sequence(row.example.id, row.example.prompt_ids, ids, ids[-1:] == (eos_id,))


def detection_rows(
    injected: Items[Injected], student: TrainedModel, teacher: TrainedModel, decoding: Decoding
) -> list[dict[str, Any]]:
    """The rows of probe.json's `injected_errors`, in the order given; `mgsr.evaluation.probe` lists their fields."""
    eos_id = student.model.eos_id
    corrupted = [_sequence(row, row.ids, eos_id) for row in injected]
    # an original is detected on once, whatever was planted in it
    originals = {row.example.id: _sequence(row, row.original_ids, eos_id) for row in injected}
    detections = detect(student, teacher, [*corrupted, *originals.values()], decoding.batch)
    detections, of_originals = detections[: len(corrupted)], dict(zip(originals, detections[len(corrupted) :], strict=True))
    continued = _continue(injected, detections, student, teacher, decoding)
    rows = []
    for row, detection, by_start in zip(injected, detections, continued, strict=True):
        original = of_originals[row.example.id]
        with_error, without = hits(detection, row.position), hits(original, row.position)
        rows.append(
            {
                "id": row.example.id,
                "category": row.example.category,
                "error": row.error,
                "position": row.position,
                "planted": row.end - row.position,
                "tokens": len(row.ids),
                "original_tokens": len(row.original_ids),
                "chosen": {name: [detection.chosen[name], original.chosen[name]] for name in detection.chosen},
                "hits": {name: [*with_error[name], *without[name]] for name in DETECTORS},
                "continued": by_start,
            }
        )
    return rows


def _prefixes(row: Injected, detection: Detection) -> dict[str, tuple[int, ...]]:
    """What the student continues, by start: the response up to the end of the error (`kept`; at most WINDOW tokens after k), or
    up to a corrected position, where the teacher's token stands."""
    places = {"at_error": row.position, **{name: detection.chosen[name] for name in SCORES}}
    return {
        "kept": row.ids[: min(row.end, row.position + 1 + WINDOW)],
        **{start: row.ids if place is None else (*row.ids[:place], detection.tokens[place]) for start, place in places.items()},
    }


def _continue(
    injected: Items[Injected],
    detections: Items[Detection],
    student: TrainedModel,
    teacher: TrainedModel,
    decoding: Decoding,
) -> list[dict[str, list[float | None]]]:
    """By start: the teacher's mean log-probability of what the student wrote from there on (None where it wrote nothing), and
    the ROUGE-L of the whole response. All starts of an example share their random numbers."""
    prefixes = [_prefixes(row, detection) for row, detection in zip(injected, detections, strict=True)]
    # equal prefixes of an example are continued once
    starts = {
        (row.example.id, prefix): row.example
        for row, by_start in zip(injected, prefixes, strict=True)
        for prefix in by_start.values()
    }
    prompts = [Prompt(name, example.prompt_ids, prefix) for (name, prefix), example in starts.items()]
    responses = student.write(prompts, decoding, purpose="probe")
    references = [example.references for example in starts.values()]
    rouge = rouge_l_many(decode_texts(student.tokenizer, responses), references)
    likelihood: list[float | None] = [None] * len(responses)
    for i, (teacher_logp,) in response_log_probabilities((teacher,), responses, decoding.batch):
        start = len(prompts[i].prefix)
        tokens = torch.tensor(responses[i].response_ids[start:], device=teacher_logp.device)
        if len(tokens):
            likelihood[i] = fmean(teacher_logp[start:].gather(-1, tokens[:, None]).squeeze(-1).tolist())
    results = dict(zip(starts, zip(likelihood, rouge, strict=True), strict=True))
    return [
        {start: list(results[row.example.id, prefix]) for start, prefix in by_start.items()}
        for row, by_start in zip(injected, prefixes, strict=True)
    ]
