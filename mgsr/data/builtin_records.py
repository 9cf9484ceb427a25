"""Generated records: a training set and five test sets small enough for models that train in seconds.

Three skills separate tiny models: closed facts (40 people x 4 attributes), list work (copy, first, last, reverse) and
questions on a short context. Of the test sets, `dolly` is in-domain; `self_instruct` is rephrased, `vicuna` asks for two facts
at once, `sni` has longer lists and several references, `unni` has its context reordered. Every draw comes from a seed named
after its set, so the records never change with anything but this file.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from mgsr.data.records import RawData, RawSet, Record
from mgsr.storage import digest

REVISION = "1"
SIZES = {"train": 4000, "validation": 200, "dolly": 200, "self_instruct": 120, "vicuna": 80, "sni": 120, "unni": 120}

PEOPLE = (
    "Ada Alan Amy Anna Ben Bob Carl Clara Dan Dora Ed Ella Emma Eric Eva Fay Finn Fred Gina Hal "
    "Ida Ivan Jack Jane Joe Kate Ken Leo Lily Luke Mia Nina Noah Olga Otto Paul Rose Sam Tom Vera"
).split()
JOBS = "baker teacher farmer doctor painter driver tailor singer pilot nurse".split()
TOWNS = "Rome Paris London Cairo Lima Oslo Delhi Berlin Madrid Tokyo".split()
PETS = "cat dog horse parrot rabbit turtle goat mouse duck pony".split()
FOODS = "soup bread rice cheese fish cake corn salad honey pasta".split()
ATTRIBUTES: dict[str, list[str]] = {"job": JOBS, "town": TOWNS, "pet": PETS, "food": FOODS}
THINGS = "drum kite lamp book ring clock chair shoe coat key bell map".split()
COLOURS = "red green blue black white brown".split()
PLACES = ["in the barn", "under the bridge", "on the roof", "behind the school", "near the river", "at the market"]
WORDS = "apple bird boat cloud door fire glass hat ice king lion moon nest road sand tree wind wolf".split()

FACT_ANSWERS = {
    "job": "{person} works as a {value} and likes the work very much.",
    "town": "The home of {person} is a small house in the city of {value}.",
    "pet": "A young {value} lives with {person} and sleeps by the door.",
    "food": "Every evening {person} cooks a large plate of {value} for the family.",
}
FACT_QUESTIONS = {
    "job": [
        "What is the job of {person}?",
        "What work does {person} do?",
        "Name the job that {person} has.",
        "Tell me how {person} earns money.",
    ],
    "town": [
        "Where does {person} live?",
        "In which city is the home of {person}?",
        "Name the city of {person}.",
        "Tell me where {person} lives.",
    ],
    "pet": [
        "Which pet does {person} have?",
        "What animal lives with {person}?",
        "Name the pet of {person}.",
        "Tell me which animal {person} keeps.",
    ],
    "food": [
        "What does {person} cook?",
        "Which food does {person} make?",
        "Name the food that {person} cooks.",
        "Tell me what {person} makes to eat.",
    ],
}
FACT_REPHRASED = {
    "job": ["Do you know what work {person} does?", "Please name the job of {person}."],
    "town": ["Do you know where {person} lives?", "Please name the city where {person} lives."],
    "pet": ["Do you know which pet {person} has?", "Please name the animal that lives with {person}."],
    "food": ["Do you know what {person} cooks?", "Please name the food that {person} makes."],
}
LIST_ANSWERS = {
    "copy": "The list in the same order is {words}.",
    "first": "The word at the start of this list is {first}.",
    "last": "This list ends with the word {last}.",
    "reverse": "From back to front we read {reversed}.",
}
LIST_VARIANTS = {
    "copy": "The same list is {words}.",
    "first": "The first word of the list is {first}.",
    "last": "The last word of the list is {last}.",
    "reverse": "The list in reverse order is {reversed}.",
}
LIST_TASKS = {
    "copy": ["Copy the list.", "Write the list again."],
    "first": ["Give the first word of the list.", "Which word starts the list?"],
    "last": ["Give the last word of the list.", "Which word ends the list?"],
    "reverse": ["Reverse the list.", "Write the list from the end."],
}
LIST_REPHRASED = {
    "copy": ["Please copy this list again.", "Write the same list."],
    "first": ["Which word is first?", "Please give the word that starts this list."],
    "last": ["Which word is last?", "Please give the word that ends this list."],
    "reverse": ["Please reverse this list.", "Write this list in reverse."],
}
CONTEXT_ANSWERS = {
    "place": "You can find the {thing} {place}.",
    "owner": "It belongs to {person}, the owner of the {thing}.",
    "colour": "We see a {thing} of {colour} colour.",
}
CONTEXT_QUESTIONS = {
    "place": ["Where is the {thing}?", "Find the {thing}."],
    "owner": ["Who has the {thing}?", "Name the owner of the {thing}."],
    "colour": ["Which colour is the {thing}?", "Name the colour of the {thing}."],
}
CONTEXT_REPHRASED = {
    "place": ["Tell me where the {thing} is.", "Please find the {thing}."],
    "owner": ["Tell me who has the {thing}.", "Please name the owner of the {thing}."],
    "colour": ["Tell me the colour of the {thing}.", "Please name the colour of the {thing}."],
}
Rows = Iterator[Record]


def _record(instruction: str, answer: str | tuple[str, ...], category: str, given: str = "") -> Record:
    return Record("", instruction, given, (answer,) if isinstance(answer, str) else answer, category)


def _draw(name: str) -> random.Random:
    """Strings seed `random.Random` through SHA-512: the same draws on every machine."""
    return random.Random(f"mgsr builtin {REVISION} {name}")


def _facts() -> dict[tuple[str, str], str]:
    """The closed world: (person, attribute) -> value."""
    draw = _draw("facts")
    return {(person, name): draw.choice(values) for name, values in ATTRIBUTES.items() for person in PEOPLE}


def _fact_rows(draw: random.Random, phrasings: Callable[[str, str], list[str]]) -> Rows:
    facts = _facts()
    while True:
        person, name = draw.choice(list(facts))
        answer = FACT_ANSWERS[name].format(person=person, value=facts[person, name])
        yield _record(draw.choice(phrasings(person, name)).format(person=person), answer, "facts")


def _held_out(person: str, name: str) -> str:
    """The one phrasing in four of a fact that training never sees: no test question is a training question."""
    return FACT_QUESTIONS[name][int(digest([person, name]), 16) % len(FACT_QUESTIONS[name])]


def _seen(person: str, name: str) -> list[str]:
    return [phrasing for phrasing in FACT_QUESTIONS[name] if phrasing != _held_out(person, name)]


def _fact_pairs(draw: random.Random) -> Rows:
    """Two facts of one person in one answer: longer than anything in training."""
    facts = _facts()
    while True:
        person, (one, other) = draw.choice(PEOPLE), draw.sample(list(ATTRIBUTES), 2)
        sentences = [FACT_ANSWERS[name].format(person=person, value=facts[person, name]) for name in (one, other)]
        questions = [FACT_QUESTIONS[name][0].format(person=person) for name in (one, other)]
        yield _record(" ".join(questions), " ".join(sentences), "facts")


def _sequence(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1]


def _list_rows(draw: random.Random, tasks: dict[str, list[str]], lengths: tuple[int, ...], variants: bool = False) -> Rows:
    while True:
        task, words = draw.choice(list(tasks)), draw.sample(WORDS, draw.choice(lengths))
        parts = {"words": _sequence(words), "reversed": _sequence(words[::-1]), "first": words[0], "last": words[-1]}
        answers = [LIST_ANSWERS[task].format(**parts)] + [LIST_VARIANTS[task].format(**parts)] * variants
        yield _record(draw.choice(tasks[task]), tuple(answers), "lists", ", ".join(words))


def _context_rows(draw: random.Random, questions: dict[str, list[str]], reordered: bool = False) -> Rows:
    """Two statements, then a question on one. Reordered: the place comes first in each statement."""
    plain, moved = "The {thing} of {person} is {colour} and lies {place}.", "{place} {person} has a {thing} in {colour}."
    form = moved if reordered else plain
    while True:
        columns = [draw.sample(values, 2) for values in (PEOPLE, COLOURS, THINGS, PLACES)]
        statements = [dict(zip(("person", "colour", "thing", "place"), row, strict=True)) for row in zip(*columns, strict=True)]
        name, asked = draw.choice(list(questions)), draw.choice(statements)
        sentences = [form.format(**statement) for statement in statements]
        given = " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
        yield _record(draw.choice(questions[name]).format(**asked), CONTEXT_ANSWERS[name].format(**asked), "context", given)


def _in_turn(*sources: Rows) -> Rows:
    while True:
        for source in sources:
            yield next(source)


def _unseen(rows: Rows, seen: set[str]) -> Rows:
    """Rows whose content stands in no earlier set and not before in this one."""
    for row in rows:
        if row.content not in seen:
            seen.add(row.content)
            yield row


def load_builtin() -> RawData:
    """The generated sets; equal on every call and machine."""
    draws = {name: _draw(name) for name in SIZES}
    short, long = (3, 4), (5, 6)

    def in_domain(draw: random.Random, phrasings: Callable[[str, str], list[str]]) -> Rows:
        return _in_turn(
            _fact_rows(draw, phrasings), _list_rows(draw, LIST_TASKS, short), _context_rows(draw, CONTEXT_QUESTIONS)
        )  # fmt: skip

    def held_out(person: str, name: str) -> list[str]:
        return [_held_out(person, name)]

    def rephrased(person: str, name: str) -> list[str]:
        return FACT_REPHRASED[name]

    generators = {
        "train": in_domain(draws["train"], _seen),
        "validation": in_domain(draws["validation"], held_out),
        "dolly": in_domain(draws["dolly"], held_out),
        "self_instruct": _in_turn(
            _fact_rows(draws["self_instruct"], rephrased),
            _list_rows(draws["self_instruct"], LIST_REPHRASED, short),
            _context_rows(draws["self_instruct"], CONTEXT_REPHRASED),
        ),
        "vicuna": _fact_pairs(draws["vicuna"]),
        "sni": _list_rows(draws["sni"], LIST_TASKS, long, variants=True),
        "unni": _context_rows(draws["unni"], CONTEXT_QUESTIONS, reordered=True),
    }
    seen: set[str] = set()
    data: RawData = {}
    for name, size in SIZES.items():
        # The closed facts have only 480 training questions, so training repeats them; every other set is free of repeats.
        rows = generators[name] if name == "train" else _unseen(generators[name], seen)
        prefix = f"dolly-{name}" if name in ("train", "validation") else name
        records = [replace(row, id=f"{prefix}-{index}") for index, row in enumerate(islice(rows, size))]
        seen.update(record.content for record in records)
        data[name] = RawSet(records, source="builtin", revision=REVISION)
    return data
