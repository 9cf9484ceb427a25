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


class RolloutPolicy:
    """Decides what each step of a run trains on. Call `on_validation` with the loss before training, then `plan` for each step.

    Only `off_policy` has a threshold tau, which never falls, and a replay buffer (Ko et al. 2024, section 3.2; its code):
    `student` and `mixed` always train on fresh text. The buffer is first in, first out, and one for all processes: each holds
    the same sequences in the same order.
    """

    def __init__(self, config: SequencesConfig, *, seed: int, global_batch: int) -> None:
        self._config, self._seed, self._global_batch = config, seed, global_batch
        self._replays = config.policy == "off_policy"
        self._buffer: deque[Sequence] = deque(maxlen=config.off_policy.buffer_size)
        self.threshold = config.off_policy.initial_threshold
        self._accepted_loss: float | None = None

    def plan(self, step: int, steps: int) -> Source:
        """What step `step` of `steps` (counted from 1) trains on."""
        if not 1 <= step <= steps:
            raise ValueError(f"step {step} is not one of 1..{steps}")
        draw = uniform(self._seed, "sequences", step)
        if self._replays:
            full = len(self._buffer) == self._buffer.maxlen
            if draw < self.threshold * (1 - step / steps) or (draw < self.threshold and not full):
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
            self._buffer.extend(sequences)

    def draw(self, step: int) -> list[Sequence]:
        """The global batch of a step whose plan was "buffer": different entries, each equally likely, the same on every
        process. Raises ValueError where the buffer holds fewer."""
        if self._global_batch > len(self._buffer):
            raise ValueError(f"{self._global_batch} sequences asked of a buffer that holds {len(self._buffer)}")
        places = sorted(range(len(self._buffer)), key=lambda place: row_key(self._seed, "replay", step, place))
        return [self._buffer[place] for place in places[: self._global_batch]]

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
        buffer = [sequence.to_json() for sequence in self._buffer]
        return {"threshold": [self.threshold, self._accepted_loss], "buffer": buffer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.threshold, self._accepted_loss = state["threshold"]
        self._buffer.clear()
        self._buffer.extend(map(Sequence.from_json, state["buffer"]))
