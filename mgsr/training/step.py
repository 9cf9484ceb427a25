"""Turns the sequences of an optimiser step into its loss. Weights hold every divisor of the step's means, over all
micro-batches and processes, so that these simply add up."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mgsr.models.language_model import HiddenStates, LanguageModel
from mgsr.objectives.chunked import chunked_loss
from mgsr.objectives.objective import Objective
from mgsr.objectives.positions import Positions
from mgsr.objectives.span_consistency import span_pair_weights
from mgsr.rollouts.sequence import Batch, Sequence, collate, response_states
from mgsr.training.distributed import World

Spans = list[list[tuple[int, int]]]


@dataclass(frozen=True)
class ForwardPass:
    """Sequences of one forward pass, and what their N response positions count for."""

    batch: Batch
    at: Positions
    uses_teacher: bool

    def to(self, device: torch.device) -> ForwardPass:
        return ForwardPass(self.batch.to(device), self.at.to(device), self.uses_teacher)


@dataclass(frozen=True)
class StepSequences:
    """What this process trains on: the sequences to distil on, their spans, and the ground truth of the prompts.

    `truth` is `distilled` itself where the step uses the data set: then one forward pass serves all terms.
    `rollout`: for each distilled sequence the columns [length, 3] of `Positions.rollout`, its advantages whitened; None where
    no policy gradient is taken.
    """

    distilled: list[Sequence]
    spans: Spans
    truth: list[Sequence]
    rollout: list[Tensor] | None = None
    sft_only: bool = False  # of the objective's terms the SFT term alone counts


def _position_weights(sequences: Items[Sequence], averaging: str, world: World) -> list[Tensor]:
    """Weights [length] of each sequence's positions: 1 / (tokens of the step), or 1 / (its tokens * sequences of the step)."""
    lengths = [len(sequence.response_ids) for sequence in sequences]
    tokens, count = world.sum([sum(lengths), len(lengths)])
    divisors = [tokens if averaging == "token_mean" else length * count for length in lengths]
    return [torch.full((length,), 1.0 / divisor) for length, divisor in zip(lengths, divisors, strict=True)]


def whitened(columns: Items[Tensor], world: World) -> list[Tensor]:
    """Whiten the advantages, which are the second of each rollout's columns [length, 3]: they get mean 0 and variance 1 over
    all tokens of the optimiser step, of all processes (as MiniLLM's code does, but without padding)."""
    tokens = torch.cat([column[:, 1] for column in columns]).double()
    count, total = world.sum([len(tokens), float(tokens.sum())])
    mean = total / count
    deviation = (world.sum([float((tokens - mean).square().sum())])[0] / count + 1e-8) ** 0.5
    return [
        torch.stack([old, (advantage - mean) / deviation, weight], -1)
        for old, advantage, weight in (column.unbind(-1) for column in columns)
    ]


def forward_passes(
    step: StepSequences, objective: Objective, micro_batch: int, pad_id: int, world: World
) -> Iterator[list[ForwardPass]]:
    """Cut a step into micro-batches. Each is a list of forward passes whose losses are added before one backward pass.

    On a step with the data set's text one pass serves all terms. On a step with generated text there are two: these sequences
    for distillation and spans, the ground truth for the SFT term. With `sft_only` all other weights are 0.
    """
    averaging = objective.config.averaging
    terms = objective.weights.keys() & {"sft"} if step.sft_only else objective.weights.keys()
    uses_teacher = objective.needs_teacher and not step.sft_only
    with_spans = world.sum([sum(bool(spans) for spans in step.spans)])[0]
    token = _position_weights(step.distilled, averaging, world)
    lengths = [len(sequence.response_ids) for sequence in step.distilled]
    pair = span_pair_weights(lengths, step.spans, max(1, int(with_spans)), objective.config.span.divisor)
    sft = _position_weights(step.truth, averaging, world)
    same = step.truth is step.distilled
    for start in range(0, len(step.distilled), micro_batch):
        rows = slice(start, start + micro_batch)
        passes = []
        if same or terms - {"sft"}:
            zeros = [torch.zeros_like(weight) for weight in token[rows]]
            batch = collate(step.distilled[rows], pad_id)
            at = Positions(
                batch.targets,
                token_weight=torch.cat(token[rows] if "distillation" in terms else zeros),
                pair_weight=torch.cat(pair[rows] if "span" in terms else zeros),
                sft_weight=torch.cat(sft[rows] if same else zeros),
                rollout=torch.cat(step.rollout[rows]) if step.rollout is not None else None,
            )
            passes.append(ForwardPass(batch, at, uses_teacher))
        if not same and "sft" in terms:
            batch, weight = collate(step.truth[rows], pad_id), torch.cat(sft[rows])
            zero = torch.zeros_like(weight)
            passes.append(ForwardPass(batch, Positions(batch.targets, zero, zero, sft_weight=weight), uses_teacher=False))
        yield passes


class TrainStep(nn.Module):
    """Student and objective in one module, so that DistributedDataParallel sees one forward pass, and all that is trained."""

    def __init__(self, student: LanguageModel, objective: Objective, chunk: int) -> None:
        super().__init__()
        self.backbone, self.head, self.objective = student.backbone, student.head, objective
        self._student, self._chunk = student, chunk

    def forward(self, passes: list[ForwardPass], teacher: list[HiddenStates | None]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a micro-batch, and its terms' sums. `teacher`: the teacher's states of each pass that uses them."""
        losses, sums = [], dict.fromkeys(self.objective.terms, torch.zeros(()))
        for forward_pass, teacher_states in zip(passes, teacher, strict=True):
            student_states = response_states(self._student, forward_pass.batch)
            loss, terms = chunked_loss(self.objective, student_states, teacher_states, forward_pass.at, self._chunk)
            losses.append(loss)
            sums = {name: sums[name] + terms[name].detach().cpu() for name in sums}
        return torch.stack(losses).sum(), sums
