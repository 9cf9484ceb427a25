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
TABLES = f"{ROOT}/tables"
CELLS = expand(f"{TABLES}/{{table}}.cells.json", table=PLAN.config.default_tables)


wildcard_constraints:
    model="[0-9a-f]{16}",
    run="[0-9a-f]{16}",
    evaluation="[0-9a-f]{16}",
    table="[a-z0-9]+",


# Read with `--software-deployment-method apptainer` only; made by `apptainer build mgsr.sif workflow/container.def`.
container: "mgsr.sif"


localrules:
    all,
    data,
    table1,
    table2,
    report,
    mlflow,


rule all:
    input:
        CELLS,
        f"{ROOT}/report.html",
        f"{ROOT}/mlflow.json",


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
    asked = {job.wildcards.table for job in workflow.dag.jobs if job.rule.name == "write_table"}
    for name in sorted(asked):
        print(Path(TABLES, f"{name}.md").read_text(encoding="utf-8"))
