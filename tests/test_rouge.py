"""The score equals rouge-score's to the last bit, whatever the text."""

import json
import random
from pathlib import Path

import pytest
from rouge_score.rouge_scorer import RougeScorer

from mgsr.rouge import longest_common_subsequence, rouge_l, rouge_l_many

REAL = Path(__file__).parents[2] / "shared" / "data" / "minillm"
SCORER = RougeScorer(["rougeL"], use_stemmer=True)
WORDS = (
    "the of and a to in is was organization organizations organized relational ponies caresses dying skies news innings "
    "happily generously it's well-known e.g. U.S.A. 3.14 2024 x1 don't \N{LATIN SMALL LETTER E WITH ACUTE}cole na\u00efve "
    "stra\u00dfe \u0130stanbul \u212aelvin \u4f60\u597d \U0001f600 \u043c\u0438\u0440 _under_ <br> \\n \u2028 ..."
).split(" ")


def reference_score(prediction: str, references: list[str]) -> float:
    return 100 * max(SCORER.score(reference, prediction)["rougeL"].fmeasure for reference in references)


def near_copy(words: list[str], draw: random.Random) -> str:
    kept = [word if draw.random() < 0.6 else draw.choice(WORDS) for word in words if draw.random() < 0.8]
    return draw.choice((" ", "\n", ", ")).join(kept)


def test_equals_rouge_score_on_random_text() -> None:
    draw = random.Random(0)
    seen = set()
    for _ in range(300):
        words = draw.choices(WORDS, k=draw.randrange(60))
        references = [near_copy(words, draw) for _ in range(draw.randrange(1, 4))]
        prediction = near_copy(words, draw)
        score = rouge_l(prediction, references)
        assert score == reference_score(prediction, references)
        seen.add(score)
    assert len(seen) > 100


def test_equals_rouge_score_on_characters_of_all_planes() -> None:
    draw = random.Random(1)
    for _ in range(300):
        alphabet = [chr(draw.choice((draw.randrange(32, 127), draw.randrange(0x20, 0xD800)))) for _ in range(12)]
        alphabet += [" ", "\n", "\0", "\N{MATHEMATICAL BOLD CAPITAL A}", "\N{GRINNING FACE}"]
        prediction, reference = ("".join(draw.choices(alphabet, k=draw.randrange(80))) for _ in range(2))
        assert rouge_l(prediction, [reference]) == reference_score(prediction, [reference])


@pytest.mark.parametrize("test_set", ["dolly", "self-inst", "vicuna", "sinst/11_", "uinst/11_"])
def test_equals_rouge_score_on_real_records(test_set: str) -> None:
    path = REAL / test_set / "valid.jsonl"
    if not path.is_file():
        pytest.skip(f"real records are not here: {test_set}")
    with path.open(encoding="utf-8") as file:
        outputs = [json.loads(line)["output"] for line, _ in zip(file, range(40), strict=False)]
    references = [output if isinstance(output, list) else [output] for output in outputs]
    draw = random.Random(2)
    for row in references:
        predictions = [near_copy(row[0].split()[:150], draw), draw.choice(references)[0][:1000]]
        shortened = [text[:1000] for text in row[:3]]
        for prediction in predictions:
            assert rouge_l(prediction, shortened) == reference_score(prediction, shortened)


@pytest.mark.parametrize("empty", ["", " \n", "\u4f60\u597d", "?!"])
def test_text_without_words_scores_zero(empty: str) -> None:
    assert rouge_l(empty, ["a word"]) == rouge_l("a word", [empty]) == rouge_l(empty, [empty]) == 0
    assert rouge_l("a word", [empty, "A word!"]) == 100


def test_subsequence_against_the_table() -> None:
    draw = random.Random(3)
    for _ in range(200):
        first, second = (draw.choices("abcd", k=draw.randrange(100)) for _ in range(2))
        table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
        for i, a in enumerate(first):
            for j, b in enumerate(second):
                table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
        assert longest_common_subsequence(first, second) == table[-1][-1]


def test_known_value() -> None:
    # words the/quick/dog against the/quick/brown/dog: 3 in common, precision 1, recall 3/4
    assert rouge_l("the quick dogs", ["The quick, brown dog."]) == pytest.approx(600 / 7)


@pytest.mark.parametrize("references", ["one text", [], ()])
def test_references_are_a_list_of_texts(references: list[str]) -> None:
    with pytest.raises(ValueError, match="non-empty list"):
        rouge_l("one text", references)


def test_pitfall_22_unequal_lists_are_an_error() -> None:
    assert rouge_l_many(["a", "b"], [["a"], ["c", "b"]]) == [100, 100]
    for predictions, references in ((["a"], [["a"], ["b"]]), (["a", "b"], [["a"]])):
        with pytest.raises(ValueError, match=f"{len(predictions)} predictions for {len(references)} rows"):
            rouge_l_many(predictions, references)
