"""A table's cells file in; runs with their cards and scores out. Everything else in this package reads results through here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgsr.errors import MgsrError
from mgsr.storage import read_json, read_jsonl
from mgsr.tables.statistics import Comparison, Floats, Spread, compare, mean_and_deviations, paired_differences

SCHEMA = 1
AVERAGE = "average"


@dataclass(frozen=True)
class Cell:
    """One finished run: its card (card.json), its scores (summary.json, with rows.jsonl beside it) and, in the tables that show
    it, its exposure bias."""

    family: str
    method: str
    title: str
    role: str
    seed: int
    run: str
    card_path: Path
    evaluation_path: Path
    card: dict[str, Any]
    summary: dict[str, Any]
    exposure: dict[str, Any] | None = None

    def scores(self, test_set: str, protocol: str) -> dict[int, float]:
        """ROUGE-L (0..100) by decoding seed."""
        return _scores(self.summary, test_set, protocol, self.evaluation_path)

    @cached_property
    def _answers(self) -> dict[tuple[str, str], dict[str, float]]:
        return _answers(self.evaluation_path)

    def row_scores(self, test_set: str, protocol: str) -> dict[str, float]:
        """Score by example id, averaged over decoding seeds."""
        return _of_set(self._answers, test_set, protocol, self.evaluation_path)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return list(read_jsonl(self.card_path.with_name("metrics.jsonl")))


@dataclass(frozen=True)
class Group:
    """A method of a family: one run for each training seed."""

    family: str
    method: str
    title: str
    role: str
    cells: tuple[Cell, ...]

    def scores(self, test_set: str, protocol: str) -> NDArray[np.float64]:
        """[training seeds, decoding seeds]; every run must have the same decoding seeds."""
        found = [cell.scores(test_set, protocol) for cell in self.cells]
        if any(one.keys() != found[0].keys() for one in found):
            raise MgsrError(f"{self.family}, {self.title}: runs differ in decoding seeds on {test_set}; evaluate them alike")
        return np.array([[one[seed] for seed in sorted(one)] for one in found])

    def spreads(self, sets: Sequence[str], protocol: str) -> dict[str, Spread]:
        """By set, and for their average."""
        return _spreads({name: self.scores(name, protocol) for name in sets})

    def heldout(self, name: str) -> float | None:
        """Mean over training seeds of a held-out divergence (nats a token); None for the teacher."""
        values = [cell.summary["heldout"][name] for cell in self.cells if cell.summary["heldout"]]
        return float(np.mean(values)) if values else None

    def row_scores(self, test_set: str, protocol: str) -> dict[str, float]:
        """Score by example id, averaged over decoding and training seeds."""
        runs = [cell.row_scores(test_set, protocol) for cell in self.cells]
        if any(run.keys() != runs[0].keys() for run in runs):
            raise MgsrError(f"{self.family}, {self.title}: training seeds differ in the rows of {test_set}; evaluate them anew")
        return {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}

    def differences(self, other: Group, sets: Sequence[str], protocol: str, factor: float = 1.0) -> list[Floats]:
        """By set, [training seeds, prompts]: this method minus `factor` times `other`, runs of equal training seed paired."""
        seeds = [[cell.seed for cell in group.cells] for group in (self, other)]
        if seeds[0] != seeds[1] and min(map(len, seeds)) > 1:
            raise MgsrError(f"{self.family}: {self.title} and {other.title} differ in training seeds; train both with the same")
        pairs = [[[cell.row_scores(name, protocol) for cell in group.cells] for group in (self, other)] for name in sets]
        return [paired_differences(*pair, factor=factor) for pair in pairs]

    def compare(self, other: Group, sets: Sequence[str], protocol: str, factor: float = 1.0) -> Comparison:
        """This method minus `factor` times `other`, on the average over `sets`."""
        return compare(self.differences(other, sets, protocol, factor))


@dataclass(frozen=True)
class Cells:
    """All that a table or open check is made of. `floor` and `probe`: by family, the summary of answers borrowed from other
    rows, and the file of the open checks that train nothing."""

    table: str
    preset: str
    recipe: str
    note: str
    sets: tuple[str, ...]
    other_groups: bool
    cells: tuple[Cell, ...]
    floor: dict[str, Path]
    probe: dict[str, Path]

    @property
    def families(self) -> list[str]:
        return list(dict.fromkeys(cell.family for cell in self.cells))

    @property
    def protocols(self) -> list[str]:
        return list(dict.fromkeys(score["protocol"] for score in self.cells[0].summary["scores"]))

    @property
    def groups(self) -> list[Group]:
        """In the order of the file."""
        found: dict[tuple[str, str], list[Cell]] = defaultdict(list)
        for cell in self.cells:
            found[cell.family, cell.method].append(cell)
        return [Group(family, method, runs[0].title, runs[0].role, tuple(runs)) for (family, method), runs in found.items()]

    def floor_spreads(self, family: str) -> dict[str, Spread]:
        """Borrowed answers are not decoded: they have one score a set whatever the protocol, kept as `plain`."""
        path = self.floor[family]
        summary = _read(path)
        scores = {name: np.array([list(_scores(summary, name, "plain", path).values())]) for name in self.sets}
        return _spreads(scores)


def _spreads(scores: dict[str, NDArray[np.float64]]) -> dict[str, Spread]:
    found = {name: mean_and_deviations(table) for name, table in scores.items()}
    return found | {AVERAGE: mean_and_deviations(np.mean(list(scores.values()), axis=0))}


def _scores(summary: dict[str, Any], test_set: str, protocol: str, path: Path) -> dict[int, float]:
    found = {s["decoding_seed"]: s["rouge_l"] for s in summary["scores"] if (s["set"], s["protocol"]) == (test_set, protocol)}
    if not found:
        raise MgsrError(f"{path} has no score of set {test_set}, protocol {protocol}; evaluate that run anew")
    return found


def row_scores(summary: Path, test_set: str, protocol: str) -> dict[str, float]:
    """Score by example id, averaged over decoding seeds, from rows.jsonl beside a summary."""
    return _of_set(_answers(summary), test_set, protocol, summary)


def _answers(summary: Path) -> dict[tuple[str, str], dict[str, float]]:
    """By set and protocol: score by example id, averaged over decoding seeds.

    Each id must have been answered equally often, or a mean over ids would weigh them unequally (pitfall 22).
    """
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in read_jsonl(summary.with_name("rows.jsonl")):
        found[row["set"], row["protocol"]][row["id"]].append(row["score"])
    for key, answers in found.items():
        if len({len(scores) for scores in answers.values()}) != 1:
            raise MgsrError(f"{summary.parent}: {', '.join(key)}: rows missing or not answered equally often; evaluate anew")
    return {key: {name: float(np.mean(s)) for name, s in answers.items()} for key, answers in found.items()}


def _of_set(answers: dict[tuple[str, str], dict[str, float]], test_set: str, protocol: str, summary: Path) -> dict[str, float]:
    if (test_set, protocol) not in answers:
        raise MgsrError(f"{summary.parent} has no rows of set {test_set}, protocol {protocol}; evaluate that run anew")
    return answers[test_set, protocol]


def _read(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise MgsrError(f"{path} is not of schema {SCHEMA}; remove it and run the same command again")
    return value


def load_cells(path: Path) -> Cells:
    """Read a cells file and every card and summary that it names."""
    return parse_cells(read_json(path), path)


def parse_cells(value: Any, path: Path) -> Cells:
    """The cells of a table, from the value that stands for them in file `path`."""
    try:
        cells = tuple(
            Cell(
                **{key: row[key] for key in ("family", "method", "title", "role", "seed", "run")},
                card_path=Path(row["card"]),
                evaluation_path=Path(row["evaluation"]),
                card=_read(Path(row["card"])),
                summary=_read(Path(row["evaluation"])),
                exposure=_read(Path(row["exposure"])) if row["exposure"] else None,
            )
            for row in value["rows"]
        )
        loaded = Cells(
            **{key: value[key] for key in ("table", "preset", "recipe", "note", "other_groups")},
            sets=tuple(value["sets"]),
            cells=cells,
            floor={family: Path(floor) for family, floor in value["floor"].items()},
            probe={family: Path(probe) for family, probe in value.get("probe", {}).items()},
        )
    except KeyError as error:
        raise MgsrError(f"{path}: key {error} is missing; run the same command again to write it anew") from None
    if not cells and not loaded.probe:
        raise MgsrError(f"{path} names no run; give the table a method in the preset")
    for cell in cells:
        owners = [(cell.card_path, cell.card["run"]), (cell.evaluation_path, cell.summary["run"])]
        owners += [(path, cell.exposure["run"])] if cell.exposure else []
        for file, owner in owners:
            if owner != cell.run:
                raise MgsrError(f"{file} belongs to run {owner}, the table expects {cell.run}; remove it and run again")
    return loaded
