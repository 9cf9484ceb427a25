"""Generated records: deterministic, closed, and no test row in training."""

from mgsr.data.builtin_records import ATTRIBUTES, PEOPLE, SIZES, load_builtin


def test_equal_on_every_call_and_of_the_stated_sizes() -> None:
    data = load_builtin()
    assert data == load_builtin()
    assert {name: len(raw.records) for name, raw in data.items()} == SIZES
    assert len(set(PEOPLE)) == 40 and len(ATTRIBUTES) == 4
    ids = [record.id for raw in data.values() for record in raw.records]
    assert len(ids) == len(set(ids))


def test_no_test_question_is_a_training_question() -> None:
    data = load_builtin()
    trained = {record.question for record in data["train"].records}
    assert not any(record.question in trained for name, raw in data.items() if name != "train" for record in raw.records)


def test_every_fact_of_a_test_is_trained() -> None:
    data = load_builtin()
    trained = {record.response for record in data["train"].records}
    assert all(record.response in trained for record in data["dolly"].records if record.category == "facts")
    assert all(len(record.references) == 2 for record in data["sni"].records)
