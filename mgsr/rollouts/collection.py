"""MiniLLM's rollouts (Gu et al. 2024): drawn from a mixture of teacher and student, scored once, trained on for some epochs.

q_old is the student as it was when it wrote, p the teacher. Tokens are drawn from `p~ = mix p + (1 - mix) q_old`,
and each position gets its reward and its importance weight at once, from the logits that it was drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mgsr.config.loss_terms import PolicyGradientConfig
from mgsr.config.policy import CollectionConfig
from mgsr.models.language_model import LanguageModel
from mgsr.rollouts.noise import row_key
from mgsr.rollouts.sampler import Decoding, Prompt, Row, complete, draw, stop_unless_finite
from mgsr.rollouts.sequence import Sequence


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
    values: list[float] = []  # from the last position to the first
    later = 0.0
    for remaining, reward in enumerate(reversed(rewards), 1):
        if config.advantage == "code":
            later = reward + config.discount * later
            values.append(later / remaining)
        else:
            values.append(later / max(1, remaining - 1))
            later += reward
    return values[::-1]


class _RolloutRow(Row):
    """A rollout that is being written; `log_probs` holds what `Rollout` holds of each token."""

    def __init__(self, prompt: Prompt, decoding: Decoding, eos_id: int) -> None:
        super().__init__(prompt, decoding, eos_id, "rollout")
        self.log_probs: list[list[float]] = []


def collect(
    student: LanguageModel, teacher: LanguageModel, prompts: Items[Prompt], decoding: Decoding, teacher_mix: float
) -> list[Rollout]:
    """A rollout for each prompt, in order, drawn token by token from p~ at T = 1. Random numbers and errors are those of
    `generate` with purpose "rollout": at `teacher_mix` 0 it writes the same text."""
    rows = [_RolloutRow(prompt, decoding, student.eos_id) for prompt in prompts]
    shares = torch.tensor([1 - teacher_mix, teacher_mix], device=student.device).log()

    def choose(logits: list[Tensor], running: list[_RolloutRow], keys: Tensor) -> Tensor:
        old_logp, teacher_logp = (x[:, : student.vocabulary].float().log_softmax(-1) for x in logits)
        mixed_logp = torch.logaddexp(old_logp + shares[0], teacher_logp + shares[1])
        tokens = draw(mixed_logp, running, keys)
        of_tokens = [logp.gather(-1, tokens[:, None]).squeeze(-1) for logp in (old_logp, teacher_logp, mixed_logp)]
        log_probs = torch.stack(of_tokens, -1)
        stop_unless_finite(running, log_probs.sum(-1))
        for row, values in zip(running, log_probs.tolist(), strict=True):
            row.log_probs.append(values)
        return tokens

    complete([student, teacher], rows, choose, decoding.batch)
    return [Rollout(row.sequence("student"), torch.tensor(row.log_probs)) for row in rows]


class Collection:
    """The rollouts that the steps of a run train on, and their order. It is one for all processes: each holds all rollouts.

    Collection c serves `steps` optimiser steps from c * steps + 1 on; its prompts are the next `rollouts` ones of the data
    order. Each inner epoch walks over all of them in an order of its own, drawn from (seed, collection, inner epoch).
    """

    def __init__(self, config: CollectionConfig, *, seed: int, global_batch: int) -> None:
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
        places = order[part * self._global_batch : (part + 1) * self._global_batch]
        return [(place, self._rollouts[place]) for place in places]

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values, which keep a float32 bit for bit; `load_state_dict` continues exactly from there."""
        rollouts = [[rollout.sequence.to_json(), rollout.log_probs.tolist()] for rollout in self._rollouts]
        return {"number": self._number, "rollouts": rollouts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._number = state["number"]
        pairs = state["rollouts"]
        self._rollouts = [Rollout(Sequence.from_json(sequence), torch.tensor(log_probs)) for sequence, log_probs in pairs]
