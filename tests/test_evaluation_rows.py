"""Rows keep what they were given or refuse it; summaries keep seeds and protocols apart; the floor borrows from others."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mgsr.config.base import TEST_SETS
from mgsr.data.records import Record
from mgsr.errors import MgsrError
from mgsr.evaluation.answers import AnswerRow, build_summary, read_rows, summarise, write_rows
from mgsr.evaluation.floor import borrowed_answers, evaluate_floor, write_floor
from mgsr.rouge import rouge_l
from mgsr.storage import read_json, write_jsonl

ROW = AnswerRow(
    run="0123", set="dolly", id="dolly-7", decoding_seed=10, protocol="plain", text="caf\u00e9\u2028\n\"x\"", score=1 / 3,
    length=4, finish_reason="eos",
)  # fmt: skip


def grid() -> list[AnswerRow]:
    """Two sets x two protocols x two decoding seeds x three examples, each with its own score."""
    cells = [(s, p, d) for s in ("dolly", "vicuna") for p in ("published", "plain") for d in (10, 20)]
    draw = random.Random(0)
    return [
        replace(ROW, set=s, protocol=p, decoding_seed=d, id=f"{s}-{i}", score=100 * draw.random())  # type: ignore[arg-type]
        for s, p, d in cells
        for i in range(3)
    ]


def test_rows_survive_the_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", grid())
    assert read_rows(tmp_path / "rows.jsonl") == grid()


def test_the_schema_is_version_1() -> None:
    names = ["schema", "run", "set", "id", "decoding_seed", "protocol", "text", "score", "length", "finish_reason"]
    assert list(asdict(ROW)) == names
    assert ROW.schema == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", 2), ("run", ""), ("set", None), ("id", 7), ("decoding_seed", "10"), ("protocol", "greedy"), ("text", None),
        ("score", -0.1), ("score", 100.1), ("score", "50"), ("score", float("nan")), ("length", -1), ("length", 1.5),
        ("finish_reason", "stop"), ("extra", 1),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    row = asdict(ROW) | {field: value}
    with pytest.raises(ValidationError, match=field):
        AnswerRow(**row)
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(asdict(replace(ROW, id="dolly-1"))) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(MgsrError, match=rf"rows\.jsonl, line 2: {field}: .*evaluate that run anew"):
        read_rows(path)


def test_a_missing_field_or_no_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = asdict(ROW)
    del row["length"]
    for text, problem in ((json.dumps(row), "length: "), ("3", "a int, not a JSON object")):
        path.write_text(text + "\n", encoding="utf-8")
        with pytest.raises(MgsrError, match=f"line 1: {problem}"):
            read_rows(path)


def test_rows_are_of_one_run(tmp_path: Path) -> None:
    for rows, found in (([ROW, replace(ROW, run="4567", id="dolly-8")], "0123, 4567"), ([], "no row")):
        with pytest.raises(MgsrError, match=f"one run expected, found {found}"):
            write_rows(tmp_path / "rows.jsonl", rows)


def test_pitfall_22_a_lost_or_repeated_row_is_an_error() -> None:
    rows = grid()
    for broken, count in ((rows[:4] + rows[5:], 0), ([*rows, rows[4]], 2)):
        message = f"set dolly, protocol published, decoding seed 20: {count} rows of dolly-1 instead of 1"
        with pytest.raises(MgsrError, match=message):
            summarise(broken)
    sets = {"dolly": {"rows": 4, "dropped": 0}, "vicuna": {"rows": 3, "dropped": 0}}
    with pytest.raises(MgsrError, match="do not cover the sets"):
        build_summary(rows, sets=sets, timings={})


def test_pitfall_23_scores_do_not_depend_on_the_order_of_rows() -> None:
    rows = grid()
    scores = {(s["set"], s["protocol"], s["decoding_seed"]): s["rouge_l"] for s in summarise(rows)}
    for seed in range(5):
        shuffled = random.Random(seed).sample(rows, len(rows))
        assert {(s["set"], s["protocol"], s["decoding_seed"]): s["rouge_l"] for s in summarise(shuffled)} == scores


def test_pitfall_25_and_27_seeds_and_protocols_have_a_score_each() -> None:
    rows = grid()
    scores = summarise(rows)
    assert [(s["set"], s["protocol"], s["decoding_seed"]) for s in scores] == list(dict.fromkeys(row.cell for row in rows))
    for i, score in enumerate(scores):
        assert score["rouge_l"] == pytest.approx(sum(row.score for row in rows[3 * i : 3 * i + 3]) / 3)
        assert score["rows"] == 3


def test_summary_holds_the_keys_of_the_contract() -> None:
    sets = {"dolly": {"rows": 3, "dropped": 1}, "vicuna": {"rows": 3, "dropped": 0}}
    heldout = {"forward_kl": 0.5, "reverse_kl": 0.25, "tokens": 9, "rows": 3}
    summary = build_summary(grid(), sets=sets, timings={"total": 1.0}, heldout=heldout)
    assert list(summary) == ["schema", "run", "scores", "heldout", "timings", "sets", "digest"]
    assert (summary["run"], summary["sets"], summary["heldout"]) == ("0123", sets, heldout)
    other = build_summary([replace(grid()[0], text="other"), *grid()[1:]], sets=sets, timings={"total": 2.0})
    assert other["digest"] != summary["digest"]


# --- the floor --------------------------------------------------------------------------------------------------------


def record(index: int, category: str, *, question: str | None = None, references: tuple[str, ...] | None = None) -> Record:
    return Record(f"dolly-{index}", question or f"question {index}", "", references or (f"answer {index}", "second"), category)


MIXED = [record(i, "qa" if i % 3 else "list") for i in range(30)] + [record(30, "alone")]


def test_an_answer_is_the_first_reference_of_another_row_of_the_category() -> None:
    by_answer = {one.references[0]: one for one in MIXED}
    answers = borrowed_answers(MIXED)
    for own, answer in zip(MIXED, answers, strict=True):
        lender = by_answer[answer.prediction]
        assert lender != own
        assert answer.same_category == (lender.category == own.category) == (own.category != "alone")
    assert len({answer.prediction for answer in answers}) > 10


def test_borrowing_is_the_same_in_every_process_and_needs_no_torch() -> None:
    program = (
        "import sys; from tests.test_evaluation_rows import MIXED; from mgsr.evaluation.floor import borrowed_answers\n"
        "print([answer.prediction for answer in borrowed_answers(MIXED)], 'torch' in sys.modules)"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{[answer.prediction for answer in borrowed_answers(MIXED)]} False"


def test_a_repeated_row_lends_nothing_to_its_twin() -> None:
    twins = [record(0, "qa", question="same"), record(1, "qa", question="same"), record(2, "list")]
    answers = borrowed_answers(twins)
    assert [answer.prediction for answer in answers[:2]] == ["answer 2", "answer 2"]
    assert not answers[0].same_category
    with pytest.raises(MgsrError, match="dolly-0: its set has no other question"):
        borrowed_answers(twins[:2])


def test_the_floor_is_scored_against_all_references() -> None:
    borrower = record(0, "qa", references=("red", "blue sky"))
    lender = record(1, "qa", references=("blue sea", "red"))
    rows, summary = evaluate_floor({"dolly": [borrower, lender], "vicuna": MIXED})
    assert (rows[0].text, rows[0].score) == ("blue sea", rouge_l("blue sea", ["red", "blue sky"])) == ("blue sea", 50)
    assert {(row.run, row.protocol, row.decoding_seed, row.length) for row in rows} == {("floor", "plain", 0, 0)}
    assert [row.id for row in rows] == [one.id for one in [borrower, lender, *MIXED]]
    assert summary["run"] == "floor"
    assert summary["heldout"] is None
    assert summary["scores"] == summarise(rows)
    assert summary["sets"]["dolly"] == {"rows": 2, "dropped": 0, "borrowed_across_categories": 0}
    assert summary["sets"]["vicuna"] == {"rows": 31, "dropped": 0, "borrowed_across_categories": 1}
    assert evaluate_floor({"dolly": [borrower, lender], "vicuna": MIXED})[1]["digest"] == summary["digest"]


def test_the_floor_of_prepared_records_is_written_within_its_limits(tmp_path: Path) -> None:
    for name in TEST_SETS:
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", [one.to_json() for one in MIXED])
    write_floor(tmp_path / "data", {"vicuna": 5}, tmp_path / "floor")
    rows, expected = evaluate_floor({name: MIXED[:5] if name == "vicuna" else MIXED for name in TEST_SETS})
    assert read_rows(tmp_path / "floor" / "rows.jsonl") == rows
    summary = read_json(tmp_path / "floor" / "summary.json")
    assert summary | {"timings": 0} == expected | {"timings": 0}
