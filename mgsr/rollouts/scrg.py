"""SCRG: sequence correction and re-generation (MGSR, Eq. 3-4).

The teacher reads what the student wrote and draws a token of its own at each response position. Of the positions where it
disagrees, the one where the two models lie furthest apart gets the teacher's token, and the student writes the rest anew. Other
ways to read the paper: `ScrgConfig`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from torch import Tensor

from mgsr.config.policy import ScrgConfig
from mgsr.errors import MgsrError
from mgsr.models.kl import relative_entropy
from mgsr.models.language_model import LanguageModel, inference
from mgsr.rollouts.noise import coupled_scores, key_tensor, row_key
from mgsr.rollouts.sampler import Decoding, Prompt, generate
from mgsr.rollouts.sequence import Batch, Sequence, by_length, collate, response_states


@dataclass(frozen=True)
class ScrgStats:
    """What a revision did. positions[k][i]: where pass k corrected sequence i, None where there was no candidate.
    lengths[k][i]: how many response tokens the sequence had before that pass."""

    positions: tuple[tuple[int | None, ...], ...]
    lengths: tuple[tuple[int, ...], ...]

    @property
    def hits(self) -> list[tuple[int, int]]:
        """(position, response length) of every correction."""
        passes = [zip(*pass_, strict=True) for pass_ in zip(self.positions, self.lengths, strict=True)]
        return [(position, length) for pass_ in passes for position, length in pass_ if position is not None]


@dataclass(frozen=True)
class Candidate:
    """A response position where the teacher drew another token than stands there, that token, and the detection score."""

    position: int
    token: int
    score: float


def error_token(candidates: Items[Candidate]) -> Candidate | None:
    """The candidate of the largest score (Eq. 3), the first one of equals; None where there is no candidate."""
    return max(candidates, key=lambda candidate: candidate.score, default=None)


@torch.no_grad()
def revise(
    student: LanguageModel,
    teacher: LanguageModel,
    sequences: Items[Sequence],
    visits: Items[int],
    config: ScrgConfig,
    decoding: Decoding,
    *,
    chunk: int,
) -> tuple[list[Sequence], ScrgStats]:
    """Correct each student sequence once a pass, in the order given.

    Detection runs over the whole current sequence. A corrected position is no candidate while its correction stands; a later
    pass that corrects an earlier position cuts it off. Teacher tokens have a purpose of their own ("teacher_token"), so they
    are independent of the draws that made the sequence; the suffix is a rollout of pass k, by whichever model writes it. Both
    draw afresh each pass.

    Args:
        visits: those of the prompts that the sequences were generated from.
        decoding: also says how many sequences a forward pass of the detection has at most.
        chunk: positions whose logits exist at one time.

    Raises:
        MgsrError: the detection score is not finite somewhere.
    """
    current = list(sequences)
    standing: list[frozenset[int]] = [frozenset()] * len(current)
    positions, lengths = [], []
    for pass_ in range(1, config.passes + 1):
        axes = zip(visits, current, strict=True)
        keys = [row_key(decoding.seed, "teacher_token", visit, pass_, sequence.example_id) for visit, sequence in axes]
        errors: list[Candidate | None] = [None] * len(current)
        with inference(student, teacher):
            for group in by_length([len(sequence) for sequence in current], decoding.batch):
                members = [current[i] for i in group], [keys[i] for i in group], [standing[i] for i in group]
                for i, error in zip(group, _find_errors(student, teacher, *members, config, chunk), strict=True):
                    errors[i] = error
        positions.append(tuple(error.position if error else None for error in errors))
        lengths.append(tuple(len(sequence.response_ids) for sequence in current))
        prompts: dict[int, Prompt] = {}
        for i, (sequence, error) in enumerate(zip(current, errors, strict=True)):
            if error is not None:
                standing[i] = frozenset({p for p in standing[i] if p < error.position} | {error.position})
                prefix = (*sequence.response_ids[: error.position], error.token)
                prompts[i] = Prompt(sequence.example_id, sequence.prompt_ids, prefix, visits[i])
        writer, author = (student if config.suffix_writer == "student" else teacher), config.suffix_writer
        rewritten = generate(writer, [*prompts.values()], decoding, purpose="rollout", pass_=pass_, author=author)
        for i, sequence in zip(prompts, rewritten, strict=True):
            current[i] = sequence
    return current, ScrgStats(tuple(positions), tuple(lengths))


def _find_errors(
    student: LanguageModel,
    teacher: LanguageModel,
    sequences: list[Sequence],
    keys: list[int],
    standing: list[frozenset[int]],
    config: ScrgConfig,
    chunk: int,
) -> list[Candidate | None]:
    """The error token of each sequence."""
    batch = collate(sequences, student.pad_id).to(student.device)
    row_keys = key_tensor(keys, student.device)
    candidates: list[list[Candidate]] = [[] for _ in sequences]
    for at, scores, tokens in _compare(student, teacher, batch, row_keys, config, chunk):
        columns = (batch.row[at], batch.position[at], batch.targets[at], tokens, scores)
        for row, position, written, token, score in zip(*(column.tolist() for column in columns), strict=True):
            if not math.isfinite(score):
                raise MgsrError(
                    f"example {sequences[row].example_id}, response position {position}: SCRG's detection score "
                    f"'{config.score}' is not finite; one of the two models gives logits that are not finite"
                )
            if token != written and position not in standing[row]:
                candidates[row].append(Candidate(position, token, score))
    return [error_token(row) for row in candidates]


def _compare(
    student: LanguageModel, teacher: LanguageModel, batch: Batch, keys: Tensor, config: ScrgConfig, chunk: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Per chunk of the batch's response positions: where it is, detection scores [chunk], teacher's tokens [chunk]."""
    states = [response_states(model, batch) for model in (student, teacher)]
    for start in range(0, len(batch.targets), chunk):
        at = slice(start, start + chunk)
        student_logp, teacher_logp = (of_model[at].log_probabilities() for of_model in states)
        tokens = teacher_tokens(teacher_logp, keys[batch.row[at]], batch.position[at], config)
        yield at, detection_scores(student_logp, teacher_logp, batch.targets[at], config), tokens


def teacher_tokens(teacher_logp: Tensor, keys: Tensor, positions: Tensor, config: ScrgConfig) -> Tensor:
    """What the teacher writes at each of n positions, [n]. keys: those of `row_key`, by position; positions: [n]."""
    if config.teacher_token == "greedy":
        return teacher_logp.argmax(-1)
    return coupled_scores(teacher_logp, keys, positions).argmax(-1)


def detection_scores(student_logp: Tensor, teacher_logp: Tensor, written: Tensor, config: ScrgConfig) -> Tensor:
    """How much each position looks like an error, in nats.

    `kl` (Eq. 3) depends on the text before the position alone; `teacher_nll` and `log_ratio` look at the token written there.

    Args:
        student_logp, teacher_logp: [n, vocabulary] log-probabilities of the two models at n response positions.
        written: [n], the tokens that stand there.

    Returns:
        [n].
    """
    if config.score == "kl":
        p, q = (student_logp, teacher_logp) if config.direction == "student_teacher" else (teacher_logp, student_logp)
        return relative_entropy(p, q)
    student, teacher = (logp.gather(-1, written[:, None]).squeeze(-1) for logp in (student_logp, teacher_logp))
    return -teacher if config.score == "teacher_nll" else student - teacher
