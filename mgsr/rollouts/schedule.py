"""Which sequences an optimiser step trains on: the dataset's, the teacher's, fresh ones of the student, or replayed ones.

Every decision is drawn from named axes (seed, step), so it is the same on every process and after a resume.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any, Literal

from mgsr.config.policy import SequencesConfig
from mgsr.errors import MgsrError
from mgsr.rollouts.noise import row_key, uniform
from mgsr.rollouts.sequence import Sequence

Source = Literal["dataset", "student", "buffer", "teacher", "custom"]


class ReplayBuffer:
    """First in, first out. One for all processes: each holds the same sequences in the same order."""

    def __init__(self, capacity: int) -> None:
        self._items: deque[Sequence] = deque(maxlen=capacity)
        self.capacity = capacity

    def __len__(self) -> int:
        return len(self._items)

    @property
    def full(self) -> bool:
        return len(self) == self.capacity

    def store(self, sequences: Iterable[Sequence]) -> None:
        """The oldest leave where there is no room."""
        self._items.extend(sequences)

    def draw(self, count: int, *axes: str | int) -> list[Sequence]:
        """`count` different entries, each equally likely; the axes decide which. Raises ValueError where there are fewer."""
        if count > len(self):
            raise ValueError(f"{count} sequences asked of a buffer that holds {len(self)}")
        chosen = sorted(range(len(self)), key=lambda place: row_key(*axes, place))[:count]
        return [self._items[place] for place in chosen]

    def state_dict(self) -> list[list[Any]]:
        return [sequence.to_json() for sequence in self._items]

    def load_state_dict(self, state: list[list[Any]]) -> None:
        self._items.clear()
        self.store(map(Sequence.from_json, state))


class RolloutPolicy:
    """Decides what each step of a run trains on. Call `on_validation` with the loss before training, then `plan` for each step.

    Only `off_policy` has a buffer, and a threshold tau that never falls (Ko et al. 2024, section 3.2; its code): `student` and
    `mixed` always train on fresh text.
    """

    def __init__(self, config: SequencesConfig, *, seed: int, global_batch: int) -> None:
        self._config, self._seed, self._global_batch = config, seed, global_batch
        self._replays = config.policy == "off_policy"
        self._buffer = ReplayBuffer(config.off_policy.buffer_size)
        self.threshold = config.off_policy.initial_threshold
        self._accepted_loss: float | None = None

    def plan(self, step: int, steps: int) -> Source:
        """What step `step` of `steps` (counted from 1) trains on."""
        if not 1 <= step <= steps:
            raise ValueError(f"step {step} is not one of 1..{steps}")
        draw = uniform(self._seed, "sequences", step)
        if self._replays:
            if draw < self.threshold * (1 - step / steps) or (draw < self.threshold and not self._buffer.full):
                return "student"
            return "buffer" if draw < self.threshold else "dataset"
        if self._config.policy == "mixed":
            return "student" if draw < self._config.student_share else "dataset"
        constant: dict[str, Source] = {"dataset": "dataset", "teacher": "teacher", "custom": "custom"}
        return constant.get(self._config.policy, "student")

    def store(self, sequences: Iterable[Sequence]) -> None:
        """Take a step's student sequences (after SCRG) of all processes, in their global order. They are kept if the policy
        replays."""
        if self._replays:
            self._buffer.store(sequences)

    def draw(self, step: int) -> list[Sequence]:
        """The global batch of a step whose plan was "buffer", the same on every process."""
        if not self._replays:
            raise ValueError(f"policy {self._config.policy} replays nothing")
        return self._buffer.draw(self._global_batch, self._seed, "replay", step)

    def on_validation(self, loss: float) -> None:
        """Take the validation loss, before training and after each validation. A loss above the last accepted one by the
        tolerance raises tau, and becomes the accepted one. Raises MgsrError for a loss that is not finite."""
        if not math.isfinite(loss):
            raise MgsrError(
                f"the validation loss is {loss}: the weights have diverged; lower training.learning_rate, or drop this rate "
                "from its grid"
            )
        off_policy = self._config.off_policy
        if self._accepted_loss is None:
            self._accepted_loss = loss
        elif loss >= self._accepted_loss + off_policy.tolerance:
            self.threshold = min(1.0, self.threshold + off_policy.threshold_step)
            self._accepted_loss = loss

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values; `load_state_dict` continues exactly from there."""
        return {"threshold": [self.threshold, self._accepted_loss], "buffer": self._buffer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.threshold, self._accepted_loss = state["threshold"]
        self._buffer.load_state_dict(state["buffer"])
