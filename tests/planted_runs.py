"""Runs without training, one at a time: whatever a test wants to find again, planted in a card, scores and metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

SETS = ("dolly", "self_instruct")
PROTOCOLS = ("published", "plain")


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_lines(path: Path, lines: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


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
    metrics: Sequence[Mapping[str, Any]] = (),
    texts: Sequence[str] | None = None,
    heldout: float | None = 0.5,
    protocols: Sequence[str] = PROTOCOLS,
    exposure: Path | None = None,
    **card: Any,
) -> dict[str, Any]:
    """Write card, metrics and answers (`scores` by set, one a prompt; the same for each protocol); return the cells' row."""
    run = f"{family}-{method}-{seed}"
    spec = {
        "family": family,
        "seed": seed,
        "code": "c",
        "method": {
            "title": title or method,
            "sequences": {"policy": "mixed", "scrg": None, **(sequences or {})},
            "objective": {"distillation": None, "distillation_weight": 1.0, "span_weight": 0.0, **(objective or {})},
        },
    }
    facts = {
        "schema": 1, "run": run, "family": family, "method": method, "seed": seed, "spec": spec,
        "versions": {"torch": "1"}, "commit": "c" * 40, "data_digest": "d", "threads": 1, "device": "cpu",
        "timings": {"total": 10.0}, "best_step": 20, "validation": {"rouge_l": 50.0, "loss": 1.0}, "student_step_share": 0.5,
        "parameters": 1000, "finished_at": "2026-01-01T00:00:00+00:00", "warnings": [], "validation_scores": {},
        "learning_rate": 1e-3, "candidates": [], "twin": None,
        "examples_per_second": 2.0, "peak_memory_bytes": 10**9,
    }  # fmt: skip
    card_path = write(root / "runs" / run / "card.json", facts | card)
    write_lines(card_path.with_name("metrics.jsonl"), metrics)
    rows, means, words = [], [], texts or ["words"]
    for name, values in scores.items():
        for protocol in protocols:
            answers = [
                {"schema": 1, "run": run, "set": name, "id": f"{name}-{i:04}", "decoding_seed": 10, "protocol": protocol,
                 "text": words[i % len(words)], "score": float(score), "length": 3, "finish_reason": "eos"}
                for i, score in enumerate(np.asarray(values))
            ]  # fmt: skip
            rows += answers
            mean = float(np.mean(np.asarray(values)))
            means.append({"set": name, "protocol": protocol, "decoding_seed": 10, "rouge_l": mean, "rows": len(answers)})
    held = None if heldout is None else {"forward_kl": heldout, "reverse_kl": 2 * heldout, "tokens": 100, "rows": 10}
    evaluation = write(
        root / "evaluations" / run / "summary.json",
        {"schema": 1, "run": run, "scores": means, "heldout": held, "timings": {"total": 2.0}, "sets": {}, "digest": run},
    )
    write_lines(evaluation.with_name("rows.jsonl"), rows)
    return {
        "family": family, "method": method, "title": title or method, "role": role, "seed": seed, "run": run,
        "card": str(card_path), "evaluation": str(evaluation), "exposure": str(exposure) if exposure else None,
    }  # fmt: skip


def plant_exposure(folder: Path, run: str, student: ArrayLike, teacher: ArrayLike, lengths: Sequence[int]) -> Path:
    """Divergences by prompt and position [prompts, positions], one sample a prompt; returns the summary's path."""
    parts = {"student": np.asarray(student, dtype=float), "teacher": np.asarray(teacher, dtype=float)}
    lines = [
        {"id": f"dolly-{i:04}"}
        | {source: {"sums": values[i].tolist(), "counts": [1] * values.shape[1]} for source, values in parts.items()}
        for i in range(len(parts["student"]))
    ]
    write_lines(folder / "prompts.jsonl", lines)
    return write(folder / "summary.json", {"schema": 1, "run": run, "lengths": list(lengths)})


def cells(table: str, rows: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """The value of a cells file."""
    return {
        "table": table, "preset": "smoke", "recipe": "controlled", "note": "Tiny models rank no methods.", "sets": list(SETS),
        "other_groups": False, "floor": {}, "rows": list(rows), **more,
    }  # fmt: skip
