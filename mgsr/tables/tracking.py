"""Finished results in; MLflow runs out. One process syncs them all, since parallel jobs crash a fresh sqlite store.

A parent run for each preset and recipe holds the tables, the open checks and the claims' verdicts; each training run is one
child, whichever tables and checks show it. Runs are found again by tags, so a second sync adds nothing.
"""

from __future__ import annotations

import csv
import fcntl
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgsr.errors import MgsrError
from mgsr.storage import digest, file_digest, read_json, write_json
from mgsr.tables.render import MISSING
from mgsr.tables.results import AVERAGE, Cell, Cells, parse_cells

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARAM_LENGTH = 6000  # characters; MLflow refuses more
PARAMS_PER_CALL, METRICS_PER_CALL = 100, 1000  # MLflow's limits of log_batch
SQLITE = "sqlite:///"
LOGGED = (".csv", ".md", ".tex", ".svg")
KEY, DIGEST, CARD, CUT = "mgsr.key", "mgsr.digest", "mgsr.card_digest", "mgsr.cut_params"
NOTE = " ... (cut; whole in card.json)"


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}{key}.") if isinstance(item, Mapping) and item else {f"{prefix}{key}": item}
    return flat


def metric_name(name: str) -> str:
    """`name` in the characters that MLflow takes: no @, no parentheses."""
    return re.sub(r"[^\w\-./ ]", "_", name, flags=re.ASCII)


def params(cell: Cell) -> tuple[dict[str, str], list[str]]:
    """Resolved configuration as MLflow params, and the keys of values cut at 6,000 characters."""
    flat = {metric_name(key): str(value) for key, value in flatten(cell.card["spec"]).items()}
    if cell.card["candidates"]:  # the spec names the grid, the card what was chosen of it
        flat["method.training.learning_rate"] = str(cell.card["learning_rate"])
    cut = [key for key, value in flat.items() if len(value) > PARAM_LENGTH]
    return flat | {key: flat[key][: PARAM_LENGTH - len(NOTE)] + NOTE for key in cut}, cut


def metrics(cell: Cell, sets: Iterable[str]) -> dict[tuple[str, int], float]:
    """(metric, step) -> value: metrics.jsonl by kind, scores by protocol and set, held-out divergences, timings.

    Scores: `rouge_l/<protocol>/<set>` is the mean, `rouge_l_seed_<decoding seed>/...` each one.
    """
    found: dict[tuple[str, int], float] = {}
    for line in cell.metrics():
        for name, value in line.items():
            if name not in ("step", "kind") and isinstance(value, int | float):
                found[metric_name(f"{line['kind']}/{name}"), line["step"]] = float(value)
    for protocol in dict.fromkeys(score["protocol"] for score in cell.summary["scores"]):
        means = []
        for name in sets:
            scores = cell.scores(name, protocol)
            means.append(sum(scores.values()) / len(scores))
            found[metric_name(f"rouge_l/{protocol}/{name}"), 0] = means[-1]
            found |= {(metric_name(f"rouge_l_seed_{seed}/{protocol}/{name}"), 0): value for seed, value in scores.items()}
        found[metric_name(f"rouge_l/{protocol}/{AVERAGE}"), 0] = sum(means) / len(means)
    single = {f"heldout/{name}": value for name, value in (cell.summary["heldout"] or {}).items()}
    single |= {f"seconds/{name}": value for name, value in cell.card["timings"].items()}
    single |= {f"evaluation_seconds/{name}": value for name, value in cell.summary["timings"].items()}
    single |= {name: cell.card[name] for name in ("learning_rate", "student_step_share")}
    return found | {(metric_name(name), 0): float(value) for name, value in single.items() if value is not None}


def exposure_metrics(cell: Cell) -> dict[str, float]:
    """ExAccErr in per cent by length, where it was measured and is defined."""
    if cell.exposure is None:
        return {}
    values = zip(cell.exposure["lengths"], cell.exposure["excess_error"], strict=True)
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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other sync holds `path`. The kernel lets go when a process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
        found = client.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage != "active":
            raise MgsrError(f"tracking.experiment: '{experiment}' was deleted in that store; restore it or choose another name")
        self.client = client
        self.experiment = found.experiment_id if found else client.create_experiment(experiment, artifact_location=artifacts)

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

    def parent(self, cells: Cells, folders: Sequence[Path], claims: Path | None) -> str:
        """The preset's run; tables, checks and claims are logged anew when their bytes changed."""
        key = f"{cells.preset}/{cells.recipe}"
        files = [(file, folder.name) for folder in folders for file in sorted(folder.iterdir()) if file.suffix in LOGGED]
        if not files:
            raise MgsrError(f"{', '.join(map(str, folders))} holds no table to log; build the tables first")
        content = digest({f"{place}/{file.name}": file_digest(file) for file, place in files})
        run = self.finished(key, None) or self._create(key, key, {"mgsr.preset": cells.preset, "mgsr.recipe": cells.recipe})
        if self.client.get_run(run).data.tags.get(DIGEST) != content:
            for file, place in files:
                self.client.log_artifact(run, str(file), place)
            for name, effect, verdict in claim_facts(claims) if claims else ():
                self.client.set_tag(run, f"mgsr.{name}", verdict)
                if effect is not None:
                    self.client.log_metric(run, name, effect)
            self.client.set_tag(run, "mlflow.note.content", cells.note)
            self.client.set_tag(run, DIGEST, content)
            self.client.set_terminated(run)
        return run

    def exposure(self, cell: Cell, run: str) -> None:
        """Log ExAccErr to the child of a run, which may be there from a table that does not show it."""
        known = self.client.get_run(run).data.metrics
        for name, value in exposure_metrics(cell).items():
            if known.get(name) != value:
                self.client.log_metric(run, name, value)

    def child(self, cell: Cell, sets: Iterable[str], parent: str) -> str:
        # A twin comes and goes with the tables, without training: then the card alone is logged anew.
        content = digest([{k: v for k, v in cell.card.items() if k not in ("twin", "warnings")}, cell.summary])
        if found := self.finished(cell.run, content):
            if self.client.get_run(found).data.tags[CARD] != digest(cell.card):
                self.client.log_artifact(found, str(cell.card_path), "run")
                self.client.set_tag(found, CARD, digest(cell.card))
            return found
        flat, cut = params(cell)
        labels = {"mgsr.family": cell.family, "mgsr.method": cell.method, "mgsr.training_seed": str(cell.seed)}
        labels |= {DIGEST: content, CARD: digest(cell.card)}
        labels |= {"mlflow.parentRunId": parent} | ({CUT: " ".join(cut)} if cut else {})
        run = self._create(cell.run, f"{cell.family} {cell.title} seed {cell.seed}", labels)
        self._log(run, flat, metrics(cell, sets), int(cell.card_path.stat().st_mtime * 1000))
        for file, place in ((cell.card_path, "run"), (cell.evaluation_path, "evaluation")):
            self.client.log_artifact(run, str(file), place)
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


def read_tables(paths: Sequence[Path]) -> tuple[list[Cells], Path | None]:
    """Cells of tables and open checks, and the CSV of the claims where they are among the files."""
    tables, claims = [], None
    for path in paths:
        value = read_json(path)
        if isinstance(value, dict) and value.get("table") == "claims":
            claims = path.with_name("claims.csv")
        else:
            tables.append(parse_cells(value, path))
    if not tables:
        raise MgsrError("there is no table to log")
    return tables, claims


def sync(cells_paths: Sequence[Path], uri: str | None, experiment: str, receipt: Path) -> dict[str, Any]:
    """Log every run of these tables and checks once, and the files beside the cells; then write and return the receipt.

    `uri` None: a sqlite file mlflow.db beside the first file's folder. Syncs at the same time wait for each other (sqlite: at a
    lock file beside the store; else: at one beside the receipt).
    """
    tables, claims = read_tables(cells_paths)
    folders = list(dict.fromkeys(path.parent for path in cells_paths))
    uri = uri or f"{SQLITE}{folders[0].resolve().parent / 'mlflow.db'}"
    if re.match(r"(file:|/|\.|$)", uri):
        raise MgsrError(
            f"tracking.uri: '{uri}' is a folder, which MLflow no longer takes; use {SQLITE}PATH or a server's address"
        )
    database = Path(uri.removeprefix(SQLITE)).resolve() if uri.startswith(SQLITE) else None
    lock = database.with_name(f"{database.name}.lock") if database else receipt.with_name(f"{receipt.name}.lock")
    artifacts = database.with_name("mlartifacts").as_uri() if database else None  # absolute, as MLflow needs
    with locked(lock):
        store = _Store(_client(uri), experiment, artifacts)
        parent, runs = store.parent(tables[0], folders, claims), dict[str, str]()
        for table in tables:
            runs |= {cell.run: store.child(cell, table.sets, parent) for cell in table.cells if cell.run not in runs}
            for cell in table.cells:
                store.exposure(cell, runs[cell.run])
    value = {"schema": 1, "experiment": experiment, "uri_kind": uri.partition(":")[0], "runs": dict(sorted(runs.items()))}
    write_json(receipt, value)
    return value
