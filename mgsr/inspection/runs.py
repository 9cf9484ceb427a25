"""`mgsr runs`: one line for each finished run of a results folder."""

from __future__ import annotations

from pathlib import Path

from mgsr.inspection.results_folder import ResultsFolder
from mgsr.tables.columns import aligned
from mgsr.tables.results import RunResult


def runs_text(root: Path) -> str:
    """Title, family, training seed, learning rate, step that was kept, scores under the first protocol, warnings, digest."""
    folder = ResultsFolder.load(root)
    sets, metric = folder.spec.test_sets, folder.spec.metrics[0]
    head = ["method", "family", "seed", "learning rate", "step", *sets.values(), "average", "warnings", "run"]
    rows = []
    for method in folder.methods:
        for run in method.runs:
            scores = [_score(run, metric, name) for name in sets]
            means = [*scores, sum(scores) / len(scores)]
            rate, step = run.card["learning_rate"], run.card["best_step"]
            facts = [str(run.row.seed), f"{rate:g}" if rate else "-", str(step) if step is not None else "-"]
            warnings = " ".join(warning["name"] for warning in run.card["warnings"]) or "-"
            rows.append([method.title, method.family, *facts, *(f"{mean:.2f}" for mean in means), warnings, run.row.run])
    protocol = folder.methods[0].runs[0].evaluation.protocols[0]
    return f"{metric}, protocol {protocol}, mean over decoding seeds\n\n{aligned(head, rows)}"


def _score(run: RunResult, metric: str, test_set: str) -> float:
    scores = run.evaluation.scores(metric, test_set, run.evaluation.protocols[0])
    return sum(scores.values()) / len(scores)
