"""Rows keep what they were given or refuse it; summaries keep seeds and protocols apart; the floor borrows from others."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mgsr.config.families import TinyModel
from mgsr.config.specs import FloorSpec, ModelSpec, spec_digest
from mgsr.data.records import Record
from mgsr.errors import MgsrError
from mgsr.evaluation.answers import Answer, Heldout, read_answers
from mgsr.evaluation.floor import evaluate_floor, lenders, write_floor
from mgsr.evaluation.scoring import AnswerRow, Part, build_summary, score_answers, summarise, write_evaluation
from mgsr.metrics import load_metrics
from mgsr.rouge import rouge_l
from mgsr.storage import read_json, seal_folder, write_json, write_jsonl
from tests.records_support import read_rows

ROW = AnswerRow(
    run="0123", set="dolly", id="dolly-7", decoding_seed=10, protocol="plain", text="caf\u00e9\u2028\n\"x\"",
    scores={"rouge_l": 1 / 3, "words:count": 2.0}, precision=50.0, recall=25.0, length=4, finish_reason="eos",
)  # fmt: skip


def floor_spec(**given: Any) -> FloorSpec:
    limits = {"max_length": 200, "max_prompt_length": 150, "max_new_tokens": 20}
    facts = {"test_sets": {}, "rows": {}, "metrics": (), "custom_code": {}, "code": "", "base_model": "tiny", **limits}
    return FloorSpec.model_validate(facts | given)


def grid() -> list[AnswerRow]:
    """Two sets x two protocols x two decoding seeds x three examples, each with its own scores."""
    parts = [(s, p, d) for s in ("dolly", "vicuna") for p in ("published", "plain") for d in (10, 20)]
    draw = random.Random(0)
    scores = [{"rouge_l": 100 * draw.random(), "words:count": draw.gauss(0, 1)} for _ in range(3 * len(parts))]
    return [
        replace(ROW, set=s, protocol=p, decoding_seed=d, id=f"{s}-{i}", scores=scores.pop())  # type: ignore[arg-type]
        for s, p, d in parts
        for i in range(3)
    ]


def evaluation(folder: Path, rows: list[AnswerRow]) -> Path:
    """Written as every evaluation is; gives rows.jsonl."""
    spec = floor_spec()
    counts = {row.set: {"rows": len({other.id for other in rows if other.set == row.set})} for row in rows}
    write_evaluation(folder, spec, rows, build_summary(rows, sets=counts, timings={}))
    return folder / "rows.jsonl"


def test_rows_survive_the_file(tmp_path: Path) -> None:
    assert read_rows(evaluation(tmp_path / "evaluation", grid())) == grid()


def test_the_schema_is_version_3() -> None:
    names = ["schema", "run", "set", "id", "decoding_seed", "protocol", "text", "scores", "precision", "recall", "length",
             "finish_reason"]  # fmt: skip
    assert list(asdict(ROW)) == names
    assert ROW.schema == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""), ("id", 7), ("text", None), ("length", -1), ("length", 1.5), ("length", "3"), ("finish_reason", "stop"),
        ("extra", 1),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    answer = asdict(Answer(id="dolly-1", text="red", length=1, finish_reason="eos"))
    with pytest.raises(ValidationError, match=field):
        Answer(**answer | {field: value})
    write_jsonl(tmp_path / "answers.jsonl", [answer, answer | {field: value}])
    seal_folder(tmp_path)
    with pytest.raises(MgsrError, match=rf"answers\.jsonl, line 2: {field}: .*delete its folder"):
        read_answers(tmp_path, ["dolly-1", "dolly-2"])


def test_a_missing_field_or_no_object_is_refused(tmp_path: Path) -> None:
    for value, problem in (
        ({"id": "dolly-1", "text": "", "finish_reason": "eos"}, "length: "),
        (3, "a int, not a JSON object"),
    ):
        write_jsonl(tmp_path / "answers.jsonl", [value])
        seal_folder(tmp_path)
        with pytest.raises(MgsrError, match=f"line 1: {problem}"):
            read_answers(tmp_path, ["dolly-1"])


def test_pitfall_22_a_lost_or_repeated_row_is_an_error() -> None:
    rows = grid()
    for broken, count in ((rows[:4] + rows[5:], 0), ([*rows, rows[4]], 2)):
        message = f"set dolly, protocol published, decoding seed 20: {count} rows of dolly-1 instead of 1"
        with pytest.raises(MgsrError, match=message):
            summarise(broken)
    sets = {"dolly": {"rows": 4, "dropped": 0}, "vicuna": {"rows": 3, "dropped": 0}}
    for some in (rows, []):
        with pytest.raises(MgsrError, match="do not cover the sets"):
            build_summary(some, sets=sets, timings={})


def test_pitfall_23_scores_do_not_depend_on_the_order_of_rows() -> None:
    rows = grid()
    scores = {(s["set"], s["protocol"], s["decoding_seed"]): s["metrics"] for s in summarise(rows)}
    for seed in range(5):
        shuffled = random.Random(seed).sample(rows, len(rows))
        assert {(s["set"], s["protocol"], s["decoding_seed"]): s["metrics"] for s in summarise(shuffled)} == scores


def test_pitfall_25_and_27_seeds_and_protocols_have_a_score_each() -> None:
    rows = grid()
    scores = summarise(rows)
    assert [(s["set"], s["protocol"], s["decoding_seed"]) for s in scores] == list(dict.fromkeys(row.part for row in rows))
    for i, score in enumerate(scores):
        values = {name: [row.scores[name] for row in rows[3 * i : 3 * i + 3]] for name in ROW.scores}
        assert score["metrics"] == pytest.approx({name: sum(three) / 3 for name, three in values.items()})
        assert score["rows"] == 3


def test_a_summary_says_how_long_answers_are_and_what_a_limit_cut() -> None:
    rows = [replace(ROW, id=str(i), length=i, precision=10.0 * i, recall=5.0, finish_reason="length" if i < 1 else "eos")
            for i in range(4)]  # fmt: skip
    assert summarise(rows)[0]["answers"] == {"length": 1.5, "precision": 15.0, "recall": 5.0, "cut": 0.25}


def test_precision_and_recall_are_those_of_the_reference_that_gives_the_score() -> None:
    one = record(0, "qa", references=("a b c d", "a b x y z w"))
    part: Part = ("dolly", "plain", 10)
    (row,) = score_answers("0123", part, [one], [Answer(id=one.id, text="a b", length=2, finish_reason="eos")], {})
    assert (row.precision, row.recall) == (100.0, 50.0)


def test_summary_holds_the_keys_of_the_contract() -> None:
    sets = {"dolly": {"rows": 3, "dropped": 1}, "vicuna": {"rows": 3, "dropped": 0}}
    heldout = Heldout(forward_kl=0.5, reverse_kl=0.25, tokens=9, rows=3, by_prompt={"a": [4.5, 2.25, 9.0]})
    summary = build_summary(grid(), sets=sets, timings={"total": 1.0}, heldout=heldout)
    assert list(summary) == ["schema", "run", "scores", "heldout", "timings", "sets", "digest"]
    assert [list(score) for score in summary["scores"]] == 8 * [
        ["set", "protocol", "decoding_seed", "rows", "metrics", "answers"]
    ]
    assert (summary["schema"], summary["run"], summary["sets"], summary["heldout"]) == (3, "0123", sets, heldout.means)
    other = build_summary([replace(grid()[0], text="other"), *grid()[1:]], sets=sets, timings={"total": 2.0})
    assert other["digest"] != summary["digest"]


def test_a_dropped_prompt_has_no_row() -> None:
    records = [record(i, "qa") for i in range(3)]
    answers = [Answer(id=one.id, text="second", length=2, finish_reason="eos") for one in records]
    answers[1] = Answer(id=records[1].id, text="", length=0, finish_reason="dropped")
    part: Part = ("dolly", "plain", 10)
    rows = score_answers("0123", part, records, answers, load_metrics(["rouge_l"]))
    assert [(row.id, row.part, row.scores) for row in rows] == [(f"dolly-{i}", part, {"rouge_l": 100}) for i in (0, 2)]
    with pytest.raises(ValueError):
        score_answers("0123", part, records, answers[1:], {})


# --- the floor --------------------------------------------------------------------------------------------------------


def record(index: int, category: str, *, question: str | None = None, references: tuple[str, ...] | None = None) -> Record:
    return Record(f"dolly-{index}", question or f"question {index}", "", references or (f"answer {index}", "second"), category)


class Words:
    """A tokenizer of words."""

    eos_token_id, bos_token_id, all_special_ids = 0, None, (0,)

    def __init__(self) -> None:
        self.words = ["<end>"]

    def __call__(self, text: Any, *, add_special_tokens: bool) -> Any:
        if isinstance(text, list):
            return {"input_ids": [self(one, add_special_tokens=add_special_tokens)["input_ids"] for one in text]}
        self.words += [word for word in dict.fromkeys(text.split()) if word not in self.words]
        return {"input_ids": [self.words.index(word) for word in text.split()]}

    def decode(self, token_ids: Any, *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool = False) -> Any:
        return " ".join(self.words[i] for i in token_ids)


MIXED = [record(i, "qa" if i % 3 else "list") for i in range(30)] + [record(30, "alone")]


def test_an_answer_is_the_first_reference_of_another_row_of_the_category() -> None:
    chosen = lenders(MIXED)
    for borrower, lender in zip(MIXED, chosen, strict=True):
        assert lender != borrower and (lender.category == borrower.category) == (borrower.category != "alone")
    assert len({lender.id for lender in chosen}) > 10
    answers = {row.id: row.text for row in evaluate_floor({"dolly": MIXED}, {}, Words(), floor_spec())[0]}
    assert list(answers.values()) == [lender.references[0] for lender in chosen]


def test_borrowing_is_the_same_in_every_process_and_needs_no_torch() -> None:
    program = (
        "import sys; from tests.test_evaluation_rows import MIXED; from mgsr.evaluation.floor import lenders\n"
        "print([lender.id for lender in lenders(MIXED)], 'torch' in sys.modules)"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{[lender.id for lender in lenders(MIXED)]} False"


def test_a_repeated_row_lends_nothing_to_its_twin() -> None:
    twins = [record(0, "qa", question="same"), record(1, "qa", question="same"), record(2, "list")]
    assert lenders(twins)[:2] == [twins[2], twins[2]]
    with pytest.raises(MgsrError, match="dolly-0: its set has no other question"):
        lenders(twins[:2])


def test_the_floor_is_scored_against_all_references() -> None:
    borrower = record(0, "qa", references=("red", "blue sky"))
    lender = record(1, "qa", references=("blue sea", "red"))
    metrics = load_metrics(["rouge_l", "mgsr.examples.word_metrics:answer_length"])
    rows, sets = evaluate_floor({"dolly": [borrower, lender], "vicuna": MIXED}, metrics, Words(), floor_spec())
    assert rows[0].text == "blue sea" and list(rows[0].scores.values()) == [rouge_l("blue sea", ["red", "blue sky"]), 2]
    assert rows[0].scores["rouge_l"] == 50
    assert {(row.run, row.protocol, row.decoding_seed, row.length) for row in rows} == {
        ("floor", "plain", 0, 2),
        ("floor", "plain", 0, 3),
    }
    assert [row.id for row in rows] == [one.id for one in [borrower, lender, *MIXED]]
    assert sets["dolly"] == {"rows": 2, "dropped": 0, "borrowed_across_categories": 0}
    assert sets["vicuna"] == {"rows": 31, "dropped": 0, "borrowed_across_categories": 1}


def test_what_is_borrowed_is_cut_as_an_answer_is_and_long_prompts_are_dropped() -> None:
    """Three words and an end: four tokens. A limit of three cuts the end, so the answer is whole and yet cut."""
    long = record(0, "qa", question="why " * 200)
    records = [long, *(record(i, "qa", references=("one two three",)) for i in (1, 2))]
    for limit, text, length, reason in (
        (4, "one two three", 4, "eos"),
        (3, "one two three", 3, "length"),
        (2, "one two", 2, "length"),
    ):
        rows, sets = evaluate_floor({"dolly": records}, {}, Words(), floor_spec(max_new_tokens=limit))
        assert sets["dolly"] == {"rows": 2, "dropped": 1, "borrowed_across_categories": 0}
        borrowed = [row for row in rows if row.text != "answer 0"]
        assert {(row.text, row.length, row.finish_reason) for row in borrowed} == {(text, length, reason)}


def test_the_floor_of_prepared_records_is_written_within_its_limits(tmp_path: Path) -> None:
    from mgsr.models.build import build_model  # torch, which a test above must not have
    from mgsr.models.loading import load_tokenizer

    for folder in ("0123", "4567"):
        write_jsonl(tmp_path / "test_sets" / folder / "records.jsonl", [one.to_json() for one in MIXED])
        seal_folder(tmp_path / "test_sets" / folder)
    build_model(
        ModelSpec(model=TinyModel(builder="tiny", layers=1, width=16, heads=2), seed=0, code=""), tmp_path / "models/tiny"
    )
    sets = {"test_sets": {"dolly": "0123", "my_set": "4567"}, "rows": {"dolly": None, "my_set": 5}}
    spec = floor_spec(**sets, metrics=("rouge_l",))
    name = spec_digest(spec)
    write_json(tmp_path / "specs" / f"{name}.json", spec.model_dump(mode="json"))
    write_floor(tmp_path, name)
    rows, sets = evaluate_floor(
        {"dolly": MIXED, "my_set": MIXED[:5]}, load_metrics(spec.metrics), load_tokenizer(tmp_path / "models/tiny"), spec
    )
    folder = tmp_path / "evaluations" / name
    assert read_rows(folder / "rows.jsonl") == rows
    summary = read_json(folder / "summary.json")
    assert summary | {"timings": {}} == build_summary(rows, sets=sets, timings={})
    assert summary["run"] == "floor" and summary["heldout"] is None and summary["timings"]["total"] >= 0
    assert FloorSpec.model_validate(read_json(folder / "spec.json")) == spec
