"""Finished results in; MLflow runs out. One process syncs them all, since parallel jobs crash a fresh sqlite store.

A parent run for each preset and recipe holds the tables, the open checks and the claims' verdicts; each training run is one
child, whichever tables and checks show it. Runs are found again by tags, so a second sync adds nothing.
"""

from __future__ import annotations

import csv
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgsr.config.table_entries import AVERAGE
from mgsr.config.table_specs import CheckSpec, PageSpec, TableSpec, read_plan
from mgsr.errors import MgsrError
from mgsr.storage import digest, file_digest, file_lock, write_json
from mgsr.tables.render import MISSING
from mgsr.tables.results import RunResult, load_results

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
LOGGED = (".csv", ".md", ".tex", ".svg")
CLAIMS = "claims.csv"
KEY, DIGEST = "mgsr.key", "mgsr.digest"


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings made one mapping with dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}{key}.") if isinstance(item, Mapping) and item else {f"{prefix}{key}": item}
    return flat


def metric_name(name: str) -> str:
    """`name` in the characters that MLflow takes: no @, no parentheses."""
    return re.sub(r"[^\w\-./ ]", "_", name, flags=re.ASCII)


def params(run: RunResult) -> dict[str, str]:
    """The resolved configuration as MLflow params. MLflow cuts long values; card.json has them whole."""
    flat = flatten(run.card["spec"])
    if run.card["candidates"]:  # the spec names the grid, the card what was chosen of it
        flat["method.training.learning_rate"] = run.card["learning_rate"]
    return {metric_name(key): str(value) for key, value in flat.items()}


def metrics(run: RunResult, spec: TableSpec | CheckSpec) -> dict[tuple[str, int], float]:
    """Values by MLflow metric and step: metrics.jsonl by kind, scores by protocol and set, held-out divergences, timings.

    `rouge_l/<protocol>/<set>` is a mean over decoding seeds, `rouge_l_seed_<decoding seed>/...` the score of one; other metrics
    likewise.
    """
    values: dict[str, float | None] = {}
    for metric in spec.metrics:
        for protocol in run.evaluation.protocols:
            means = []
            for name in spec.test_sets:
                scores = run.evaluation.scores(metric, name, protocol)
                means.append(sum(scores.values()) / len(scores))
                values[f"{metric}/{protocol}/{name}"] = means[-1]
                values |= {f"{metric}_seed_{seed}/{protocol}/{name}": score for seed, score in scores.items()}
            values[f"{metric}/{protocol}/{AVERAGE}"] = sum(means) / len(means)
    values |= {f"heldout/{name}": value for name, value in (run.evaluation.summary["heldout"] or {}).items()}
    values |= {f"seconds/{name}": value for name, value in run.card["timings"].items()}
    values |= {f"evaluation_seconds/{name}": value for name, value in run.evaluation.summary["timings"].items()}
    values |= {name: run.card[name] for name in ("learning_rate", "student_step_share")}
    courses = {
        (metric_name(f"{line['kind']}/{name}"), line["step"]): float(value)
        for line in run.metrics()
        for name, value in line.items()
        if name not in ("step", "kind") and isinstance(value, int | float)
    }
    return courses | {(metric_name(name), 0): float(value) for name, value in values.items() if value is not None}


def page_files(root: Path, spec: PageSpec) -> list[Path]:
    """The files of a page's tables, claims and open checks. Raises MgsrError where one of them was not made."""
    made = [("tables", table.name) for table in spec.tables] + ([("tables", "claims")] if spec.claims else [])
    made += [("open_checks", check.name) for check in spec.checks]
    if missing := [f"{folder}/{name}.csv" for folder, name in made if not (root / folder / f"{name}.csv").is_file()]:
        raise MgsrError(f"{root / missing[0]} is not there; make it first")
    files = (root / folder / f"{name}{suffix}" for folder, name in made for suffix in LOGGED)
    return [file for file in files if file.is_file()]


def _client(uri: str) -> MlflowClient:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read at import
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


class _Store:
    """Runs of one experiment, found by their tags."""

    def __init__(self, client: MlflowClient, experiment: str, artifacts: str | None) -> None:
        known = client.get_experiment_by_name(experiment)
        if known is not None and known.lifecycle_stage != "active":
            raise MgsrError(f"tracking.experiment: '{experiment}' was deleted in that store; restore it or choose another name")
        self.client = client
        self.experiment = known.experiment_id if known else client.create_experiment(experiment, artifact_location=artifacts)

    def finished(self, key: str, content: str | None) -> str | None:
        """Id of the finished run with this key (and digest). A run that a killed sync left half-written is removed."""
        where = f"tags.`{KEY}` = '{key}'" + (f" and tags.`{DIGEST}` = '{content}'" if content else "")
        kept = None
        for run in self.client.search_runs([self.experiment], where):
            if content is not None and run.info.status != "FINISHED":
                self.client.delete_run(run.info.run_id)
            else:
                kept = run.info.run_id
        return kept

    def parent(self, spec: TableSpec, files: Sequence[Path]) -> str:
        """Id of the preset's run; tables, checks and claims are logged anew when their bytes changed."""
        key = f"{spec.preset}/{spec.recipe}"
        content = digest({f"{file.parent.name}/{file.name}": file_digest(file) for file in files})
        run = self.finished(key, None) or self._create(key, key, {"mgsr.preset": spec.preset, "mgsr.recipe": spec.recipe})
        if self.client.get_run(run).data.tags.get(DIGEST) != content:
            for file in files:
                self.client.log_artifact(run, str(file), file.parent.name)
                if file.name == CLAIMS:
                    self._verdicts(run, file)
            self.client.set_tag(run, "mlflow.note.content", spec.note)
            self.client.set_tag(run, DIGEST, content)
            self.client.set_terminated(run)
        return run

    def _verdicts(self, run: str, table: Path) -> None:
        """Each claim's verdict as a tag and its effect as a metric, from the line of claims.csv that decides it."""
        with table.open(encoding="utf-8", newline="") as file:
            lines = [line for line in csv.DictReader(file) if line["hardest"] == "True"]
        for line in lines:
            name = metric_name(f"claims/{line['claim']}/{line['family']}/{line['protocol']}")
            self.client.set_tag(run, f"mgsr.{name}", line["verdict"])
            if line["effect"] != MISSING:
                self.client.log_metric(run, name, float(line["effect"]))

    def exposure(self, result: RunResult, run: str) -> None:
        """Log ExAccErr in per cent by length, where it was measured and is defined. The run may be there already, from a table
        that does not show it."""
        if result.exposure is None:
            return
        known = self.client.get_run(run).data.metrics
        for length, value in zip(result.exposure["lengths"], result.exposure["excess_error"], strict=True):
            name = f"exposure/excess_error_{length}"
            if value is not None and known.get(name) != value:
                self.client.log_metric(run, name, value)

    def child(self, result: RunResult, spec: TableSpec | CheckSpec, parent: str) -> str:
        """Id of the MLflow run of one training run, logged now if it was not. Its card is always logged: it names a twin, which
        comes and goes with the tables, without training."""
        row, card = result.row, result.card
        content = digest([{k: v for k, v in card.items() if k not in ("twin", "warnings")}, result.evaluation.summary])
        run = self.finished(row.run, content) or self._train(result, spec, {DIGEST: content, "mlflow.parentRunId": parent})
        self.client.log_artifact(run, str(result.card_path), "run")
        return run

    def _train(self, result: RunResult, spec: TableSpec | CheckSpec, tags: dict[str, str]) -> str:
        """Log a training run without its card."""
        from mlflow.entities import Metric, Param

        row, written = result.row, int(result.card_path.stat().st_mtime * 1000)
        labels = {"mgsr.family": row.family, "mgsr.method": row.method, "mgsr.training_seed": str(row.seed)}
        run = self._create(row.run, f"{row.family} {row.title} seed {row.seed}", labels | tags)
        values = [Metric(name, value, written, step) for (name, step), value in metrics(result, spec).items()]
        self.client.log_batch(run, values, [Param(key, value) for key, value in params(result).items()])
        self.client.log_artifact(run, str(result.evaluation.folder / "summary.json"), "evaluation")
        self.client.set_terminated(run)
        return run

    def _create(self, key: str, name: str, tags: dict[str, str]) -> str:
        run = self.client.create_run(self.experiment, tags={KEY: key, **tags}, run_name=name)
        return str(run.info.run_id)


def sync(root: Path, name: str) -> dict[str, Any]:
    """Log every run of the page `name` once, and the page's files; then write ROOT/<name>.mlflow.json and return its value.

    Without `tracking.uri` the store is the sqlite file ROOT/mlflow.db. Syncs at the same time wait for each other (sqlite: at a
    lock file beside the store; else: at one beside the receipt).
    """
    spec, receipt = read_plan(root, name, PageSpec), root / f"{name}.mlflow.json"
    if not spec.tables:
        raise MgsrError(f"{name} names no table; there is nothing to log")
    uri, experiment = spec.tracking.uri or f"{SQLITE}{root.resolve() / 'mlflow.db'}", spec.tracking.experiment
    if re.match(r"(file:|/|\.|$)", uri):
        raise MgsrError(
            f"tracking.uri: '{uri}' is a folder, which MLflow no longer takes; use {SQLITE}PATH or a server's address"
        )
    files = page_files(root, spec)
    place, artifacts = receipt, None
    if uri.startswith(SQLITE):
        place = Path(uri.removeprefix(SQLITE)).resolve()
        artifacts = place.with_name("mlartifacts").as_uri()  # absolute, as MLflow needs
    with file_lock(place.with_name(f"{place.name}.lock")):
        store = _Store(_client(uri), experiment, artifacts)
        parent, runs = store.parent(spec.tables[0], files), dict[str, str]()
        parts: list[TableSpec | CheckSpec] = [*spec.tables, *spec.checks]
        for shown in parts:
            for result in (result for method in load_results(shown, root).methods for result in method.runs):
                if result.row.run not in runs:
                    runs[result.row.run] = store.child(result, shown, parent)
                store.exposure(result, runs[result.row.run])
    value = {"schema": 1, "experiment": experiment, "uri_kind": uri.partition(":")[0], "runs": dict(sorted(runs.items()))}
    write_json(receipt, value)
    return value
