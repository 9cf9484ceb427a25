"""All cells of an evaluation, once each, the same on every call."""

from pathlib import Path

import pytest

from mgsr.config.base import TEST_SETS
from mgsr.data.examples import encode_examples
from mgsr.data.prompts import format_prompt
from mgsr.data.records import load_records
from mgsr.evaluation import evaluator as run_module
from mgsr.evaluation.answers import read_rows
from mgsr.evaluation.evaluator import Evaluator, evaluate
from mgsr.models.loading import load_tokenizer
from mgsr.storage import read_json
from mgsr.training.trainer import train
from tests.training_support import DATA, evaluation_spec, make_root, metrics, run_spec


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_root(tmp_path_factory.mktemp("results"))
    train("run", run_spec(teacher_run=None), root)
    evaluate("first", evaluation_spec("run"), root)
    return root


def test_every_set_protocol_and_seed_is_there(root: Path) -> None:
    rows = read_rows(root / "evaluations/first/rows.jsonl")
    cells = {(row.set, row.protocol, row.decoding_seed) for row in rows}
    assert cells == {(s, p, d) for s in TEST_SETS for p in ("published", "plain") for d in (10, 20)}
    assert len(rows) == 3 * len(cells)
    summary = read_json(root / "evaluations/first/summary.json")
    assert summary["heldout"]["forward_kl"] > 0 and summary["heldout"]["rows"] == 3
    assert "total" in summary["timings"]


def test_decoding_seeds_differ_and_repeats_do_not(root: Path) -> None:
    evaluate("second", evaluation_spec("run"), root)
    first, second = ((root / f"evaluations/{name}/rows.jsonl").read_bytes() for name in ("first", "second"))
    assert first == second
    texts: dict[int, list[str]] = {10: [], 20: []}
    for row in read_rows(root / "evaluations/first/rows.jsonl"):
        texts[row.decoding_seed].append(row.text)
    assert texts[10] != texts[20]


def test_an_interrupted_evaluation_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, answered = Evaluator.answer, []

    def interrupted(self: Evaluator, *arguments: object) -> object:
        answered.append(arguments[0])
        if len(answered) == 6:
            raise KeyboardInterrupt
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module.Evaluator, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate("third", evaluation_spec("run"), root)
    evaluate("third", evaluation_spec("run"), root)
    assert len(answered) == 6 + 20 - 5
    first, third = ((root / f"evaluations/{name}/rows.jsonl").read_bytes() for name in ("first", "third"))
    assert first == third


def test_pitfall_24_validation_decodes_as_the_final_evaluation(root: Path) -> None:
    """The same rows, put into a test set, get the same mean score from both."""
    records = load_records(root / "data/records", "validation")[:3]
    evaluator = Evaluator(evaluation_spec("run"), root)
    tokenizer = load_tokenizer(root / "runs/run/model")
    examples, _ = encode_examples(records, tokenizer, DATA)
    spec = evaluation_spec("run")
    evaluator.spec = spec.model_copy(update={"evaluation": spec.evaluation.model_copy(update={"max_new_tokens": 10})})
    rows = evaluator.answer("dolly", examples, "plain", 10)
    best = read_json(root / "runs/run/training.json")["validation"]
    assert sum(row.score for row in rows) / 3 == pytest.approx(best["rouge_l"])
    assert best["rouge_l"] in [
        pytest.approx(line["rouge_l"]) for line in metrics(root, "run", "validation") if "rouge_l" in line
    ]


def test_pitfall_5_training_and_evaluation_prompts_have_the_same_tokens(root: Path) -> None:
    tokenizer = load_tokenizer(root / "runs/run/model")
    records = load_records(root / "test_sets/dolly", "records")
    for record, example in zip(records, encode_examples(records, tokenizer, DATA)[0], strict=True):
        assert list(example.prompt_ids) == tokenizer(format_prompt(record), add_special_tokens=False)["input_ids"]
        assert example.response_ids[-1] == tokenizer.eos_token_id
