"""The order of the examples: one permutation an epoch, from named axes, the same for every method and number of processes."""

from __future__ import annotations

from collections.abc import Sequence as Items
from functools import cached_property, lru_cache

from mgsr.data.encoding import Example
from mgsr.rollouts.noise import row_key


class DataOrder:
    """An endless walk over the training set. Step s (from 1) sees places (s-1)*batch .. s*batch-1 of the walk."""

    def __init__(self, examples: Items[Example], seed: int, global_batch: int) -> None:
        self._examples, self._seed, self._batch = examples, seed, global_batch
        self._permutation = lru_cache(maxsize=2)(self._permute)

    @cached_property
    def first_places(self) -> dict[str, int]:
        """By example id, the place where the walk first meets it."""
        return {self._examples[index].id: place for place, index in enumerate(self._permute(0))}

    def _permute(self, epoch: int) -> list[int]:
        keys = [row_key(self._seed, "order", epoch, example.id) for example in self._examples]
        return sorted(range(len(keys)), key=lambda i: (keys[i], i))

    def batch(self, step: int) -> list[tuple[Example, int]]:
        """The global batch of a step: examples, and how often each was seen before (its epoch)."""
        batch = []
        for place in range((step - 1) * self._batch, step * self._batch):
            epoch, index = divmod(place, len(self._examples))
            batch.append((self._examples[self._permutation(epoch)[index]], epoch))
        return batch
