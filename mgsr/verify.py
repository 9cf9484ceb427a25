"""Is a results folder what its own code makes of its own files? What is cheap to make again is made again, from what is kept.

Not made again: records, models, answers and measurements. These are held to the checksums beside them alone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mgsr.config.specs import EvaluationSpec, read_spec, spec_digest
from mgsr.config.stages import STAGES
from mgsr.config.table_specs import CardSpec, read_plan
from mgsr.errors import MgsrError
from mgsr.evaluation.evaluator import answers_spec, evaluate, heldout_spec, parts_of
from mgsr.evaluation.floor import write_floor
from mgsr.storage import CHECKSUMS, damages, digest, read_json, read_jsonl
from mgsr.tables.card import make_card
from mgsr.tables.claims import write_claims
from mgsr.tables.open_checks import write_check
from mgsr.tables.registry import write_table

SEALED = sorted({stage.makes for stage in STAGES.values() if stage.makes} | {"answers", "heldout"})
SHOWN: tuple[tuple[str, Callable[[Path, str], None]], ...] = (("tables", write_table), ("open_checks", write_check))


def verify(root: Path) -> dict[str, list[str]]:
    """What is wrong, by what was looked at; a list is empty where all is well.

    Raises MgsrError where `root` holds no results.
    """
    if not (root / "specs").is_dir():
        raise MgsrError(f"{root} is no results folder of a preset: it has no specs/; name one, such as results/smoke")
    return {
        "folders beside their checksums": list(_damaged(root)),
        "specs beside their names": list(_specs(root)),
        "cards made again": list(_cards(root)),
        "scores made again from answers and references": list(_scores(root)),
        "tables, claims and open checks made again": list(_shown(root)),
    }


def _damaged(root: Path) -> Iterator[str]:
    for folder in sorted(folder for kind in SEALED for folder in (root / kind).glob("*") if folder.is_dir()):
        if not folder.name.startswith("."):
            yield from (f"{folder}: {damage}" for damage in damages(folder))


def _specs(root: Path) -> Iterator[str]:
    """A spec's digest is its name, wherever it lies."""
    paths = {path: path.stem for path in (root / "specs").glob("*.json")}
    paths |= {path: path.parent.name for path in root.glob("*/*/spec.json")}
    for path, name in sorted(paths.items()):
        try:
            stated = {key: value for key, value in read_json(path).items() if key != "place"}
        except (MgsrError, AttributeError) as error:
            yield f"{path}: {error}"
            continue
        if digest(stated) != name:
            yield f"{path}: its digest is {digest(stated)}"


def _cards(root: Path) -> Iterator[str]:
    for path in sorted(root.glob("runs/*/card.json")):
        run = path.parent.name
        with _problems(path) as problems:
            twin = read_plan(root, run, CardSpec).twin
            card = make_card(
                read_json(root / f"runs/{run}/training.json"), read_json(root / f"runs/{twin}/training.json") if twin else None
            )
            if read_json(path) != {**card, "digest": digest(card)}:
                problems.append("it is not what training.json says")
        yield from (f"{path}: {problem}" for problem in problems)


def _scores(root: Path) -> Iterator[str]:
    """Evaluations are written anew beside `root`, by the workflow's own stage, where all answers are kept."""
    with _shadow(root, "evaluations") as shadow:
        for folder in sorted(root.glob("evaluations/[!.]*")):
            with _problems(folder) as problems:
                _score_again(root, shadow, folder.name)
                for name, read in (("rows.jsonl", lambda path: list(read_jsonl(path))), ("summary.json", _timeless)):
                    if read(folder / name) != read(shadow / "evaluations" / folder.name / name):
                        problems.append(f"{name} is not what answers and references say")
            yield from (f"{folder}: {problem}" for problem in problems)


def _score_again(root: Path, shadow: Path, name: str) -> None:
    if "run" not in read_json(root / "specs" / f"{name}.json"):
        write_floor(shadow, name)
        return
    spec = read_spec(root, name, EvaluationSpec)
    kept = [root / "answers" / spec_digest(answers_spec(spec, part)) for part in parts_of(spec)]
    heldout = heldout_spec(spec)
    kept += [root / "heldout" / spec_digest(heldout)] if heldout else []
    if gone := [folder for folder in kept if not (folder / CHECKSUMS).is_file()]:
        raise MgsrError(f"{gone[0]} is missing, so nothing can be scored again")
    evaluate(shadow, name)


def _timeless(path: Path) -> Any:
    return {key: value for key, value in read_json(path).items() if key != "timings"}


def _shown(root: Path) -> Iterator[str]:
    with _shadow(root, "tables", "open_checks") as shadow:
        for folder, write in SHOWN:
            for path in sorted((root / folder).glob("*.csv")):
                name = path.stem
                with _problems(path) as problems:
                    (write_claims if name == "claims" else write)(shadow, name)
                    for made in sorted((shadow / folder).glob(f"{name}.*")):
                        shown = root / folder / made.name
                        if not shown.is_file() or shown.read_bytes() != made.read_bytes():
                            problems.append(f"{made.name} is not what the results say")
                yield from (f"{path}: {problem}" for problem in problems)


@contextmanager
def _problems(path: Path) -> Iterator[list[str]]:
    """A list to which an error within is added."""
    problems: list[str] = []
    try:
        yield problems
    except (MgsrError, OSError, ValidationError, KeyError, TypeError, ValueError) as error:
        problems.append(str(error).removeprefix(f"{path}: "))


@contextmanager
def _shadow(root: Path, *without: str) -> Iterator[Path]:
    """A folder that shows all of `root` but some of its folders, which are new and empty there."""
    with tempfile.TemporaryDirectory() as folder:
        for entry in root.iterdir():
            if entry.name not in without:
                os.symlink(entry.resolve(), Path(folder) / entry.name)
        yield Path(folder)
