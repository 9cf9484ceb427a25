"""The command `mgsr`: subcommands for people, and one for each kind of job of the workflow.

A job is `mgsr STAGE --root ROOT --name NAME`; all else stands in files below ROOT: `specs/NAME.json` or `plan/NAME.json`. Heavy
imports wait until a job needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mgsr import __version__
from mgsr.config.schema import Config
from mgsr.config.specs import (
    AdoptSpec,
    ExposureSpec,
    ModelSpec,
    ProbeSpec,
    SamplesSpec,
    SelectSpec,
    read_run_spec,
    read_spec,
)
from mgsr.config.table_specs import CardSpec, read_plan
from mgsr.devices import lease_gpus
from mgsr.errors import MgsrError

# -- for people --------------------------------------------------------------------------------------------------------


def schema(arguments: argparse.Namespace) -> None:
    from mgsr.config.reference import markdown

    print(markdown() if arguments.markdown else json.dumps(Config.model_json_schema(), indent=2, sort_keys=True))


def lock(arguments: argparse.Namespace) -> None:
    from mgsr.config.families import HubModel
    from mgsr.config.load import load_config
    from mgsr.config.plan import make_plan
    from mgsr.config.plan_records import hub_data_sets
    from mgsr.hub import lock_names, lock_path

    config = load_config(arguments.workflow, {"preset": arguments.preset, "results": arguments.results})
    plan = make_plan(arguments.workflow, config)
    models = sorted({spec.model.name for spec in plan.models.values() if isinstance(spec.model, HubModel)})
    print(json.dumps(lock_names(lock_path(plan.root), datasets=hub_data_sets(config.data), models=models), indent=2))


# -- jobs --------------------------------------------------------------------------------------------------------------


def prepare_data(root: Path, name: str) -> None:
    from mgsr.data.prepare import prepare_data

    prepare_data(root, name)


def prepare_test_set(root: Path, name: str) -> None:
    from mgsr.data.prepare import prepare_test_set

    prepare_test_set(root, name)


def build_model(root: Path, name: str) -> None:
    from mgsr.hub import lock_path
    from mgsr.models.build import build_model

    spec = read_spec(root, name, ModelSpec)
    models = root / "models"
    build_model(spec, models / name, models / spec.source if spec.source else None, lock_path(root))


def train(root: Path, name: str) -> None:
    spec = read_run_spec(root, name)
    if isinstance(spec, SelectSpec):
        from mgsr.training.select import select

        return select(name, spec, root)
    if isinstance(spec, AdoptSpec):
        from mgsr.training.adopt import adopt

        return adopt(name, spec, root)
    with lease_gpus(spec.processes):
        if spec.processes == 1:
            from mgsr.training.trainer import train

            return train(name, spec, root)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={spec.processes}"]
        environment = {**os.environ, "MGSR_ROOT": str(root), "MGSR_RUN": name}
        status = subprocess.run([*command, "-m", "mgsr.training.trainer"], env=environment).returncode
    if status:
        raise MgsrError(f"run {name}: a process failed with status {status}; its message stands above")


def card(root: Path, name: str) -> None:
    from mgsr.tables.card import write_card

    runs, spec = root / "runs", read_plan(root, name, CardSpec)
    twin = runs / spec.twin / "training.json" if spec.twin else None
    write_card(runs / name / "training.json", twin, runs / name / "card.json")


def evaluate(root: Path, name: str) -> None:
    with lease_gpus(1):
        from mgsr.evaluation.evaluator import evaluate

        evaluate(root, name)


def floor(root: Path, name: str) -> None:
    from mgsr.evaluation.floor import write_floor

    write_floor(root, name)


def sample_teacher(root: Path, name: str) -> None:
    with lease_gpus(1):
        from mgsr.evaluation.exposure import sample_teacher

        sample_teacher(name, read_spec(root, name, SamplesSpec), root)


def exposure(root: Path, name: str) -> None:
    with lease_gpus(1):
        from mgsr.evaluation.exposure import measure_exposure

        measure_exposure(name, read_spec(root, name, ExposureSpec), root)


def probe(root: Path, name: str) -> None:
    with lease_gpus(1):
        from mgsr.evaluation.probe import probe

        probe(name, read_spec(root, name, ProbeSpec), root)


def table(root: Path, name: str) -> None:
    from mgsr.tables.registry import write_table

    write_table(root, name)


def open_check(root: Path, name: str) -> None:
    from mgsr.tables.open_checks import write_check

    write_check(root, name)


def claims(root: Path, _name: str) -> None:
    from mgsr.tables.claims import write_claims

    write_claims(root)


def report(root: Path, name: str) -> None:
    from mgsr.tables.report import write_report

    write_report(root, name)


def track(root: Path, name: str) -> None:
    from mgsr.tables.tracking import sync

    sync(root, name)


JOBS: dict[str, tuple[Callable[[Path, str], None], str]] = {
    "prepare-data": (prepare_data, "Write the training and validation records and their manifest."),
    "prepare-test-set": (prepare_test_set, "Write the records of a test set and their manifest."),
    "build-model": (build_model, "Write the folder of a base model."),
    "train": (train, "Train a run, from its last checkpoint where there is one; or select or adopt its model."),
    "card": (card, "Write the card of a run from its record and its twin's."),
    "evaluate": (evaluate, "Answer and score all test sets with the model of a run."),
    "floor": (floor, "Score answers borrowed from other rows of the same kind."),
    "sample-teacher": (sample_teacher, "Write a teacher's samples for ExAccErr."),
    "exposure": (exposure, "Measure the ExAccErr of a run."),
    "probe": (probe, "Measure injected errors, span statistics and diversity of a family."),
    "table": (table, "Write a table as CSV, Markdown and LaTeX."),
    "open-check": (open_check, "Write an open check as CSV, figure and text."),
    "claims": (claims, "Judge the paper's claims by the results of the tables."),
    "report": (report, "Write the HTML report."),
    "track": (track, "Sync runs, scores and tables to MLflow."),
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mgsr", description="The workflow itself is run by `snakemake`; see README.md.")
    parser.add_argument("--version", action="version", version=f"mgsr {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands for people, then jobs of the workflow")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    people = command("schema", "Print the JSON schema of the configuration, or its reference page.")
    people.add_argument("--markdown", action="store_true", help="print the reference page, docs/configuration.md")
    people.set_defaults(function=schema)
    people = command("lock", "Resolve the hub names of a preset to commits, in the lock file of its results folder.")
    people.add_argument("--preset", required=True, help="a file of workflow/presets")
    people.add_argument("--workflow", type=Path, default=Path("workflow"), help="the folder workflow/ (default: %(default)s)")
    people.add_argument("--results", default="results", help="the folder of results (default: %(default)s)")
    people.set_defaults(function=lock)
    for name, (function, text) in JOBS.items():
        job = command(name, f"Job: {text}")
        job.add_argument("--root", type=Path, required=True, help="the results folder of a preset")
        job.add_argument("--name", required=True, help="digest of the job's spec, or name of what it writes")
        job.set_defaults(function=lambda arguments, function=function: function(arguments.root, arguments.name))
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    try:
        arguments.function(arguments)
    except MgsrError as error:
        sys.exit(f"mgsr: {error}")
