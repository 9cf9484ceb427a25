"""ExAccErr from divergences by position (Arora et al. 2022; MiniLLM's appendix): numbers in, numbers out, no torch.

R(l) is the sum over positions i <= l of the mean KL(t_i || s_i) where the student wrote y_<i, l * eps(l) the same where the
teacher wrote it; ExAccErr(l) = (R(l) - l eps(l)) / (l eps(l)), in percent. 0: the student's own prefixes add nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mgsr.errors import MgsrError
from mgsr.evaluation.intervals import RESAMPLES, Numbers, resampling_weights
from mgsr.storage import read_jsonl

ROWS_AT_ONCE = 1000  # resamples whose means exist at one time, so that memory stays small
SOURCES = ("student", "teacher")  # who wrote the prefixes


@dataclass(frozen=True)
class Divergences:
    """KL(t_i || s_i) in nats, summed over a prompt's samples, by who wrote the prefix (`student`, `teacher`).

    sums, counts: [prompts, positions]; a mean divides by the counts.
    """

    ids: tuple[str, ...]
    sums: dict[str, Numbers]
    counts: dict[str, Numbers]

    def means(self, source: str, weights: Numbers | None = None) -> Numbers:
        """By position [..., positions]; NaN where no sample counts. weights [..., prompts]: how often each prompt counts."""
        weights = np.ones(len(self.ids)) if weights is None else weights
        sums, counts = weights @ self.sums[source], weights @ self.counts[source]
        return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)

    def accumulated(self, source: str, lengths: Sequence[int], weights: Numbers | None = None) -> Numbers:
        """Sum of the means over the first l positions [..., lengths]; NaN where one of them has no mean."""
        return self.means(source, weights).cumsum(-1)[..., [length - 1 for length in lengths]]

    def excess_error(self, lengths: Sequence[int], weights: Numbers | None = None) -> Numbers:
        """ExAccErr in percent [..., lengths]; NaN where it is not defined, at l eps(l) = 0 too."""
        ours, expected = (self.accumulated(source, lengths, weights) for source in SOURCES)
        return 100 * np.divide(ours - expected, expected, out=np.full_like(expected, np.nan), where=expected > 0)

    def excess_error_resamples(self, lengths: Sequence[int], *, resamples: int = RESAMPLES, seed: int = 0) -> Numbers:
        """ExAccErr [resamples, lengths] over prompts drawn with replacement. For two models with the same prompts the same seed
        draws the same prompts, so the difference of their resamples is the paired bootstrap's."""
        weights = resampling_weights(len(self.ids), resamples, seed)
        chunks = np.split(weights, range(ROWS_AT_ONCE, resamples, ROWS_AT_ONCE))
        return np.concatenate([self.excess_error(lengths, chunk) for chunk in chunks])


def read_divergences(path: Path) -> Divergences:
    """What `mgsr.evaluation.exposure` wrote to prompts.jsonl."""
    lines = list(read_jsonl(path))
    if not lines:
        raise MgsrError(f"{path}: no prompt in it; remove its folder and run the workflow again")
    fields: dict[str, dict[str, Numbers]] = {
        name: {source: np.array([line[source][name] for line in lines], dtype=np.float64) for source in SOURCES}
        for name in ("sums", "counts")
    }
    return Divergences(tuple(line["id"] for line in lines), fields["sums"], fields["counts"])
