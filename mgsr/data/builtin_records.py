"""Generated records: a training set and five test sets small enough for models that train in seconds.

Three skills separate tiny models: closed facts (40 people x 4 attributes), list work (copy, first, last, reverse) and
questions on a short context. Of the test sets, `dolly` is in-domain; `self_instruct` is rephrased, `vicuna` asks for two facts
at once, `sni` has longer lists and several references, `unni` has its context reordered. The words and sentences stand in
builtin_records.yaml. Every draw comes from a seed named after its set, so the records change with these two files only.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from mgsr.data.records import RawData, RawSet, Record
from mgsr.storage import digest

REVISION = "1"
SIZES = {"train": 4000, "validation": 200, "dolly": 200, "self_instruct": 120, "vicuna": 80, "sni": 120, "unni": 120}
WORDING: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
PEOPLE, ATTRIBUTES = WORDING["people"], WORDING["facts"]
SHORT, LONG = (3, 4), (5, 6)  # words of a list

Rows = Iterator[Record]
Phrasings = Callable[[str, str], list[str]]  # of a person and an attribute: the questions to choose from


def _record(instruction: str, answer: str | tuple[str, ...], category: str, given: str = "") -> Record:
    return Record("", instruction, given, (answer,) if isinstance(answer, str) else answer, category)


def _draw(name: str) -> random.Random:
    """Strings seed `random.Random` through SHA-512: the same draws on every machine."""
    return random.Random(f"mgsr builtin {REVISION} {name}")


def _facts() -> dict[tuple[str, str], str]:
    """The closed world: (person, attribute) -> value."""
    draw = _draw("facts")
    return {(person, name): draw.choice(fact["values"]) for name, fact in ATTRIBUTES.items() for person in PEOPLE}


def _fact_rows(draw: random.Random, phrasings: Phrasings) -> Rows:
    facts = _facts()
    while True:
        person, name = draw.choice(list(facts))
        answer = ATTRIBUTES[name]["answer"].format(person=person, value=facts[person, name])
        yield _record(draw.choice(phrasings(person, name)).format(person=person), answer, "facts")


def _held_out(person: str, name: str) -> list[str]:
    """The one phrasing in four of a fact that training never sees: no test question is a training question."""
    questions = ATTRIBUTES[name]["questions"]
    return [questions[int(digest([person, name]), 16) % len(questions)]]


def _seen(person: str, name: str) -> list[str]:
    return [phrasing for phrasing in ATTRIBUTES[name]["questions"] if phrasing not in _held_out(person, name)]


def _rephrased(person: str, name: str) -> list[str]:
    phrasings: list[str] = ATTRIBUTES[name]["rephrased"]
    return phrasings


def _fact_pairs(draw: random.Random) -> Rows:
    """Two facts of one person in one answer: longer than anything in training."""
    facts = _facts()
    while True:
        person, names = draw.choice(PEOPLE), draw.sample(list(ATTRIBUTES), 2)
        sentences = [ATTRIBUTES[name]["answer"].format(person=person, value=facts[person, name]) for name in names]
        questions = [ATTRIBUTES[name]["questions"][0].format(person=person) for name in names]
        yield _record(" ".join(questions), " ".join(sentences), "facts")


def _sequence(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1]


def _list_rows(draw: random.Random, phrasing: str, lengths: tuple[int, ...], references: tuple[str, ...] = ("answer",)) -> Rows:
    """`phrasing`, `references`: fields of a task in builtin_records.yaml."""
    while True:
        name, words = draw.choice(list(WORDING["lists"])), draw.sample(WORDING["words"], draw.choice(lengths))
        task = WORDING["lists"][name]
        parts = {"words": _sequence(words), "reversed": _sequence(words[::-1]), "first": words[0], "last": words[-1]}
        answers = tuple(task[reference].format(**parts) for reference in references)
        yield _record(draw.choice(task[phrasing]), answers, "lists", ", ".join(words))


def _context_rows(draw: random.Random, phrasing: str, statement: str = "statement") -> Rows:
    """Two statements, then a question on one. `phrasing`, `statement`: fields of builtin_records.yaml."""
    while True:
        words = (PEOPLE, WORDING["colours"], WORDING["things"], WORDING["places"])
        columns = [draw.sample(choices, 2) for choices in words]
        statements = [dict(zip(("person", "colour", "thing", "place"), row, strict=True)) for row in zip(*columns, strict=True)]
        context, asked = WORDING["contexts"][draw.choice(list(WORDING["contexts"]))], draw.choice(statements)
        sentences = [WORDING[statement].format(**slots) for slots in statements]
        given = " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
        question = draw.choice(context[phrasing]).format(**asked)
        yield _record(question, context["answer"].format(**asked), "context", given)


def _all_skills(draw: random.Random, phrasings: Phrasings, phrasing: str = "questions") -> Rows:
    """A fact, a list and a context in turn."""
    sources = _fact_rows(draw, phrasings), _list_rows(draw, phrasing, SHORT), _context_rows(draw, phrasing)
    while True:
        for source in sources:
            yield next(source)


GENERATORS: dict[str, Callable[[random.Random], Rows]] = {
    "train": lambda draw: _all_skills(draw, _seen),
    "validation": lambda draw: _all_skills(draw, _held_out),
    "dolly": lambda draw: _all_skills(draw, _held_out),
    "self_instruct": lambda draw: _all_skills(draw, _rephrased, "rephrased"),
    "vicuna": _fact_pairs,
    "sni": lambda draw: _list_rows(draw, "questions", LONG, ("answer", "variant")),
    "unni": lambda draw: _context_rows(draw, "questions", "reordered_statement"),
}


def _unseen(rows: Rows, seen: set[str]) -> Rows:
    """Rows whose content stands in no earlier set and not before in this one."""
    for row in rows:
        if row.content not in seen:
            seen.add(row.content)
            yield row


def load_builtin() -> RawData:
    """The generated sets; equal on every call and machine."""
    seen: set[str] = set()
    data: RawData = {}
    for name, size in SIZES.items():
        rows = GENERATORS[name](_draw(name))
        # The closed facts have only 480 training questions, so training repeats them; every other set is free of repeats.
        rows = rows if name == "train" else _unseen(rows, seen)
        prefix = f"dolly-{name}" if name in ("train", "validation") else name
        records = [replace(row, id=f"{prefix}-{index}") for index, row in enumerate(islice(rows, size))]
        seen.update(record.content for record in records)
        data[name] = RawSet(records, source="builtin", revision=REVISION)
    return data
