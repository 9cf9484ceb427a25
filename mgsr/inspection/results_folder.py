"""What a results folder holds: the finished runs that its tables show, and their answers with what they answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mgsr.config.base import nearest
from mgsr.config.specs import EvaluationSpec, parse_spec
from mgsr.config.table_specs import RowSpec, TableSpec
from mgsr.data.records import Record
from mgsr.errors import MgsrError
from mgsr.evaluation.scoring import prepared_records
from mgsr.storage import CHECKSUMS, read_json, read_jsonl
from mgsr.tables.results import MethodResult, RunResult


@dataclass(frozen=True)
class AnswerInContext:
    """One kept answer: to which record, under which protocol, with which decoding seed, and its score by metric."""

    test_set: str
    record: Record
    protocol: str
    decoding_seed: int
    text: str
    scores: dict[str, float]


@dataclass(frozen=True)
class ResultsFolder:
    """The finished rows of all tables of `root`. spec: of the first table, for titles and metrics."""

    root: Path
    spec: TableSpec
    methods: tuple[MethodResult, ...]

    @classmethod
    def load(cls, root: Path) -> ResultsFolder:
        """Raises MgsrError where no table was planned, or no row is finished."""
        specs = [parse_spec(path, TableSpec) for path in sorted(root.glob("plan/*.json")) if "kind" in read_json(path)]
        rows = {
            (row.family, row.method, row.seed): row for spec in reversed(specs) for row in spec.rows if _finished(root, row)
        }
        if not rows:
            raise MgsrError(
                f"{root} has no finished row of a table; name the results folder of a preset, such as results/smoke"
            )
        runs: dict[tuple[str, str], list[RunResult]] = defaultdict(list)
        order = [row for spec in specs for row in spec.rows]
        for family, method, seed in dict.fromkeys((row.family, row.method, row.seed) for row in order):
            if row := rows.get((family, method, seed)):
                runs[family, method].append(RunResult.load(row, root))
        methods = (MethodResult(*key, found[0].row.title, found[0].row.role, tuple(found)) for key, found in runs.items())
        return cls(root, specs[0], tuple(methods))

    def find(self, name: str) -> MethodResult:
        """The method of this name or title, with all its training seeds, or the one run whose digest begins so. Raises
        MgsrError where there is none, or more than one."""
        found = [method for method in self.methods if name.lower() in (method.method.lower(), method.title.lower())]
        found += [_alone(method, run) for method in self.methods for run in method.runs if run.row.run.startswith(name)]
        if len(found) == 1:
            return found[0]
        if found:
            named = ", ".join(f"{method.runs[0].row.run} ({method.family})" for method in found)
            raise MgsrError(f"'{name}' is more than one: {named}; give the beginning of a digest")
        known = [word for method in self.methods for word in (method.method, method.title)]
        raise MgsrError(f"there is no run '{name}'; {nearest(name, known)}")


def _finished(root: Path, row: RowSpec) -> bool:
    return (root / f"runs/{row.run}/card.json").is_file() and (root / f"evaluations/{row.evaluation}/{CHECKSUMS}").is_file()


def _alone(method: MethodResult, run: RunResult) -> MethodResult:
    return MethodResult(method.family, method.method, method.title, method.role, (run,))


def answers_of(run: RunResult) -> Iterator[AnswerInContext]:
    """Every kept answer of a run with its record, in the order of rows.jsonl."""
    spec = parse_spec(run.evaluation.folder / "spec.json", EvaluationSpec)
    records = {name: {record.id: record for record in prepared_records(run.root, spec, name)} for name in spec.test_sets}
    for row in read_jsonl(run.evaluation.folder / "rows.jsonl"):
        place = row["protocol"], row["decoding_seed"], row["text"], row["scores"]
        yield AnswerInContext(row["set"], records[row["set"]][row["id"]], *place)
