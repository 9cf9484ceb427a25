"""Finished results in; MLflow runs out. One process syncs them all, since parallel jobs crash a fresh sqlite store.

A parent run for each preset and recipe holds the tables, the open checks and the claims' verdicts; each training run is one
child, whichever tables and checks show it. Runs are found again by tags, so a second sync adds nothing.
"""

from __future__ import annotations

import csv
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
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

PARAM_LENGTH = 6000  # characters; MLflow refuses more
PARAMS_PER_CALL, METRICS_PER_CALL = 100, 1000  # MLflow's limits of log_batch
SQLITE = "sqlite:///"
LOGGED = (".csv", ".md", ".tex", ".svg")
KEY, DIGEST, CARD, CUT = "mgsr.key", "mgsr.digest", "mgsr.card_digest", "mgsr.cut_params"
NOTE = " ... (cut; whole in card.json)"


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings made one mapping with dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}{key}.") if isinstance(item, Mapping) and item else {f"{prefix}{key}": item}
    return flat


def metric_name(name: str) -> str:
    """`name` in the characters that MLflow takes: no @, no parentheses."""
    return re.sub(r"[^\w\-./ ]", "_", name, flags=re.ASCII)


def params(run: RunResult) -> tuple[dict[str, str], list[str]]:
    """Resolved configuration as MLflow params, and the keys of values cut at 6,000 characters."""
    flat = {metric_name(key): str(value) for key, value in flatten(run.card["spec"]).items()}
    if run.card["candidates"]:  # the spec names the grid, the card what was chosen of it
        flat["method.training.learning_rate"] = str(run.card["learning_rate"])
    cut = [key for key, value in flat.items() if len(value) > PARAM_LENGTH]
    return flat | {key: flat[key][: PARAM_LENGTH - len(NOTE)] + NOTE for key in cut}, cut


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


def exposure_metrics(run: RunResult) -> dict[str, float]:
    """ExAccErr in per cent by length, where it was measured and is defined."""
    if run.exposure is None:
        return {}
    values = zip(run.exposure["lengths"], run.exposure["excess_error"], strict=True)
    return {f"exposure/excess_error_{length}": float(value) for length, value in values if value is not None}


def claim_facts(table: Path) -> list[tuple[str, float | None, str]]:
    """Name, effect and verdict of each claim, from the line of claims.csv that decides it."""
    with table.open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["hardest"] == "True"]
    return [
        (
            metric_name(f"claims/{line['claim']}/{line['family']}/{line['protocol']}"),
            None if line["effect"] == MISSING else float(line["effect"]),
            line["verdict"],
        )
        for line in lines
    ]


def page_files(root: Path, spec: PageSpec) -> list[Path]:
    """The files of a page's tables, claims and open checks. Raises MgsrError where one of them was not made."""
    made = [("tables", name) for name in (*(table.name for table in spec.tables), *(["claims"] if spec.claims else []))]
    made += [("open_checks", check.name) for check in spec.checks]
    files = [[root / folder / f"{name}{suffix}" for suffix in LOGGED] for folder, name in made]
    if missing := [csv_file for csv_file, *_ in files if not csv_file.is_file()]:
        raise MgsrError(f"{missing[0]} is not there; make it first")
    return [file for group in files for file in group if file.is_file()]


def _client(uri: str) -> MlflowClient:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read at import
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


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

    def parent(self, spec: TableSpec, files: Sequence[Path], claims: Path | None) -> str:
        """Id of the preset's run; tables, checks and claims are logged anew when their bytes changed."""
        key = f"{spec.preset}/{spec.recipe}"
        content = digest({f"{file.parent.name}/{file.name}": file_digest(file) for file in files})
        run = self.finished(key, None) or self._create(key, key, {"mgsr.preset": spec.preset, "mgsr.recipe": spec.recipe})
        if self.client.get_run(run).data.tags.get(DIGEST) != content:
            for file in files:
                self.client.log_artifact(run, str(file), file.parent.name)
            for name, effect, verdict in claim_facts(claims) if claims else ():
                self.client.set_tag(run, f"mgsr.{name}", verdict)
                if effect is not None:
                    self.client.log_metric(run, name, effect)
            self.client.set_tag(run, "mlflow.note.content", spec.note)
            self.client.set_tag(run, DIGEST, content)
            self.client.set_terminated(run)
        return run

    def exposure(self, result: RunResult, run: str) -> None:
        """Log ExAccErr to the child of a run, which may be there from a table that does not show it."""
        known = self.client.get_run(run).data.metrics
        for name, value in exposure_metrics(result).items():
            if known.get(name) != value:
                self.client.log_metric(run, name, value)

    def child(self, result: RunResult, spec: TableSpec | CheckSpec, parent: str) -> str:
        """Id of the MLflow run of one training run, logged now if it was not. A twin comes and goes with the tables, without
        training: then the card alone is logged anew."""
        row, card = result.row, result.card
        content = digest([{k: v for k, v in card.items() if k not in ("twin", "warnings")}, result.evaluation.summary])
        if known := self.finished(row.run, content):
            if self.client.get_run(known).data.tags[CARD] != digest(card):
                self.client.log_artifact(known, str(result.card_path), "run")
                self.client.set_tag(known, CARD, digest(card))
            return known
        flat, cut = params(result)
        labels = {"mgsr.family": row.family, "mgsr.method": row.method, "mgsr.training_seed": str(row.seed)}
        labels |= {DIGEST: content, CARD: digest(card)}
        labels |= {"mlflow.parentRunId": parent} | ({CUT: " ".join(cut)} if cut else {})
        run = self._create(row.run, f"{row.family} {row.title} seed {row.seed}", labels)
        self._log(run, flat, metrics(result, spec), int(result.card_path.stat().st_mtime * 1000))
        for file, folder in ((result.card_path, "run"), (result.evaluation.folder / "summary.json", "evaluation")):
            self.client.log_artifact(run, str(file), folder)
        self.client.set_terminated(run)
        return run

    def _create(self, key: str, name: str, tags: dict[str, str]) -> str:
        run = self.client.create_run(self.experiment, tags={KEY: key, **tags}, run_name=name)
        return str(run.info.run_id)

    def _log(self, run: str, flat: dict[str, str], values: dict[tuple[str, int], float], time: int) -> None:
        from mlflow.entities import Metric, Param

        for part in _parts([Param(key, value) for key, value in flat.items()], PARAMS_PER_CALL):
            self.client.log_batch(run, params=part)
        for part in _parts([Metric(name, value, time, step) for (name, step), value in values.items()], METRICS_PER_CALL):
            self.client.log_batch(run, metrics=part)


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
    database = Path(uri.removeprefix(SQLITE)).resolve() if uri.startswith(SQLITE) else None
    lock = database.with_name(f"{database.name}.lock") if database else receipt.with_name(f"{receipt.name}.lock")
    artifacts = database.with_name("mlartifacts").as_uri() if database else None  # absolute, as MLflow needs
    with file_lock(lock):
        store = _Store(_client(uri), experiment, artifacts)
        claims = root / "tables" / "claims.csv" if spec.claims else None
        parent, runs = store.parent(spec.tables[0], files, claims), dict[str, str]()
        parts: list[TableSpec | CheckSpec] = [*spec.tables, *spec.checks]
        for shown in parts:
            for result in (result for method in load_results(shown, root).methods for result in method.runs):
                if result.row.run not in runs:
                    runs[result.row.run] = store.child(result, shown, parent)
                store.exposure(result, runs[result.row.run])
    value = {"schema": 1, "experiment": experiment, "uri_kind": uri.partition(":")[0], "runs": dict(sorted(runs.items()))}
    write_json(receipt, value)
    return value
