"""Scores as ROUGE-L's: bounded, skewed, heavy-tailed in their differences, many of them equal because answers are."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mgsr.storage import read_jsonl

Floats = NDArray[np.float64]
PAPER_SETS = {"dolly": 500, "self_instruct": 242, "vicuna": 80, "sni": 1694, "unni": 1000}
SMALL_SETS = {"dolly": 100, "self_instruct": 60, "vicuna": 40, "sni": 60, "unni": 60}  # smoke's
EQUAL_ANSWERS, LIKENESS = 0.6, 0.7  # 36 % of differences are 0; systems' answers to a prompt are alike
_GRID = np.linspace(0, 1, 2001)
_SCORES = 100 * stats.beta.ppf(np.clip((_GRID - 0.05) / 0.95, 0, 1), 0.9, 1.6)  # a twentieth is 0


class Population(Protocol):
    def __call__(self, generator: np.random.Generator, tables: int, systems: int, prompts: int) -> Floats:
        """Scores [tables, systems, prompts], with no system better than another."""
        ...


def synthetic(generator: np.random.Generator, tables: int, systems: int, prompts: int) -> Floats:
    prompt, common = generator.standard_normal((2, tables, 1, prompts))
    own = generator.standard_normal((tables, systems, prompts))
    answer = np.where(generator.random(own.shape) < EQUAL_ANSWERS, common, own)
    return np.interp(stats.norm.cdf(np.sqrt(LIKENESS) * prompt + np.sqrt(1 - LIKENESS) * answer), _GRID, _SCORES)


class Real:
    """Prompts of evaluated rows, drawn with replacement; which system has which of a prompt's scores is drawn anew."""

    def __init__(self, folder: Path, test_set: str = "dolly", protocol: str = "published") -> None:
        runs = []
        for path in sorted(folder.glob("*/rows.jsonl")):
            scores = defaultdict(list)
            for row in read_jsonl(path):
                if (row["set"], row["protocol"]) == (test_set, protocol):
                    scores[row["id"]].append(row["scores"]["rouge_l"])
            if scores:
                runs.append([np.mean(scores[name]) for name in sorted(scores)])
        self.scores = np.array(runs)

    def __call__(self, generator: np.random.Generator, tables: int, systems: int, prompts: int) -> Floats:
        columns = generator.integers(0, self.scores.shape[1], (tables, 1, prompts))
        return self.scores[generator.integers(0, len(self.scores), (tables, systems, prompts)), columns]


def chosen_population() -> tuple[str, Population]:
    """From the command line: a folder of evaluations, or nothing."""
    if len(sys.argv) > 1:
        return "real scores", Real(Path(sys.argv[1]))
    return "synthetic scores", synthetic
