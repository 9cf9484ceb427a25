"""MiniLLM's rollouts (Gu et al. 2024): drawn from a mixture of teacher and student, scored once, trained on for some epochs.

In terms of the student as it was when it wrote, q_old, and the teacher p: tokens are drawn from `p~ = mix p + (1 - mix) q_old`,
and every position gets its reward and its importance weight then and there, from the very logits it was drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mgsr.config.loss_terms import PolicyGradientConfig
from mgsr.config.policy import CollectionConfig
from mgsr.errors import MgsrError
from mgsr.models.language_model import LanguageModel
from mgsr.rollouts.decoder import CacheDecoder, device_of, inference
from mgsr.rollouts.noise import coupled_scores, key_tensor, row_key
from mgsr.rollouts.sampler import Decoding, Prompt
from mgsr.rollouts.sequence import Sequence, by_length


@dataclass(frozen=True)
class Rollout:
    """A sequence, and for each of its response tokens y_t log q_old(y_t), log p(y_t) and log p~(y_t): [length, 3] float32."""

    sequence: Sequence
    log_probs: Tensor

    def columns(self, config: PolicyGradientConfig) -> Tensor:
        """What the policy gradient needs of each token, [length, 3] float32: log q_old(y_t), the advantage, not whitened yet,
        and the importance weight w_t = q_old(y_t) / p~(y_t)."""
        old, teacher, mixed = self.log_probs.unbind(-1)
        rewards = ((teacher - old) / config.reward_scale).clamp(-config.reward_clip, config.reward_clip)
        return torch.stack([old, torch.tensor(advantages(rewards.tolist(), config)), (old - mixed).exp()], -1)


def advantages(rewards: Items[float], config: PolicyGradientConfig) -> list[float]:
    """The advantage at each position t of one response of T tokens (from 0), from its rewards r.

    `code` (MiniLLM's code): sum over k >= t of discount^(k - t) r_k, divided by T - t. `paper` (its section 2.2, length
    normalisation): the mean of r_k over k > t, as the single-step term stands for k = t; 0 where no reward follows.
    """
    found: list[float] = []
    later = 0.0
    for remaining, reward in enumerate(reversed(rewards), 1):
        if config.advantage == "code":
            later = reward + config.discount * later
            found.append(later / remaining)
        else:
            found.append(later / max(1, remaining - 1))
            later += reward
    return found[::-1]


@dataclass
class _Row:
    """A rollout under way."""

    prompt: Prompt
    limit: int
    key: int
    response: list[int] = field(default_factory=list)
    log_probs: list[list[float]] = field(default_factory=list)


def collect(
    student: LanguageModel,
    teacher: LanguageModel,
    prompts: Items[Prompt],
    decoding: Decoding,
    *,
    teacher_mix: float,
    seed: int,
    visit: Items[int],
    eos_id: int,
    pad_id: int,
    vocabulary: int,
    batch: int,
) -> list[Rollout]:
    """A rollout for each prompt, in order, drawn token by token from p~ at T = 1. Arguments, random numbers and errors are
    those of `generate` with purpose "rollout": at `teacher_mix` 0 it is that very text. `decoding` limits lengths alone."""
    rows = [
        _Row(prompt, decoding.room(prompt), row_key(seed, "rollout", at, 0, prompt.example_id))
        for prompt, at in zip(prompts, visit, strict=True)
    ]
    with inference(student, teacher):
        for group in by_length([len(row.prompt.ids) for row in rows], batch):
            decoders = CacheDecoder(student, pad_id), CacheDecoder(teacher, pad_id)
            _decode(decoders, [rows[i] for i in group], teacher_mix, eos_id, vocabulary, device_of(student))
    return [
        Rollout(
            Sequence(row.prompt.example_id, row.prompt.ids, tuple(row.response), row.response[-1] == eos_id, "student"),
            torch.tensor(row.log_probs),
        )
        for row in rows
    ]


def _decode(
    decoders: tuple[CacheDecoder, CacheDecoder],
    rows: list[_Row],
    teacher_mix: float,
    eos_id: int,
    vocabulary: int,
    device: torch.device,
) -> None:
    keys = key_tensor((row.key for row in rows), device)
    shares = torch.tensor([1 - teacher_mix, teacher_mix], device=device).log()
    logits = [decoder.prefill([row.prompt.ids for row in rows]) for decoder in decoders]
    while True:
        old, teacher = (x[:, :vocabulary].float().log_softmax(-1) for x in logits)
        mixed = torch.logaddexp(old + shares[0], teacher + shares[1])
        positions = torch.tensor([len(row.response) for row in rows], device=device)
        best, chosen = coupled_scores(mixed, keys, positions).max(-1)
        of_chosen = torch.stack([x.gather(-1, chosen[:, None]).squeeze(-1) for x in (old, teacher, mixed)], -1)
        _stop_unless_finite(rows, best + of_chosen.sum(-1))
        running = []
        for i, (row, token, log_probs) in enumerate(zip(rows, chosen.tolist(), of_chosen.tolist(), strict=True)):
            row.response.append(token)
            row.log_probs.append(log_probs)
            if token != eos_id and len(row.response) < row.limit:
                running.append(i)
        if not running:
            return
        if len(running) < len(rows):
            kept = torch.tensor(running, device=device)
            for decoder in decoders:
                decoder.select(kept)
            rows, keys, chosen = [rows[i] for i in running], keys[kept], chosen[kept]
        logits = [decoder.step(chosen) for decoder in decoders]


def _stop_unless_finite(rows: list[_Row], figures: Tensor) -> None:
    for row, fine in zip(rows, figures.isfinite().tolist(), strict=True):
        if not fine:
            raise MgsrError(
                f"example {row.prompt.example_id}, response position {len(row.response)}: logits of the student or the teacher "
                "are not finite; the weights have probably diverged (lower the learning rate or drop it from "
                "training.learning_rate)"
            )


class Collection:
    """The rollouts that the steps of a run train on, and their order. It is one for all processes: each holds all rollouts.

    Collection c serves `steps` optimiser steps from c * steps + 1 on; its prompts are the next `rollouts` ones of the data
    order. Each inner epoch walks over all of them in an order of its own, drawn from (seed, collection, inner epoch).
    """

    def __init__(self, config: CollectionConfig, *, seed: int, global_batch: int) -> None:
        """MgsrError where a collection is not a whole number of batches."""
        if config.rollouts % global_batch:
            raise MgsrError(
                f"sequences.collection.rollouts {config.rollouts} is not a multiple of training.global_batch {global_batch}; "
                "choose one that is"
            )
        self._config, self._seed, self._global_batch = config, seed, global_batch
        self._batches = config.rollouts // global_batch
        self._number = -1  # of the collection that is held
        self._rollouts: list[Rollout] = []

    @property
    def steps(self) -> int:
        """Optimiser steps that one collection serves."""
        return self._batches * self._config.inner_epochs

    def due(self, step: int) -> bool:
        """Whether step `step` (from 1) needs a collection that is not held yet."""
        return self._number != (step - 1) // self.steps

    def prompt_batches(self, step: int) -> range:
        """The batches of the data order (from 1) whose prompts step `step`'s collection has, in order."""
        first = (step - 1) // self.steps * self._batches + 1
        return range(first, first + self._batches)

    def fill(self, step: int, rollouts: list[Rollout]) -> None:
        """Hold the collection of step `step`: the rollouts of all processes, in the order of the prompts."""
        if len(rollouts) != self._config.rollouts:
            raise ValueError(f"{len(rollouts)} rollouts, where a collection has {self._config.rollouts}")
        self._number, self._rollouts = (step - 1) // self.steps, rollouts

    def batch(self, step: int) -> list[tuple[int, Rollout]]:
        """The global batch of step `step`: each rollout with its place among the collection's prompts."""
        if self.due(step):
            raise ValueError(f"step {step} belongs to a collection that is not held")
        inner, part = divmod((step - 1) % self.steps, self._batches)
        axes = self._seed, "collection", self._number, inner
        order = sorted(range(len(self._rollouts)), key=lambda place: row_key(*axes, place))
        chosen = order[part * self._global_batch : (part + 1) * self._global_batch]
        return [(place, self._rollouts[place]) for place in chosen]

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values, which keep a float32 bit for bit; `load_state_dict` continues exactly from there."""
        return {
            "number": self._number,
            "rollouts": [
                [s.example_id, list(s.prompt_ids), list(s.response_ids), s.finished, rollout.log_probs.tolist()]
                for rollout in self._rollouts
                for s in [rollout.sequence]
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._number = state["number"]
        self._rollouts = [
            Rollout(Sequence(name, tuple(prompt), tuple(response), finished, "student"), torch.tensor(log_probs))
            for name, prompt, response, finished, log_probs in state["rollouts"]
        ]
