"""Finished results, found below ROOT by the digests that a spec names. The rest of this package reads results through here.

A `RunResult` is one trained model, a `MethodResult` its runs with all training seeds, `TableResults` all that one table or open
check is made of. A score is found by metric, test set and protocol.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isclose
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgsr.config.table_entries import AVERAGE, VALIDATION
from mgsr.config.table_specs import CheckSpec, RowSpec, TableSpec
from mgsr.errors import MgsrError
from mgsr.evaluation.accumulation import Divergences, read_divergences
from mgsr.storage import check_folder, digest, read_json, read_jsonl
from mgsr.tables.decisions import Comparison, compare, pseudo_values
from mgsr.tables.statistics import Spread, mean_and_deviations, paired_differences

CAPPED = 0.1  # the share of references cut from which on the limits count in a set's scores
ANSWERS = ("length", "cut", "precision", "recall")  # what is known of a set's answers beside their scores
DIVERGENCES = ("forward_kl", "reverse_kl")  # held out, from the teacher
CARD_SCHEMA, EVALUATION_SCHEMA, EXPOSURE_SCHEMA, PROBE_SCHEMA = 1, 3, 1, 1


def _read(path: Path, schema: int, run: str = "") -> dict[str, Any]:
    """The file's value. Raises MgsrError where it is of another schema or, if `run` is named, belongs to another run."""
    value = read_json(path)
    if not isinstance(value, dict) or value.get("schema") != schema:
        raise MgsrError(f"{path} is not of schema {schema}; remove it and run the same command again")
    if run and value["run"] != run:
        raise MgsrError(f"{path} belongs to run {value['run']}, the table expects {run}; remove it and run again")
    return value


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


@dataclass(frozen=True)
class Evaluation:
    """ROOT/evaluations/<digest>: the scores of a run's answers, or of the answers that the floor borrows."""

    folder: Path
    summary: dict[str, Any]

    @classmethod
    def load(cls, root: Path, digest: str, run: str = "") -> Evaluation:
        folder = root / "evaluations" / digest
        check_folder(folder)
        return cls(folder, _read(folder / "summary.json", EVALUATION_SCHEMA, run))

    @property
    def protocols(self) -> list[str]:
        return list(dict.fromkeys(score["protocol"] for score in self.summary["scores"]))

    def scores(self, metric: str, test_set: str, protocol: str) -> dict[int, float]:
        """The score by decoding seed. Raises MgsrError where it is not the mean of the rows."""
        chosen = [score for score in self.summary["scores"] if (score["set"], score["protocol"]) == (test_set, protocol)]
        if not chosen or any(metric not in score["metrics"] for score in chosen):
            raise MgsrError(f"{self.folder} has no {metric} of set {test_set}, protocol {protocol}; evaluate that run anew")
        scores = {score["decoding_seed"]: score["metrics"][metric] for score in chosen}
        for seed, told in scores.items():
            rows = self._by_seed[metric, test_set, protocol, seed]
            if not rows or not isclose(told, fmean(rows), rel_tol=1e-9, abs_tol=1e-9):
                place = f"{metric} of set {test_set}, protocol {protocol}, decoding seed {seed}"
                raise MgsrError(
                    f"{self.folder}/summary.json: {place} is {told}, but the {len(rows)} rows have another mean; "
                    "delete the folder and start the workflow again"
                )
        return scores

    def answers(self, test_set: str, protocol: str) -> dict[str, float]:
        """Mean length in tokens, share cut by a limit, and mean ROUGE-L precision and recall, over decoding seeds."""
        parts = [s["answers"] for s in self.summary["scores"] if (s["set"], s["protocol"]) == (test_set, protocol)]
        return {name: float(np.mean([part[name] for part in parts])) for name in ANSWERS}

    def heldout(self, divergence: str) -> dict[str, float]:
        """By example id, numbers whose mean is the held-out divergence, a ratio of sums (nats a token)."""
        by_prompt = read_json(self.folder / "heldout.json")
        table = np.array(list(by_prompt.values()), dtype=np.float64)
        sums, tokens = table[:, DIVERGENCES.index(divergence)], table[:, 2]
        values = pseudo_values(lambda weights: (weights @ sums) / (weights @ tokens), len(table))
        return dict(zip(by_prompt, values.tolist(), strict=True))

    def rows(self) -> Iterator[dict[str, Any]]:
        """The lines of rows.jsonl: one for each answer."""
        return read_jsonl(self.folder / "rows.jsonl")

    @cached_property
    def _by_seed(self) -> dict[tuple[str, str, str, int], list[float]]:
        """By metric, set, protocol and decoding seed: the scores of the rows."""
        scores: dict[tuple[str, str, str, int], list[float]] = defaultdict(list)
        for row in self.rows():
            for metric, score in row["scores"].items():
                scores[metric, row["set"], row["protocol"], row["decoding_seed"]].append(score)
        return scores

    @cached_property
    def _means(self) -> dict[tuple[str, str, str], dict[str, float]]:
        """By metric, set and protocol: the score by example id, averaged over decoding seeds.

        Each id must have been answered equally often, or a mean over ids would weigh them unequally (pitfall 22).
        """
        answers: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in self.rows():
            for metric, score in row["scores"].items():
                answers[metric, row["set"], row["protocol"]][row["id"]].append(score)
        for key, by_id in answers.items():
            if len({len(scores) for scores in by_id.values()}) != 1:
                raise MgsrError(f"{self.folder}: {', '.join(key)}: rows missing or not answered equally often; evaluate anew")
        return {key: {name: float(np.mean(s)) for name, s in by_id.items()} for key, by_id in answers.items()}

    def row_scores(self, metric: str, test_set: str, protocol: str) -> dict[str, float]:
        """The score by example id, averaged over decoding seeds."""
        if (metric, test_set, protocol) not in self._means:
            raise MgsrError(f"{self.folder} has no rows of {metric}, set {test_set}, protocol {protocol}; evaluate it anew")
        return self._means[metric, test_set, protocol]


@dataclass(frozen=True)
class RunResult:
    """One finished run: its card, its scores and, in the tables that show it, its exposure bias (ExAccErr)."""

    row: RowSpec
    root: Path
    card: dict[str, Any]
    evaluation: Evaluation
    exposure: dict[str, Any] | None

    @classmethod
    def load(cls, row: RowSpec, root: Path) -> RunResult:
        """Read what `row` names below `root`. Raises MgsrError where a file belongs to another run."""
        card = _read(path := root / "runs" / row.run / "card.json", CARD_SCHEMA, row.run)
        if card.pop("digest", "") != digest(card):
            raise MgsrError(f"{path} was edited; delete it and start the workflow again")
        exposure = None
        if row.exposure:
            check_folder(exposed := root / "exposure" / row.exposure)
            exposure = _read(exposed / "summary.json", EXPOSURE_SCHEMA, row.run)
        return cls(row, root, card, Evaluation.load(root, row.evaluation, row.run), exposure)

    @property
    def card_path(self) -> Path:
        return self.root / "runs" / self.row.run / "card.json"

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, which training wrote."""
        check_folder(self.card_path.parent, "metrics.jsonl")
        return list(read_jsonl(self.card_path.with_name("metrics.jsonl")))

    def divergences(self) -> Divergences:
        """What the run's exposure bias was computed from."""
        return read_divergences(self.root / "exposure" / str(self.row.exposure) / "prompts.jsonl")


@dataclass(frozen=True)
class MethodResult:
    """A method of a family: one run for each training seed."""

    family: str
    method: str
    title: str
    role: str
    runs: tuple[RunResult, ...]

    def scores(self, metric: str, test_set: str, protocol: str) -> NDArray[np.float64]:
        """[training seeds, decoding seeds]; every run must have the same decoding seeds."""
        by_seed = [run.evaluation.scores(metric, test_set, protocol) for run in self.runs]
        if any(scores.keys() != by_seed[0].keys() for scores in by_seed):
            raise MgsrError(f"{self.family}, {self.title}: runs differ in decoding seeds on {test_set}; evaluate them alike")
        return np.array([[scores[seed] for seed in sorted(scores)] for scores in by_seed])

    def spreads(self, metric: str, sets: Sequence[str], protocol: str) -> dict[str, Spread]:
        """A mean with its deviations for each set, and for the average over the sets."""
        scores = {name: self.scores(metric, name, protocol) for name in sets}
        spreads = {name: mean_and_deviations(table) for name, table in scores.items()}
        return spreads | {AVERAGE: mean_and_deviations(np.mean(list(scores.values()), axis=0))}

    def answers(self, test_set: str, protocol: str) -> dict[str, float]:
        """Mean over training seeds of `Evaluation.answers`."""
        seeds = [run.evaluation.answers(test_set, protocol) for run in self.runs]
        return {name: float(np.mean([seed[name] for seed in seeds])) for name in ANSWERS}

    def row_scores(self, metric: str, test_set: str, protocol: str) -> list[dict[str, float]]:
        """For each training seed, the score by example id, averaged over decoding seeds."""
        return [run.evaluation.row_scores(metric, test_set, protocol) for run in self.runs]

    def compare(self, other: MethodResult, metric: str, sets: Sequence[str], protocol: str, factor: float = 1.0) -> Comparison:
        """This method minus `factor` times `other`, on the average over `sets`; runs of equal training seed are paired."""
        seeds = [[run.row.seed for run in method.runs] for method in (self, other)]
        if seeds[0] != seeds[1] and min(map(len, seeds)) > 1:
            raise MgsrError(f"{self.family}: {self.title} and {other.title} differ in training seeds; train both with the same")
        pairs = ([method.row_scores(metric, name, protocol) for method in (self, other)] for name in sets)
        return compare([paired_differences(*pair, factor=factor) for pair in pairs])

    def heldout(self, divergence: str) -> float | None:
        """Mean over training seeds of a held-out divergence (nats a token); None for the teacher."""
        return mean(run.evaluation.summary["heldout"][divergence] for run in self.runs if run.evaluation.summary["heldout"])

    def compare_heldout(self, other: MethodResult, divergence: str) -> Comparison:
        """This method's held-out divergence minus that of `other`; both have a teacher."""
        ours, theirs = ([run.evaluation.heldout(divergence) for run in method.runs] for method in (self, other))
        return compare([paired_differences(ours, theirs)])

    def card_mean(self, key: str) -> float | None:
        """Mean over training seeds of a number on the cards; None where none has it."""
        return mean(run.card[key] for run in self.runs)

    @property
    def seconds(self) -> float | None:
        """Seconds of training, the mean over training seeds."""
        return mean(run.card["timings"]["total"] for run in self.runs)

    @property
    def student_step_share(self) -> float | None:
        """Share of optimiser steps on text that the student wrote; None where the method asks for none."""
        return self.card_mean("student_step_share")

    @property
    def learning_rates(self) -> str:
        """What its runs were trained at; empty for a checkpoint, which was not trained here."""
        rates = {run.card["learning_rate"] for run in self.runs} - {None}
        return ", ".join(f"{rate:g}" for rate in sorted(rates))


@dataclass(frozen=True)
class Floor(MethodResult):
    """Answers borrowed from other rows of the same kind, as a method without runs. They are not decoded, so they have one score
    a set whatever the protocol, kept as `plain`."""

    evaluation: Evaluation

    def scores(self, metric: str, test_set: str, protocol: str) -> NDArray[np.float64]:
        return np.array([list(self.evaluation.scores(metric, test_set, "plain").values())])

    def answers(self, test_set: str, protocol: str) -> dict[str, float]:
        return self.evaluation.answers(test_set, "plain")

    def row_scores(self, metric: str, test_set: str, protocol: str) -> list[dict[str, float]]:
        return [self.evaluation.row_scores(metric, test_set, "plain")]


@dataclass(frozen=True)
class TableResults:
    """All that a table or an open check is made of. `methods` are in the order of its rows."""

    spec: TableSpec | CheckSpec
    root: Path
    methods: tuple[MethodResult, ...]

    @property
    def sets(self) -> tuple[str, ...]:
        """The test sets, in the order of the columns; the first one is the in-domain set."""
        return tuple(self.spec.test_sets)

    @property
    def metric(self) -> str:
        """The metric that ranks; claims, marks and open checks judge by it alone."""
        return self.spec.metrics[0]

    @property
    def families(self) -> list[str]:
        probed = self.spec.probes if isinstance(self.spec, CheckSpec) else ()
        return list(dict.fromkeys([*(method.family for method in self.methods), *probed]))

    @property
    def protocols(self) -> list[str]:
        return self.methods[0].runs[0].evaluation.protocols

    def floor(self, family: str) -> Floor:
        title, floors = (
            "answers borrowed from other rows of the same kind",
            self.spec.floors if isinstance(self.spec, TableSpec) else {},
        )
        return Floor(family, "floor", title, "floor", (), Evaluation.load(self.root, floors[family]))

    def capped(self, family: str) -> dict[str, float]:
        """The share of borrowed references that the limits cut, by test set where it is above a tenth: there a perfect answer
        would be cut too."""
        shares = {name: self.floor(family).answers(name, self.protocols[0])["cut"] for name in self.sets}
        return {name: share for name, share in shares.items() if share > CAPPED}

    def title(self, column: str) -> str:
        """A column's heading: a test set's title, or the column's own."""
        return {AVERAGE: AVERAGE, VALIDATION: "Dolly validation", **self.spec.test_sets}[column]

    def titles(self, columns: Iterable[str]) -> dict[str, str]:
        return {column: self.title(column) for column in columns}

    def lead(self, family: str) -> str:
        """What a sentence or label about a family begins with; empty where there is one family only."""
        return f"{family}: " if len(self.families) > 1 else ""

    def of_family(self, family: str) -> dict[str, MethodResult]:
        """A family's methods by name."""
        return {method.method: method for method in self.methods if method.family == family}

    def probes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """By family, probe.json of its starting student and teacher (`mgsr.evaluation.probe` says what it holds)."""
        for family, probe in self.spec.probes.items() if isinstance(self.spec, CheckSpec) else ():
            check_folder(folder := self.root / "probes" / probe)
            yield family, _read(folder / "probe.json", PROBE_SCHEMA)


def load_results(spec: TableSpec | CheckSpec, root: Path) -> TableResults:
    """Read every card, evaluation and exposure bias that the rows of `spec` name."""
    runs: dict[tuple[str, str], list[RunResult]] = defaultdict(list)
    for row in spec.rows:
        runs[row.family, row.method].append(RunResult.load(row, root))
    methods = [MethodResult(*key, rows[0].row.title, rows[0].row.role, tuple(rows)) for key, rows in runs.items()]
    if not methods and not (isinstance(spec, CheckSpec) and spec.probes):
        raise MgsrError(f"{spec.name} names no run; give it a method in the preset")
    return TableResults(spec, root, tuple(methods))
