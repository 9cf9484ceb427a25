"""All parts of an evaluation, once each, the same on every call; what is kept is not made twice."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgsr.config.specs import EvaluationSpec, spec_digest
from mgsr.data.encoding import encode_examples
from mgsr.data.prompts import format_prompt
from mgsr.data.records import load_records
from mgsr.errors import MgsrError
from mgsr.evaluation.answering import Answerer
from mgsr.evaluation.answers import ANSWERS, HELDOUT
from mgsr.evaluation.evaluator import answers_spec, heldout_spec
from mgsr.models.loading import load_tokenizer
from mgsr.storage import read_json, seal_folder, write_json, write_jsonl
from mgsr.training.trainer import train
from tests.records_support import read_rows
from tests.runs_support import recorded
from tests.training_support import DATA, TEST_SETS, evaluated, evaluation_spec, metrics, plant_spec, record_of, run_spec

Damage = Callable[[list[str]], list[str]]  # of lines
LENGTH = "mgsr.examples.word_metrics:answer_length"


@pytest.fixture(scope="module")
def root(root: Path) -> Path:
    train("run", run_spec(teacher_run=None), root)
    return root


@pytest.fixture(scope="module")
def first(root: Path) -> Path:
    return evaluated(root, evaluation_spec("run"))


@pytest.fixture
def made(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the model is asked for from here on: test set, protocol and seed of answers, or the held-out divergence."""
    asked: list[tuple[Any, ...]] = []
    part = attrgetter("test_set", "protocol", "decoding_seed")
    recorded(monkeypatch, Answerer, "answers", lambda given, _: asked.append(part(given[2])))
    recorded(monkeypatch, Answerer, "heldout", lambda given, _: asked.append((given[2].test_set,)))
    return asked


def with_evaluation(spec: EvaluationSpec, **changes: Any) -> EvaluationSpec:
    return spec.model_copy(update={"evaluation": spec.evaluation.model_copy(update=changes)})


def kept(root: Path, spec: EvaluationSpec, *part: Any) -> Path:
    return root / f"answers/{spec_digest(answers_spec(spec, part))}/{ANSWERS}"  # type: ignore[arg-type]


def test_every_set_protocol_and_seed_is_there(root: Path, first: Path) -> None:
    rows = read_rows(first / "rows.jsonl")
    parts = {row.part for row in rows}
    assert parts == {(s, p, d) for s in TEST_SETS for p in ("published", "plain") for d in (10, 20)}
    assert len(rows) == 3 * len(parts)
    summary = read_json(first / "summary.json")
    assert summary["heldout"]["forward_kl"] > 0 and summary["heldout"]["rows"] == 3
    sums = np.array(list(read_json(first / "heldout.json").values()))
    forward, reverse, tokens = sums.sum(axis=0)
    means = {"forward_kl": pytest.approx(forward / tokens), "reverse_kl": pytest.approx(reverse / tokens)}
    assert summary["heldout"] == {**means, "tokens": tokens, "rows": len(sums)}
    assert list(summary["timings"]) == [*sorted(TEST_SETS), "heldout", "total"]
    assert EvaluationSpec.model_validate(read_json(first / "spec.json")) == evaluation_spec("run")


def test_decoding_seeds_differ_and_repeats_do_not(root: Path, first: Path, made: list[Any]) -> None:
    again = evaluated(root, evaluation_spec("run", answer_code="other"))
    assert len(made) == 21
    assert (first / "rows.jsonl").read_bytes() == (again / "rows.jsonl").read_bytes()
    texts: dict[int, list[str]] = {10: [], 20: []}
    for row in read_rows(first / "rows.jsonl"):
        texts[row.decoding_seed].append(row.text)
    assert texts[10] != texts[20]


def test_a_metric_added_later_decodes_nothing_and_loads_no_model(root: Path, first: Path) -> None:
    """In a process of its own, where torch would be seen."""
    name = plant_spec(root, evaluation_spec("run", metrics=("rouge_l", LENGTH)))
    code = f"""if True:
        import sys
        from pathlib import Path
        from mgsr.evaluation.evaluator import evaluate
        evaluate(Path({str(root)!r}), {name!r})
        print(*({{"torch", "transformers", "mgsr.evaluation.answering"}} & sys.modules.keys()))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
    before, after = read_rows(first / "rows.jsonl"), read_rows(root / f"evaluations/{name}/rows.jsonl")
    assert [(row.text, row.scores["rouge_l"]) for row in before] == [(row.text, row.scores["rouge_l"]) for row in after]
    assert all(row.scores[LENGTH] == len(row.text.split()) for row in after)
    for score in read_json(root / f"evaluations/{name}/summary.json")["scores"]:
        lengths = [row.scores[LENGTH] for row in after if row.part == (score["set"], score["protocol"], score["decoding_seed"])]
        assert list(score["metrics"]) == ["rouge_l", LENGTH] and score["metrics"][LENGTH] == sum(lengths) / 3


def test_what_is_added_is_decoded_alone(root: Path, first: Path, made: list[Any]) -> None:
    spec = evaluation_spec("run")
    records = [one.to_json() for one in load_records(root / "test_sets/vicuna", "records")[:2]]
    write_jsonl(root / "test_sets/of-my-own/records.jsonl", records)
    seal_folder(root / "test_sets/of-my-own")
    test_sets, rows = spec.test_sets | {"mine": "of-my-own"}, spec.rows | {"mine": None}
    larger = evaluated(root, spec.model_copy(update={"test_sets": test_sets, "rows": rows}))
    assert made == [("of-my-own", protocol, seed) for protocol in ("published", "plain") for seed in (10, 20)]
    assert read_json(larger / "summary.json")["sets"]["mine"] == {"rows": 2, "dropped": 0}
    before = read_rows(first / "rows.jsonl")
    assert [row for row in read_rows(larger / "rows.jsonl") if row.set != "mine"] == before
    made.clear()
    evaluated(root, with_evaluation(spec, decoding_seeds=(30, 10), protocols=("plain",)))
    assert made == [(test_set, "plain", 30) for test_set in sorted(TEST_SETS)]
    made.clear()
    evaluated(root, with_evaluation(spec, heldout_rows=2))
    assert made == [("dolly",)]


def test_an_evaluation_without_teacher_or_with_fewer_sets_takes_its_answers_from_the_kept(root: Path, first: Path) -> None:
    def dates() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for folder in ("answers", "heldout") for path in (root / folder).iterdir()}

    before = dates()
    spec = evaluation_spec("run", teacher_run=None, test_sets={"sni": "sni"}, rows={"sni": 3})
    assert read_json(evaluated(root, spec) / "summary.json")["heldout"] is None
    assert dates() == before


def test_an_interrupted_evaluation_goes_on(root: Path, first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, answered = Answerer.answers, []

    def interrupted(self: Answerer, *arguments: Any) -> Any:
        answered.append(arguments)
        if len(answered) == 6:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(Answerer, "answers", interrupted)
    spec = evaluation_spec("run", answer_code="interrupted")
    with pytest.raises(KeyboardInterrupt):
        evaluated(root, spec)
    third = evaluated(root, spec)
    assert len(answered) == 6 + 20 - 5
    assert (first / "rows.jsonl").read_bytes() == (third / "rows.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda lines: lines[:2], "its 2 lines are not one for each of the 3 records"),
        (lambda lines: [lines[0], lines[2], lines[1]], "its 3 lines are not one for each"),
        (lambda lines: [lines[0], lines[0], lines[2]], "its 3 lines are not one for each"),
        (lambda lines: [*lines[:2], lines[2][:20]], "line 3: not valid JSON"),
        (lambda lines: [lines[0].replace('"length": ', '"length": -'), *lines[1:]], "line 1: length: "),
    ],
)
def test_damaged_answers_are_refused_by_name(root: Path, first: Path, damage: Damage, problem: str, made: list[Any]) -> None:
    spec = evaluation_spec("run")
    path = kept(root, spec, "dolly", "plain", 10)
    text = path.read_text()
    path.write_text("\n".join(damage(text.splitlines())))
    with pytest.raises(MgsrError, match=rf"{path.parent.name} is damaged: {ANSWERS} has other contents; delete the folder"):
        evaluated(root, spec)
    seal_folder(path.parent)
    with pytest.raises(MgsrError, match=rf"{path.name}.*{problem}.*"):
        evaluated(root, spec)
    shutil.rmtree(path.parent)
    evaluated(root, spec)
    assert path.read_text() == text and made == [("dolly", "plain", 10)]


def test_a_damaged_divergence_is_refused_by_name(root: Path, first: Path) -> None:
    spec = evaluation_spec("run")
    heldout = heldout_spec(spec)
    assert heldout is not None
    path = root / f"heldout/{spec_digest(heldout)}/{HELDOUT}"
    text = path.read_text()
    write_json(path, read_json(path) | {"reverse_kl": None})
    with pytest.raises(MgsrError, match=rf"is damaged: {HELDOUT} has other contents"):
        evaluated(root, spec)
    seal_folder(path.parent)
    with pytest.raises(MgsrError, match=rf"{path.name}: reverse_kl: .*delete its folder"):
        evaluated(root, spec)
    path.write_text(text)
    seal_folder(path.parent)


def test_the_kept_files_can_be_looked_up(root: Path, first: Path) -> None:
    """Each has its spec, which tells the part that it is."""
    spec = evaluation_spec("run")
    for test_set in TEST_SETS:
        told = read_json(root / "specs" / f"{kept(root, spec, test_set, 'published', 20).parent.name}.json")
        assert (told["test_set"], told["protocol"], told["decoding_seed"], told["run"]) == (test_set, "published", 20, "run")


def test_dropped_prompts_are_counted_and_have_no_row(root: Path) -> None:
    tokenizer = load_tokenizer(root / "runs/run/model")
    records = load_records(root / "test_sets/dolly", "records")[:3]
    lengths = sorted(len(tokenizer(format_prompt(record))["input_ids"]) for record in records)
    assert lengths[0] < lengths[2]
    spec = evaluation_spec("run", max_prompt_length=lengths[2] - 1)
    folder = evaluated(root, spec)
    counts = read_json(folder / "summary.json")["sets"]["dolly"]
    expected, _ = encode_examples(records, tokenizer, spec)
    assert counts == {"rows": len(expected), "dropped": 3 - len(expected)} and 0 < len(expected) < 3
    rows = [row for row in read_rows(folder / "rows.jsonl") if row.part == ("dolly", "plain", 10)]
    assert [row.id for row in rows] == [example.id for example in expected]
    before = (folder / "rows.jsonl").read_bytes()
    assert (evaluated(root, spec) / "rows.jsonl").read_bytes() == before


def test_pitfall_24_validation_decodes_as_the_final_evaluation(root: Path) -> None:
    """The same rows, put into a test set, get the same mean score from both."""
    records = load_records(root / "data/records", "validation")[:3]
    write_jsonl(root / "test_sets/validation/records.jsonl", [record.to_json() for record in records])
    seal_folder(root / "test_sets/validation")
    spec = evaluation_spec("run", teacher_run=None, test_sets={"v": "validation"}, rows={"v": None})
    folder = evaluated(root, with_evaluation(spec, max_new_tokens=10, protocols=("plain",), decoding_seeds=(10,)))
    (score,) = read_json(folder / "summary.json")["scores"]
    best = record_of(root, "run")["validation"]
    assert score["metrics"]["rouge_l"] == pytest.approx(best["rouge_l"])
    lines = metrics(root, "run", "validation")
    assert best["rouge_l"] in [pytest.approx(line["rouge_l"]) for line in lines if "rouge_l" in line]


def test_pitfall_5_training_and_evaluation_prompts_have_the_same_tokens(root: Path) -> None:
    tokenizer = load_tokenizer(root / "runs/run/model")
    records = load_records(root / "test_sets/dolly", "records")
    for record, example in zip(records, encode_examples(records, tokenizer, DATA)[0], strict=True):
        assert list(example.prompt_ids) == tokenizer(format_prompt(record), add_special_tokens=False)["input_ids"]
        assert example.response_ids[-1] == tokenizer.eos_token_id
