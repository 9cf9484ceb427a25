"""What is measured of a finished run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mgsr.config.base import Strict, Unique

Protocol = Literal["published", "plain"]
NO_REPEAT_NGRAM: dict[Protocol, int] = {"published": 6, "plain": 0}
"""Length of the n-grams that may not occur twice in prompt and response; 0 bars none. The final evaluation of
DistiLLM's code has 6, which stands in none of its scripts (docs/pitfalls.md, no. 27)."""


class ExposureConfig(Strict):
    """ExAccErr (Arora et al. 2022; MiniLLM's appendix): how much errors of the student's own prefixes add up (Table 4a)."""

    lengths: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (50, 100, 200), min_length=1, description="response lengths, rising"
    )
    samples: int = Field(10, ge=1, description="samples a prompt of each model")
    rows: int = Field(500, ge=1, description="Dolly test rows")
    finished: Literal["running", "zero"] = Field(
        "running", description="a position's mean is over the sequences still running, or finished ones count as 0"
    )


class ProbeConfig(Strict):
    """The open checks that train nothing: injected errors, span statistics, diversity of rollouts."""

    rows: int = Field(200, ge=2, description="Dolly test rows")
    samples: int = Field(2, ge=1, description="rollouts a prompt for diversity")


class EvaluationConfig(Strict):
    """Decoding and scoring. Sampling is at T = 1 from the whole distribution (top-p 1, top-k 0)."""

    protocols: Annotated[tuple[Protocol, ...], Unique] = Field(
        ("published", "plain"),
        min_length=1,
        description="`published`: no 6-gram is repeated, as DistiLLM's code has it silently; `plain`: all are allowed. "
        "Validation has the first",
    )
    decoding_seeds: Annotated[tuple[int, ...], Unique] = Field(
        (10, 20, 30, 40, 50), min_length=1, description="one answer to each row a seed"
    )
    max_new_tokens: int = Field(256, ge=1, description="also the limit of rollouts in training")
    batch: int = Field(32, ge=1, description="sequences decoded together")
    heldout_rows: int = Field(500, ge=1, description="Dolly test rows for the held-out KL to the teacher")
