"""Results without training: planted scores, so that every number of a table is known beforehand."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import ArrayLike

from mgsr.config.table_specs import CheckSpec, TableSpec, read_plan
from mgsr.evaluation.detection import DETECTORS, STARTS
from mgsr.evaluation.injection import ERRORS
from mgsr.evaluation.probe import (
    SOURCES,
    summarise_corpus,
    summarise_correction,
    summarise_detection,
    summarise_diversity,
    summarise_spans,
)
from mgsr.evaluation.span_statistics import PRIORS
from mgsr.storage import digest, seal_folder
from mgsr.tables.registry import build_table, write_table
from mgsr.tables.render import Document
from mgsr.tables.results import TableResults, load_results

SET_TITLES = {"dolly": "Dolly", "self_instruct": "Self-Instruct"}
SETS = tuple(SET_TITLES)
PROTOCOLS = ("published", "plain")
NOTE = "Tiny models rank no methods."
ENTRIES = yaml.safe_load((Path(__file__).parents[1] / "workflow/tables.yaml").read_text())["tables"]


def write(path: Path, value: Any) -> Path:
    """A file of a sealed folder; a card with its digest."""
    if path.name == "card.json":
        value = {name: fact for name, fact in value.items() if name != "digest"}
        value["digest"] = digest(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    seal_folder(path.parent)
    return path


def write_lines(path: Path, lines: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    seal_folder(path.parent)
    return path


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text())
    change(value)
    write(path, value)


def edit_lines(path: Path, change: Callable[[Any], Any]) -> None:
    """Change each line of a JSONL file; a line for which `change` returns None is left out."""
    lines = [change(json.loads(line)) for line in path.read_text().splitlines()]
    write_lines(path, [line for line in lines if line is not None])


# --- one run ----------------------------------------------------------------------------------------------------------


def plant_evaluation(
    root: Path,
    name: str,
    run: str,
    scores: Mapping[str, ArrayLike],
    *,
    protocols: Sequence[str] = PROTOCOLS,
    texts: Sequence[str] = ("words",),
    heldout: float | None = None,
    halved: Sequence[str] = (),
    cut: float = 0.0,
) -> str:
    """rows.jsonl and summary.json. `scores`: ROUGE-L by set, [prompts] or [decoding seeds, prompts], under each protocol alike;
    the metrics `halved` are half of it. `cut`: the share of the answers that a limit cut."""
    rows, parts = [], []
    for test_set, values in scores.items():
        for protocol in protocols:
            for place, row_scores in enumerate(np.atleast_2d(np.asarray(values, dtype=float))):
                part = {"set": test_set, "protocol": protocol, "decoding_seed": 10 * (place + 1)}
                by_row = [{"rouge_l": float(score), **dict.fromkeys(halved, float(score) / 2)} for score in row_scores]
                means = {metric: float(np.mean([row[metric] for row in by_row])) for metric in by_row[0]}
                answers = {"length": 3.0, "cut": cut, "precision": 60.0, "recall": 40.0}
                parts.append({**part, "rows": len(by_row), "metrics": means, "answers": answers})
                rows += [
                    {"schema": 3, "run": run, **part, "id": f"{test_set}-{i}", "text": texts[i % len(texts)], "scores": metrics,
                     "precision": 60.0, "recall": 40.0, "length": 3, "finish_reason": "eos"}
                    for i, metrics in enumerate(by_row)
                ]  # fmt: skip
    divergences = None if heldout is None else {"forward_kl": heldout, "reverse_kl": 2 * heldout, "tokens": 95, "rows": 10}
    summary = {"schema": 3, "run": run, "scores": parts, "heldout": divergences, "timings": {"total": 2.0}, "sets": {},
               "digest": name}  # fmt: skip
    if heldout is not None:
        by_prompt = {f"dolly-{i}": [tokens * heldout, 2 * tokens * heldout, tokens] for i, tokens in enumerate(range(5, 15))}
        write(root / "evaluations" / name / "heldout.json", by_prompt)
    write(root / "evaluations" / name / "summary.json", summary)
    write_lines(root / "evaluations" / name / "rows.jsonl", rows)
    return name


def plant(
    root: Path,
    method: str,
    scores: Mapping[str, ArrayLike],
    *,
    family: str = "tiny",
    seed: int = 10,
    title: str | None = None,
    role: str = "student",
    sequences: Mapping[str, Any] | None = None,
    objective: Mapping[str, Any] | None = None,
    metrics: Iterable[Mapping[str, Any]] = (),
    exposure: str | None = None,
    card: Mapping[str, Any] | None = None,
    heldout: float | None = 0.5,
    **evaluation: Any,
) -> dict[str, Any]:
    """A run's card, metrics.jsonl and evaluation; returns the RowSpec that shows it. `exposure`: digest of its ExAccErr."""
    run = f"{family}-{method}-{seed}"
    resolved = {
        "title": title or method,
        "sequences": {"policy": "mixed", "scrg": None, **(sequences or {})},
        "objective": {"distillation": None, "distillation_weight": 1.0, "span_weight": 0.0, **(objective or {})},
    }
    facts: dict[str, Any] = {
        "schema": 1, "run": run, "family": family, "method": method, "seed": seed, "versions": {"torch": "1"},
        "spec": {"family": family, "seed": seed, "code": "c", "method": resolved}, "commit": "c" * 40, "data_digest": "d",
        "threads": 1, "device": "cpu", "timings": {"total": 10.0}, "best_step": 20, "warnings": [], "validation_scores": {},
        "validation": {"rouge_l": 50.0, "loss": 1.0}, "student_step_share": 0.5, "parameters": 1000, "learning_rate": 1e-3,
        "candidates": [], "twin": None, "examples_per_second": 2.0, "peak_memory_bytes": 10**9,
        "finished_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    write(root / "runs" / run / "card.json", facts | dict(card or {}))
    write_lines(root / "runs" / run / "metrics.jsonl", metrics)
    digest = plant_evaluation(root, f"e-{run}", run, scores, heldout=heldout, **evaluation)
    return {"family": family, "method": method, "title": title or method, "role": role, "seed": seed, "run": run,
            "evaluation": digest, "exposure": exposure}  # fmt: skip


def plant_exposure(
    root: Path,
    run: str,
    *,
    lengths: Sequence[int] = (5, 10, 20),
    level: float = 50.0,
    student: ArrayLike | None = None,
    teacher: ArrayLike | None = None,
) -> str:
    """ExAccErr of level / 10 per cent at the first length and twice that at the second; no sample has the third. `student`,
    `teacher`: divergences by prompt and position [prompts, positions], one sample a prompt."""
    count = len(lengths)
    facts = {
        "excess_error": [level / 10, level / 5, None], "intervals": [[0.0, 9.0], [1.0, 12.0], None],
        "accumulated": [1.0, 2.0, None], "expected": [0.5, 1.5, None], "running_student": [18, 9, 0],
        "running_teacher": [20, 5, 0],
    }  # fmt: skip
    by_length = {name: values[:count] for name, values in facts.items()}
    summary = {"schema": 1, "run": run, "lengths": list(lengths), **by_length, "rows": 10, "samples": 2}
    write(root / "exposure" / f"x-{run}" / "summary.json", summary)
    if student is not None and teacher is not None:
        sources = {"student": np.asarray(student, dtype=float), "teacher": np.asarray(teacher, dtype=float)}
        lines = [
            {"id": f"dolly-{i}"}
            | {source: {"sums": values[i].tolist(), "counts": [1] * values.shape[1]} for source, values in sources.items()}
            for i in range(len(sources["student"]))
        ]
        write_lines(root / "exposure" / f"x-{run}" / "prompts.jsonl", lines)
    return f"x-{run}"


# --- tables, checks, claims, pages ------------------------------------------------------------------------------------


def shown(name: str, rows: Iterable[Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
    """The TableSpec or CheckSpec of that name, as workflow/tables.yaml has it."""
    common = {
        "name": name, "preset": "smoke", "recipe": "controlled", "note": NOTE, "test_sets": SET_TITLES,
        "metrics": ["rouge_l"], "rows": list(rows), "code": "c",
    }  # fmt: skip
    if name not in ENTRIES:
        return {**common, "probes": {}, **changes}
    floors = {row["family"]: "floor" for row in common["rows"]}
    defaults = {"floors": floors, "columns": [], "components": False, "reference": "mgsr", "other_groups": False}
    entry = {key: value for key, value in ENTRIES[name].items() if key not in ("rows", "extra_rows", "families")}
    return {**common, **defaults, **entry, **changes}


def plan(root: Path, value: Mapping[str, Any]) -> dict[str, Any]:
    """Write plan/<name>.json."""
    write(root / "plan" / f"{value['name']}.json", value)
    return dict(value)


def plan_claims(root: Path, *tables: Mapping[str, Any], note: str = NOTE) -> dict[str, Any]:
    value = {"name": "claims", "preset": "smoke", "recipe": "controlled", "note": note, "tables": tables, "code": "c"}
    return plan(root, value)


def plan_page(root: Path, *tables: Any, claims: Any = None, checks: Sequence[Any] = (), **tracking: Any) -> dict[str, Any]:
    value = {"name": "report", "tables": tables, "claims": claims, "checks": checks, "code": "c"}
    return plan(root, value | {"tracking": {"uri": None, "experiment": "mgsr", **tracking}})


def load(root: Path, name: str = "table1") -> TableResults:
    return load_results(read_plan(root, name, TableSpec if name in ENTRIES else CheckSpec), root)


def document(root: Path, name: str = "table1") -> Document:
    return build_table(read_plan(root, name, TableSpec), load(root, name)).document


def frame(root: Path, name: str = "table1", *index: str) -> Any:
    """The table's CSV as written, by the columns `index`."""
    write_table(root, name)
    return pd.read_csv(root / "tables" / f"{name}.csv").set_index(list(index or ("protocol", "method")))


# --- a whole table ----------------------------------------------------------------------------------------------------

PROMPTS = 40
FLOOR_LEVEL = 20.0
SEED_SHIFT = {10: -1.0, 20: 1.0}  # of training seeds
METHODS: dict[str, dict[str, Any]] = {
    "teacher": {"title": "Teacher", "role": "teacher", "level": 80.0, "policy": "dataset", "share": None},
    "sft": {"title": "SFT", "level": 50.0, "policy": "dataset", "share": None, "heldout": 0.9},
    "distillm": {"title": "DistiLLM", "level": 52.0, "policy": "off_policy", "share": 0.0, "heldout": 0.7},
    "mgsr": {
        "title": "MGSR", "level": 55.0, "policy": "mixed", "share": 0.5, "heldout": 0.6, "scrg": {"passes": 1},
        "objective": {"distillation": {"name": "dac_kl"}, "span_weight": 1.0},
        "warnings": [{"name": "short", "message": "few steps & <tiny> data"}],
    },
}  # fmt: skip


def ladder(name: str) -> dict[str, dict[str, Any]]:
    """A table's own rows, each one point above the one before; MGSR has all components."""
    rows = {method: {**METHODS["mgsr"], "title": method, "level": 50.0 + i} for i, method in enumerate(ENTRIES[name]["rows"])}
    return rows | ({"mgsr": {**rows["mgsr"], "title": "MGSR"}} if "mgsr" in rows else {})


def plant_table(
    root: Path,
    name: str = "table1",
    *,
    family: str = "tiny",
    seeds: Sequence[int] = (10, 20),
    methods: Mapping[str, Mapping[str, Any]] | None = None,
    halved: Sequence[str] = (),
    **changes: Any,
) -> dict[str, Any]:
    """Two training seeds (the teacher one), two decoding seeds, both protocols, the floor; writes and returns the plan. Prompts
    score level + shifts + an even spread around 0, three times the method's `spread` to either side."""
    offsets, rows = np.linspace(-3, 3, PROMPTS), []
    for method, facts in (METHODS if methods is None else methods).items():
        role = facts.get("role", "student")
        for seed in seeds[:1] if role == "teacher" else seeds:
            level = facts["level"] + (0.0 if role == "teacher" else SEED_SHIFT[seed])
            values = np.stack([level + shift + offsets * facts.get("spread", 1.0) for shift in (0.5, -0.5)])
            stages = {"rollout": 3.0, "scrg": 1.0, "teacher": 2.0, "student": 3.0, "update": 1.0}
            card = {
                "timings": {"total": 10.0 + seed, **stages}, "validation": {"rouge_l": level + 5.0, "loss": 1.0},
                "examples_per_second": seed / 10, "peak_memory_bytes": 3 * 2**29, "student_step_share": facts["share"],
                "parameters": 12345, "warnings": facts.get("warnings", []),
            }  # fmt: skip
            lines = [
                {"step": s, "kind": "train", "loss": 3.0 / s, "band/upper (log)": 0.1, "span": None} for s in (5, 10, 15, 20)
            ]
            lines += [{"step": s, "kind": "validation", "loss": 2.0 / s, "rouge_l": level + s / 4} for s in (10, 20)]
            exposed = ENTRIES[name]["kind"] == "exposure"
            rows.append(
                plant(
                    root, method, dict.fromkeys(SETS, values), family=family, seed=seed, title=facts["title"], role=role,
                    sequences={"policy": facts["policy"], "scrg": facts.get("scrg")}, objective=facts.get("objective"),
                    metrics=lines, heldout=facts.get("heldout"), card=card, halved=halved,
                    exposure=plant_exposure(root, f"{family}-{method}-{seed}", level=level) if exposed else None,
                )
            )  # fmt: skip
    plant_evaluation(root, "floor", "floor", dict.fromkeys(SETS, FLOOR_LEVEL + offsets), protocols=["plain"], halved=halved)
    return plan(root, shown(name, rows, metrics=["rouge_l", *halved], **changes))


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A results folder with Table 1 planted: the methods of `METHODS`."""
    plant_table(tmp_path)
    return tmp_path


# --- the probe --------------------------------------------------------------------------------------------------------

PROBED = 60  # prompts
GOOD = "teacher_nll"  # finds a planted error on four prompts of five; all others on one of five, as on the original
LOST = 0.3  # of the four-grams of a revised rollout, and none of the others', came before


def plant_probe(root: Path) -> dict[str, str]:
    """A probe.json without models: planted rows, summed up by the probe's own functions. Returns a check's `probes`."""
    errors, spans, diversity = [], [], []
    for i in range(PROBED):
        category = ("qa", "poem")[i % 2]
        for error in ERRORS:
            hits: dict[str, list[float]] = {name: [float(i % 5 == 0), 0, 0, float(i % 5 == 1), 0, 0] for name in DETECTORS}
            hits[GOOD][0] = float(i % 5 != 0)
            continued = {"kept": [-2.0, 20.0 + i % 3]} | {start: [-1.5, 20.0 + i % 3] for start in STARTS}
            continued["at_error"] = [-1.0, 25.0 + i % 2]
            errors.append({"id": f"dolly-{i}", "error": error, "hits": hits, "continued": continued})
        for source in SOURCES:
            row: dict[str, Any] = {"id": f"dolly-{i}", "source": source, "sample": 0}
            term = {"qa": 0.1, "poem": 0.3}[category] + 0.01 * (i % 7)
            spans.append({**row, "category": category, "tokens": 10, "priors": {prior: [2, 8, 0, term] for prior in PRIORS}})
            repetition = LOST + 0.01 * (i % 3) if source == "scrg" else 0.01 * (i % 2)
            distinct = dict.fromkeys(("distinct_1", "distinct_2", "distinct_4"), 0.5 + 0.1 * (i % 2))
            diversity.append({**row, **distinct, "repetition": repetition, "words": 9.0 + i % 2})
    summary, differences = summarise_diversity(diversity)
    texts = {source: [f"word{i % 7} and more" for i in range(PROBED)] for source in SOURCES}
    value = {
        "schema": 1, "student_run": "s", "teacher_run": "t", "rows": PROBED, "samples": 1, "timings": {},
        "injected_errors": {
            "skipped": dict.fromkeys(ERRORS, 3), "detection": summarise_detection(errors),
            "correction": summarise_correction(errors), "rows": errors,
        },
        "spans": {"summary": summarise_spans(spans), "rows": spans},
        "diversity": {"summary": summary, "differences": differences, "corpus": summarise_corpus(texts, 1), "rows": diversity},
    }  # fmt: skip
    write(root / "probes" / "probe" / "probe.json", value)
    return {"tiny": "probe"}
