# From records to tables: data -> models -> runs -> evaluations -> tables -> report, MLflow.
# `snakemake --cores all` is the paper; `snakemake --cores 2 --config preset=smoke` is the smoke test.
import shlex
import sys
from pathlib import Path

from snakemake.settings.types import DeploymentMethod
from snakemake.utils import min_version

from mgsr.config.load import load_config
from mgsr.config.plan import make_plan
from mgsr.cli import DEVICE
from mgsr.cost.summary import paragraph
from mgsr.errors import MgsrError
from mgsr.preflight import lock_data_sets, preflight

min_version("9.27")

WORKFLOW = Path(workflow.basedir) / "workflow"

try:
    CONFIG = load_config(WORKFLOW, config)
    lock_data_sets(CONFIG)
    PLAN = make_plan(WORKFLOW, CONFIG)
    PLAN.write()
except MgsrError as error:
    sys.exit(f"mgsr: {error}")

ROOT = str(PLAN.root)


wildcard_constraints:
    digest="[0-9a-f]{16}",
    table="|".join(PLAN.tables),
    check="|".join(PLAN.checks),
    page="report|everything",


# Read with `--software-deployment-method apptainer` only; made by `apptainer build mgsr.sif workflow/container.def`.
container: "mgsr.sif"


localrules:
    all,
    everything,
    data,
    claims,
    open_checks,
    report,
    mlflow,


rule all:
    input:
        lambda wildcards: page_files("report"),


rule everything:
    input:
        lambda wildcards: page_files("everything"),


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/collect.smk"


onstart:
    try:
        jobs = workflow.dag.needrun_jobs()
        asked = {name for job in jobs for name in job.wildcards_dict.values()}
        print(paragraph(PLAN, asked, DEVICE), file=sys.stderr)
        preflight(PLAN, asked)
    except MgsrError as error:
        sys.exit(f"mgsr: {error}")


onsuccess:
    printed = ("write_table", "write_claims", "write_check")
    files = {str(file) for job in workflow.dag.jobs for file in job.output if job.rule.name in printed}
    for path in sorted(files):
        if path.endswith(".md"):
            print(Path(path).read_text(encoding="utf-8"))
