"""A small results folder without training: planted scores, so that every number of a table is known beforehand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

SETS = ("dolly", "self_instruct")
PROMPTS = 40
METHODS: dict[str, dict[str, Any]] = {
    "teacher": {"title": "Teacher", "role": "teacher", "level": 80.0, "policy": "dataset", "share": None},
    "sft": {"title": "SFT", "role": "student", "level": 50.0, "policy": "dataset", "share": None, "heldout": 0.9},
    "distillm": {"title": "DistiLLM", "role": "student", "level": 52.0, "policy": "off_policy", "share": 0.0, "heldout": 0.7},
    "mgsr": {
        "title": "MGSR", "role": "student", "level": 55.0, "policy": "mixed", "share": 0.5, "heldout": 0.6,
        "scrg": {"passes": 1}, "distillation": {"name": "dac_kl"}, "span_weight": 1.0,
    },
}  # fmt: skip
FLOOR_LEVEL = 20.0
SEED_SHIFT = {10: -1.0, 20: 1.0}  # of training seeds
DECODING_SHIFT = {10: 0.5, 20: -0.5}


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def evaluation(
    folder: Path, run: str, level: float, protocols: tuple[str, ...], heldout: float | None, spread: float = 1.0
) -> Path:
    """rows.jsonl and summary.json; prompt i scores level + shift + an even spread around 0, 3 `spread` to either side."""
    offsets = np.linspace(-3, 3, PROMPTS) * spread
    rows, scores = [], []
    for name in SETS:
        for protocol in protocols:
            for seed, shift in DECODING_SHIFT.items():
                answers = [
                    {"schema": 1, "run": run, "set": name, "id": f"{name}-{i}", "decoding_seed": seed, "protocol": protocol,
                     "text": "words", "score": level + shift + offset, "length": 3, "finish_reason": "eos"}
                    for i, offset in enumerate(offsets)
                ]  # fmt: skip
                rows += answers
                mean = float(np.mean([row["score"] for row in answers]))
                scores.append({"set": name, "protocol": protocol, "decoding_seed": seed, "rouge_l": mean, "rows": PROMPTS})
    held = None if heldout is None else {"forward_kl": heldout, "reverse_kl": heldout * 2, "tokens": 100, "rows": 10}
    _write(
        folder / "summary.json",
        {"schema": 1, "run": run, "scores": scores, "heldout": held, "timings": {"total": 2.0}, "sets": {}, "digest": run},
    )
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "summary.json"


def _exposure(path: Path, run: str, level: float) -> str:
    """Excess errors of level / 10 per cent at length 5 and twice that at 10; no sample is 20 tokens long."""
    errors = [level / 10, level / 5, None]
    _write(
        path,
        {"schema": 1, "run": run, "lengths": [5, 10, 20], "excess_error": errors, "intervals": [[0.0, 9.0], [1.0, 12.0], None],
         "accumulated": [1.0, 2.0, None], "expected": [0.5, 1.5, None], "running_student": [18, 9, 0],
         "running_teacher": [20, 5, 0], "rows": 10, "samples": 2},
    )  # fmt: skip
    return str(path)


def build(
    root: Path,
    *,
    table: str = "table1",
    preset: str = "smoke",
    family: str = "tiny",
    seeds: tuple[int, ...] = (10, 20),
    methods: Mapping[str, dict[str, Any]] | None = None,
    other_groups: bool = False,
) -> Path:
    """Two training seeds (the teacher one), two decoding seeds, both protocols; returns the cells file."""
    protocols, rows = ("published", "plain"), []
    for method, facts in (methods or METHODS).items():
        if table == "table2" and method in ("teacher", "sft"):
            continue
        for seed in seeds[:1] if facts["role"] == "teacher" else seeds:
            run = f"{method}{seed}"
            level = facts["level"] + (0.0 if facts["role"] == "teacher" else SEED_SHIFT[seed])
            spec = {
                "family": family,
                "seed": seed,
                "method": {
                    "title": facts["title"],
                    "sequences": {"policy": facts["policy"], "scrg": facts.get("scrg")},
                    "objective": {
                        "distillation": facts.get("distillation"), "distillation_weight": 1.0,
                        "span_weight": facts.get("span_weight", 0.0),
                    },
                },
            }  # fmt: skip
            card = {
                "schema": 1, "run": run, "family": family, "method": method, "seed": seed,
                "spec": spec, "versions": {"torch": "1"}, "commit": "c" * 40, "data_digest": "d", "threads": 1, "device": "cpu",
                "timings": {"total": 10.0 + seed, "rollout": 3.0, "scrg": 1.0, "teacher": 2.0, "student": 3.0, "update": 1.0},
                "learning_rate": 1e-3, "candidates": [], "twin": None, "best_step": 20,
                "validation": {"rouge_l": level + 5.0, "loss": 1.0}, "validation_scores": {},
                "examples_per_second": seed / 10, "peak_memory_bytes": 3 * 2**29,
                "student_step_share": facts["share"], "parameters": 12345, "finished_at": "2026-01-01T00:00:00+00:00",
                "warnings": [{"name": "short", "message": "few steps & <tiny> data"}] if method == "mgsr" else [],
            }  # fmt: skip
            _write(root / "runs" / run / "card.json", card)
            lines: list[dict[str, Any]] = [
                {"step": step, "kind": "train", "loss": 3.0 / step, "band/upper (log)": 0.1, "span": None}
                for step in (5, 10, 15, 20)
            ]
            lines += [
                {"step": step, "kind": "validation", "loss": 2.0 / step, "rouge_l": level + step / 4} for step in (10, 20)
            ]
            (root / "runs" / run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            summary = evaluation(
                root / "evaluations" / f"e-{run}", run, level, protocols, facts.get("heldout"), facts.get("spread", 1.0)
            )
            exposure = _exposure(root / "exposure" / run / "summary.json", run, level) if table == "table4a" else None
            rows.append(
                {"family": family, "method": method, "title": facts["title"], "role": facts["role"], "seed": seed, "run": run,
                 "card": str(root / "runs" / run / "card.json"), "evaluation": str(summary), "exposure": exposure}
            )  # fmt: skip
    floor = evaluation(root / "evaluations" / "floor-0", "floor", FLOOR_LEVEL, ("plain",), None)
    path = root / f"{table}.cells.json"
    _write(
        path,
        {"table": table, "preset": preset, "recipe": "controlled", "note": "Tiny models rank no methods.", "sets": list(SETS),
         "other_groups": other_groups, "floor": {family: str(floor)}, "rows": rows},
    )  # fmt: skip
    return path
