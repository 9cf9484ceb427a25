# From records to tables: data -> models -> runs -> evaluations -> tables -> report, MLflow.
# `snakemake --cores all` is the paper; `snakemake --cores 2 --config preset=smoke` is the smoke test.
import json
import sys
from pathlib import Path

from snakemake.utils import min_version

from mgsr.config.identity import code_digest
from mgsr.config.load import load_config
from mgsr.config.plan import STAGES, make_plan
from mgsr.errors import MgsrError
from mgsr.preflight import preflight
from mgsr.storage import canonical_json

min_version("9.27")

try:
    PLAN = make_plan(Path(workflow.basedir) / "workflow", load_config(Path(workflow.basedir) / "workflow", config))
except MgsrError as error:
    sys.exit(f"mgsr: {error}")

ROOT = str(PLAN.root)
LOCK = "results/hub.lock.json"
DATA = f"{ROOT}/data/{PLAN.data_name}"
TABLES, CHECKS = f"{ROOT}/tables", f"{ROOT}/open_checks"
TARGETS = {"report": PLAN.config.default_targets, "everything": (*PLAN.config.tables, "claims", "open_checks")}


wildcard_constraints:
    model="[0-9a-f]{16}",
    run="[0-9a-f]{16}",
    evaluation="[0-9a-f]{16}",
    samples="[0-9a-f]{16}",
    exposure="[0-9a-f]{16}",
    probe="[0-9a-f]{16}",
    table="|".join(PLAN.tables),
    check="|".join(PLAN.checks),
    scope="report|everything",


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
        lambda wildcards: scope_files("report"),


rule everything:
    input:
        lambda wildcards: scope_files("everything"),


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/collect.smk"


onstart:
    try:
        preflight(PLAN)
    except MgsrError as error:
        sys.exit(f"mgsr: {error}")


onsuccess:
    printed = ("write_table", "write_claims", "write_check")
    files = {str(file) for job in workflow.dag.jobs for file in job.output if job.rule.name in printed}
    for path in sorted(files):
        if path.endswith(".md"):
            print(Path(path).read_text(encoding="utf-8"))
