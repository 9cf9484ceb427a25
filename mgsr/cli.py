"""The command `mgsr`: one subcommand for each kind of job in the workflow. Heavy imports wait until a job needs them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mgsr.config.record_sets import DataConfig
from mgsr.config.schema import Config
from mgsr.config.specs import DataSpec, EvaluationSpec, ExposureSpec, ModelSpec, ProbeSpec, RunSpec, SamplesSpec
from mgsr.errors import MgsrError
from mgsr.storage import read_json, write_json


def prepare(arguments: argparse.Namespace) -> None:
    from mgsr.data.prepare import prepare as prepare_data

    prepare_data(DataSpec.model_validate_json(arguments.spec), arguments.out, arguments.lock)


def build_model(arguments: argparse.Namespace) -> None:
    from mgsr.models.build import build_model as build

    build(ModelSpec.model_validate_json(arguments.spec), arguments.out, arguments.base, arguments.lock)


def train(arguments: argparse.Namespace) -> None:
    from mgsr.devices import lease_gpus

    spec = RunSpec.model_validate_json(arguments.spec)
    if spec.candidates:
        from mgsr.training.select import select

        return select(arguments.run, spec, arguments.root)
    if spec.method.role == "checkpoint":
        from mgsr.training.adopt import adopt

        return adopt(arguments.run, spec, arguments.root)
    with lease_gpus(spec.processes):
        if spec.processes == 1:
            from mgsr.training.trainer import train as train_run

            train_run(arguments.run, spec, arguments.root)
            return
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={spec.processes}"]
        given = {"MGSR_RUN": arguments.run, "MGSR_SPEC": arguments.spec, "MGSR_ROOT": str(arguments.root)}
        status = subprocess.run([*command, "-m", "mgsr.training.trainer"], env={**os.environ, **given}).returncode
        if status:
            raise MgsrError(f"run {arguments.run}: a process failed with status {status}; its message stands above")


def card(arguments: argparse.Namespace) -> None:
    from mgsr.tables.card import write_card

    write_card(arguments.record, arguments.twin, arguments.out)


def evaluate(arguments: argparse.Namespace) -> None:
    from mgsr.devices import lease_gpus

    with lease_gpus(1):
        from mgsr.evaluation.evaluator import evaluate as evaluate_run

        evaluate_run(arguments.name, EvaluationSpec.model_validate_json(arguments.spec), arguments.root)


def sample_teacher(arguments: argparse.Namespace) -> None:
    from mgsr.devices import lease_gpus

    with lease_gpus(1):
        from mgsr.evaluation.exposure import sample_teacher as sample

        sample(arguments.name, SamplesSpec.model_validate_json(arguments.spec), arguments.root)


def exposure(arguments: argparse.Namespace) -> None:
    from mgsr.devices import lease_gpus

    with lease_gpus(1):
        from mgsr.evaluation.exposure import measure_exposure

        measure_exposure(arguments.name, ExposureSpec.model_validate_json(arguments.spec), arguments.root)


def probe(arguments: argparse.Namespace) -> None:
    from mgsr.devices import lease_gpus

    with lease_gpus(1):
        from mgsr.evaluation.probe import probe as probe_models

        probe_models(arguments.name, ProbeSpec.model_validate_json(arguments.spec), arguments.root)


def floor(arguments: argparse.Namespace) -> None:
    from mgsr.evaluation.floor import write_floor

    write_floor(arguments.data, DataConfig.model_validate_json(arguments.config).test_rows, arguments.out)


def _kept_cells(arguments: argparse.Namespace) -> Path:
    """The cells given as JSON, kept beside what is made of them."""
    cells = json.loads(arguments.cells)
    path: Path = arguments.folder / f"{cells['table']}.cells.json"
    write_json(path, cells)
    return path


def table(arguments: argparse.Namespace) -> None:
    from mgsr.tables.registry import write

    write(_kept_cells(arguments), arguments.folder)


def open_check(arguments: argparse.Namespace) -> None:
    from mgsr.tables.open_checks import write

    write(_kept_cells(arguments), arguments.folder)


def claims(arguments: argparse.Namespace) -> None:
    from mgsr.tables.claims import write

    tables = [read_json(path) for path in arguments.cells]
    named = {key: tables[0][key] for key in ("preset", "recipe", "note")}
    path = arguments.folder / "claims.cells.json"
    write_json(path, {"table": "claims", **named, "tables": {cells["table"]: cells for cells in tables}})
    write(path, arguments.folder)


def report(arguments: argparse.Namespace) -> None:
    from mgsr.tables.report import write

    write(arguments.cells, arguments.out)


def track(arguments: argparse.Namespace) -> None:
    from mgsr.tables.tracking import sync

    sync(arguments.cells, arguments.uri or None, arguments.experiment, arguments.receipt)


def lock(arguments: argparse.Namespace) -> None:
    from mgsr.config.families import HubModel
    from mgsr.config.load import load_config
    from mgsr.config.plan import make_plan
    from mgsr.data.hub_records import SOURCES
    from mgsr.hub import lock_names

    plan = make_plan(arguments.workflow, load_config(arguments.workflow, {"preset": arguments.preset}))
    models = sorted({spec.model.name for spec in plan.models.values() if isinstance(spec.model, HubModel)})
    print(
        json.dumps(
            lock_names(arguments.lock, datasets=sorted({name for name, _, _ in SOURCES.values()}), models=models), indent=2
        )
    )


def schema(arguments: argparse.Namespace) -> None:
    from mgsr.config.reference import markdown

    print(markdown() if arguments.markdown else json.dumps(Config.model_json_schema(), indent=2, sort_keys=True))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mgsr", description="Jobs of the MGSR workflow. Snakemake calls them; so can you.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Any, name: str, text: str, /, **options: Any) -> None:
        sub = commands.add_parser(name, help=text, description=text)
        for option, kind in options.items():
            if kind is bool:
                sub.add_argument(f"--{option}", action="store_true")
                continue
            required = option not in ("base", "uri", "twin")
            sub.add_argument(
                f"--{option}", type=kind, required=required, nargs="+" if option == "cells" and kind is Path else None
            )
        sub.set_defaults(function=function)

    command(prepare, "prepare", "Write the records of all sets and their manifest.", spec=str, out=Path, lock=Path)
    command(build_model, "build-model", "Write a base model's folder.", spec=str, out=Path, base=Path, lock=Path)
    command(train, "train", "Train one run, from its last checkpoint where there is one.", run=str, spec=str, root=Path)
    command(card, "card", "Write a run's card from its record and its twin's.", record=Path, twin=Path, out=Path)
    command(evaluate, "evaluate", "Answer and score all test sets with one run's model.", name=str, spec=str, root=Path)
    command(sample_teacher, "sample-teacher", "Write a teacher's samples for ExAccErr.", name=str, spec=str, root=Path)
    command(exposure, "exposure", "Measure one run's ExAccErr.", name=str, spec=str, root=Path)
    command(probe, "probe", "Injected errors, span statistics and diversity of a family.", name=str, spec=str, root=Path)
    command(floor, "floor", "Score answers borrowed from other rows of the same kind.", data=Path, config=str, out=Path)
    command(table, "table", "Write a table as CSV, Markdown and LaTeX.", cells=str, folder=Path)
    command(claims, "claims", "Judge the paper's claims by the cells of the tables.", cells=Path, folder=Path)
    command(open_check, "open-check", "Write an open check as CSV, figure and text.", cells=str, folder=Path)
    command(report, "report", "Write the HTML report.", cells=Path, out=Path)
    command(track, "track", "Sync runs, scores and tables to MLflow.", cells=Path, uri=str, experiment=str, receipt=Path)
    command(lock, "lock", "Resolve a preset's hub names to commit ids in the lock file.", preset=str, workflow=Path, lock=Path)
    command(schema, "schema", "Print the JSON schema of the configuration, or its reference page.", markdown=bool)
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    try:
        arguments.function(arguments)
    except MgsrError as error:
        sys.exit(f"mgsr: {error}")
