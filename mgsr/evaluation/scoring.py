"""One row for each scored answer, and the summary over rows. Every evaluation, the floor's too, writes its files through here.

`rows.jsonl` holds an `AnswerRow` a line, `summary.json` what `build_summary` returns. Decoding seeds stay apart in both: their
deviation is no run-to-run deviation, so nothing here averages over them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from mgsr.config.measurement import Protocol
from mgsr.config.specs import EvaluationSpec, FloorSpec
from mgsr.data.records import Record, load_records
from mgsr.errors import MgsrError
from mgsr.evaluation.answers import Answer, Heldout
from mgsr.metrics import Metric, score
from mgsr.rouge import overlap
from mgsr.storage import digest, new_folder, write_json, write_jsonl

SCHEMA = 3

Part = tuple[str, Protocol, int]
"""Test set, protocol and decoding seed: what a score of summary.json is a mean over."""


@dataclass(frozen=True, kw_only=True)
class AnswerRow:
    """What one model answered to one example, its score by metric, and its ROUGE-L's precision and recall (0..100). The rest is
    as in `Answer`."""

    schema: int = SCHEMA
    run: str
    set: str
    id: str
    decoding_seed: int
    protocol: Protocol
    text: str
    scores: dict[str, float]
    precision: float
    recall: float
    length: int
    finish_reason: str

    @property
    def part(self) -> Part:
        return self.set, self.protocol, self.decoding_seed


def prepared_records(root: Path, spec: EvaluationSpec | FloorSpec, test_set: str) -> list[Record]:
    """The records of a test set, as many of the first ones as the spec says."""
    return load_records(root / "test_sets" / spec.test_sets[test_set], "records")[: spec.rows[test_set]]


def score_answers(
    run: str, part: Part, records: Sequence[Record], answers: Sequence[Answer], metrics: Mapping[str, Metric]
) -> list[AnswerRow]:
    """The rows of a part: one for each record whose prompt was not dropped, in order; `answers` has one for each record."""
    test_set, protocol, seed = part
    rows = []
    for record, answer in zip(records, answers, strict=True):
        if answer.finish_reason == "dropped":
            continue
        scores = score(metrics, answer.text, record.references, f"set {test_set}, example {record.id}")
        _, precision, recall = overlap(answer.text, record.references)
        place: dict[str, Any] = {"run": run, "set": test_set, "protocol": protocol, "decoding_seed": seed, **asdict(answer)}
        rows.append(AnswerRow(scores=scores, precision=precision, recall=recall, **place))
    return rows


def summarise(rows: Sequence[AnswerRow]) -> list[dict[str, Any]]:
    """The `scores` of summary.json: each metric's mean over each part, in order of appearance, and under `answers` the mean
    length in tokens, the share that a limit cut, and the mean precision and recall.

    The order of the rows within a part does not matter, not even to the last bit. Raises MgsrError where the parts of a set
    do not have the same examples, each once.
    """
    parts: dict[Part, list[AnswerRow]] = defaultdict(list)
    examples: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        parts[row.part].append(row)
        examples[row.set].add(row.id)
    scores = []
    for (test_set, protocol, seed), members in parts.items():
        counts = Counter(row.id for row in members)
        if odd := next((name for name in examples[test_set] if counts[name] != 1), None):
            place = f"set {test_set}, protocol {protocol}, decoding seed {seed}"
            raise MgsrError(f"{place}: {counts[odd]} rows of {odd} instead of 1; evaluate that run anew")
        means = {metric: fmean(row.scores[metric] for row in members) for metric in members[0].scores}
        answers = {name: fmean(getattr(row, name) for row in members) for name in ("length", "precision", "recall")}
        answers["cut"] = fmean(row.finish_reason == "length" for row in members)
        line = {"set": test_set, "protocol": protocol, "decoding_seed": seed, "rows": len(members), "metrics": means}
        scores.append(line | {"answers": answers})
    return scores


def build_summary(
    rows: Sequence[AnswerRow],
    *,
    sets: Mapping[str, Mapping[str, int]],
    timings: Mapping[str, float],
    heldout: Heldout | None = None,
) -> dict[str, Any]:
    """summary.json. `sets`: by test set, how many rows were answered (`rows`) and left out (`dropped`); `timings`: seconds of
    this job, in which kept answers cost nothing; `heldout`: null where there is no teacher. `digest` is of the rows.
    """
    scores = summarise(rows)
    answered = {line["set"]: line["rows"] for line in scores}
    counted = {name: counts["rows"] for name, counts in sets.items()}
    if answered != counted:
        raise MgsrError(f"answers of {answered} do not cover the sets {counted}; evaluate that run anew")
    return {
        "schema": SCHEMA,
        "run": rows[0].run,
        "scores": scores,
        "heldout": None if heldout is None else heldout.means,
        "timings": {stage: round(seconds, 3) for stage, seconds in timings.items()},
        "sets": sets,
        "digest": digest([asdict(row) for row in rows]),
    }


def write_evaluation(
    folder: Path,
    spec: EvaluationSpec | FloorSpec,
    rows: Sequence[AnswerRow],
    summary: Mapping[str, Any],
    heldout: Heldout | None = None,
) -> None:
    """Write rows.jsonl in the order given, summary.json (see `build_summary`), spec.json and, where there is a teacher,
    heldout.json with the divergences by prompt; the folder appears whole."""
    with new_folder(folder) as out:
        write_jsonl(out / "rows.jsonl", map(asdict, rows))
        write_json(out / "spec.json", spec.model_dump(mode="json"))
        write_json(out / "summary.json", summary)
        if heldout is not None:
            write_json(out / "heldout.json", heldout.by_prompt)
