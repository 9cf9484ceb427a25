"""The command `mgsr`: subcommands for people, and one for each stage of the workflow.

A job is `mgsr STAGE --root ROOT --name NAME`; all else stands in files below ROOT: `specs/NAME.json` or `plan/NAME.json`. A
stage's module is imported when the stage is called.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from mgsr import __version__
from mgsr.config.code_check import planned_code
from mgsr.config.stages import STAGES
from mgsr.devices import lease_gpus
from mgsr.errors import MgsrError
from mgsr.storage import is_sealed

DEVICE = "a100-80gb"  # that costs are told for where none is named


def schema(arguments: argparse.Namespace) -> None:
    from mgsr.config.schema import Config

    print(json.dumps(Config.model_json_schema(), indent=2, sort_keys=True))


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


def doctor(arguments: argparse.Namespace) -> None:
    with lease_gpus(2):
        from mgsr.doctor import main as examine  # it imports torch

        examine()


def merge(arguments: argparse.Namespace) -> None:
    from mgsr.models.loading import load_model, load_tokenizer, save_model

    model: Any = load_model(arguments.folder)
    save_model(model, load_tokenizer(arguments.folder), arguments.out)


def verify(arguments: argparse.Namespace) -> None:
    from mgsr.verify import verify as examine

    found = examine(arguments.root)
    for what, wrong in found.items():
        print(f"{what}: {f'{len(wrong)} wrong' if wrong else 'all right'}", *wrong, sep="\n  ")
    print("Not made again: records, models, answers and measurements. Delete a run, and the workflow trains it again.")
    if any(found.values()):
        raise MgsrError(f"{arguments.root}: {sum(map(len, found.values()))} things are not as they were made")


def runs(arguments: argparse.Namespace) -> None:
    from mgsr.inspection.runs import runs_text

    print(runs_text(arguments.root))


def compare(arguments: argparse.Namespace) -> None:
    from mgsr.inspection.compare import compare_text

    print(compare_text(arguments.root, arguments.first, arguments.second))


def samples(arguments: argparse.Namespace) -> None:
    from mgsr.inspection.samples import samples_text

    print(samples_text(arguments.root, arguments.prompt, arguments.random, arguments.seed))


def _given(files: list[Path], settings: list[str]) -> dict[str, Any]:
    """The configuration of overlay files and of `key=value`, as Snakemake takes them from --configfile and --config."""
    import yaml

    from mgsr.config.load import merge, read_yaml

    given: dict[str, Any] = {}
    for file in files:
        given = merge(given, read_yaml(file))
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not key or not sign:
            raise MgsrError(f"'{setting}' is no setting; write key=value, as in preset=paper")
        try:
            given = merge(given, {key: yaml.safe_load(value)})
        except yaml.YAMLError as error:
            raise MgsrError(f"{key}: '{value}' is not valid YAML ({error})") from None
    return given


def plan(arguments: argparse.Namespace) -> None:
    from mgsr.config.load import load_config
    from mgsr.config.plan import make_plan
    from mgsr.cost.jobs import needed
    from mgsr.cost.memory import peak_memory_of
    from mgsr.cost.summary import full_text

    made = make_plan(arguments.workflow, load_config(arguments.workflow, _given(arguments.configfile, arguments.settings)))
    jobs = needed(made, arguments.target)

    def tell(work: str) -> None:
        print(f"mgsr: counting bytes of {work}", file=sys.stderr, flush=True)

    memory = peak_memory_of(made, jobs, tell) if arguments.memory else []
    print(full_text(made, arguments.target, arguments.device, memory))


def run_stage(stage: str, root: Path, name: str) -> None:
    """Do a job, unless a former one has: Snakemake repeats a job whose end it did not see."""
    job = STAGES[stage]
    if job.makes and is_sealed(root / job.makes / name):
        return
    with lease_gpus(job.gpus), planned_code(root, name, stage):
        getattr(import_module(job.module), job.function)(root, name)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mgsr", description="The workflow itself is run by `snakemake`; see README.md.")
    parser.add_argument("--version", action="version", version=f"mgsr {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands for people, then jobs of the workflow")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    people = command("schema", "Print the JSON schema of the configuration.")
    people.set_defaults(function=schema)
    people = command(
        "plan", "Tell what a configuration costs: jobs, GPU-hours, peak memory, disk. It asks no network and no GPU."
    )
    people.add_argument(
        "settings", nargs="*", metavar="key=value", help="as for snakemake --config: preset=paper recipe=controlled"
    )
    people.add_argument("--configfile", nargs="+", type=Path, default=[], help="overlays, as for snakemake")
    people.add_argument("--target", default="all", help="what is made (default: %(default)s)")
    people.add_argument("--device", default=DEVICE, help="a device of mgsr/cost/assumptions.yaml (default: %(default)s)")
    people.add_argument("--no-memory", dest="memory", action="store_false", help="leave peak memory out, which takes minutes")
    people.add_argument("--workflow", type=Path, default=Path("workflow"), help="the folder workflow/ (default: %(default)s)")
    people.set_defaults(function=plan)
    people = command("verify", "Check a results folder: checksums, names, and what can be made again from what is kept.")
    people.add_argument("root", type=Path, help="the results folder of a preset, such as results/smoke")
    people.set_defaults(function=verify)
    people = command("runs", "List the finished runs of a results folder with their scores and warnings.")
    people.add_argument("root", type=Path, help="the results folder of a preset, such as results/smoke")
    people.set_defaults(function=runs)
    people = command("compare", "Compare two runs or methods by test set, and show the prompts that changed most.")
    people.add_argument("root", type=Path, help="the results folder of a preset, such as results/smoke")
    people.add_argument("first", help="a method's name or title, or the beginning of a run's digest")
    people.add_argument("second", help="likewise")
    people.set_defaults(function=compare)
    people = command("samples", "Show prompts with their references and the answer of every method.")
    people.add_argument("root", type=Path, help="the results folder of a preset, such as results/smoke")
    people.add_argument("--prompt", help="the id of one prompt")
    people.add_argument("--random", type=int, default=3, help="how many prompts to draw (default: %(default)s)")
    people.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    people.set_defaults(function=samples)
    people = command("lock", "Resolve the hub names of a preset to commits, in the lock file of its results folder.")
    people.add_argument("--preset", required=True, help="a file of workflow/presets")
    people.add_argument("--workflow", type=Path, default=Path("workflow"), help="the folder workflow/ (default: %(default)s)")
    people.add_argument("--results", default="results", help="the folder of results (default: %(default)s)")
    people.set_defaults(function=lock)
    people = command("doctor", "Examine in two minutes whether this machine's devices compute what they should.")
    people.set_defaults(function=doctor)
    people = command("merge", "Write a run's model whole, its adapters merged in, for use elsewhere.")
    people.add_argument("folder", type=Path, help="runs/<digest>/model of a results folder")
    people.add_argument("out", type=Path, help="the new folder")
    people.set_defaults(function=merge)
    for name, stage in STAGES.items():
        job = command(name, f"Job: {stage.text}")
        job.add_argument("--root", type=Path, required=True, help="the results folder of a preset")
        job.add_argument("--name", required=True, help="digest of the job's spec, or name of what it writes")
        job.set_defaults(function=lambda arguments, stage=name: run_stage(stage, arguments.root, arguments.name))
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    try:
        arguments.function(arguments)
    except MgsrError as error:
        sys.exit(f"mgsr: {error}")
