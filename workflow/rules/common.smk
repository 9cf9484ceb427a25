# What the rules share: the command of a job, and what it waits for. Whatever decides lies in the plan (mgsr/config/plan.py).

MEMORY_MB = 64_000 if CONFIG.needs_gpu else 4_000  # what a cluster's scheduler is asked for

# In every job `mgsr` is the package beside this workflow, under the interpreter that reads it (a container has its own): what
# plans a job also runs it.
IN_CONTAINER = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
PYTHON = "python" if IN_CONTAINER else shlex.quote(sys.executable)
SEARCH = shlex.quote(str(workflow.basedir)) + "${PYTHONPATH:+:$PYTHONPATH}"
shell.prefix('set -euo pipefail; mgsr() {{ PYTHONSAFEPATH=1 PYTHONPATH={SEARCH} {PYTHON} -m mgsr "$@"; }}; ')

TEST_SETS = {digest: PLAN.test_sets[name] for name, digest in PLAN.scored["test_sets"].items()}


def processes(wildcards):
    return CONFIG.processes if PLAN.trains(wildcards.digest) else 1


def finished(*runs):
    return [f"{ROOT}/runs/{run}/seal.json" for run in runs if run]


def prepared(*test_sets):
    return [f"{ROOT}/test_sets/{digest}/seal.json" for digest in test_sets]


def plan_file(name):
    """What is made of what. It is written only when that changes, so its date says what to make again."""
    return f"{ROOT}/plan/{name}.json"


def model_inputs(wildcards):
    source = PLAN.models[wildcards.digest].source
    return f"{ROOT}/models/{source}/seal.json" if source else []


def run_inputs(wildcards):
    spec = PLAN.runs[wildcards.digest]
    if spec.kind == "select":
        return finished(*spec.candidates)
    start = spec.start_run if spec.kind == "train" else None
    records, model = f"{ROOT}/data/{spec.data}/seal.json", f"{ROOT}/models/{spec.base_model}/seal.json"
    return [records, model, *finished(start, spec.teacher_run)]


def card_inputs(wildcards):
    return finished(wildcards.digest, PLAN.twins.get(wildcards.digest))


def evaluation_inputs(wildcards):
    spec = PLAN.evaluations[wildcards.digest]
    return finished(spec.run, spec.teacher_run) + prepared(*spec.test_sets.values())


def floor_inputs(wildcards):
    return [f"{ROOT}/models/{PLAN.floors[wildcards.digest].base_model}/seal.json", *prepared(*TEST_SETS)]


def samples_inputs(wildcards):
    spec = PLAN.samples[wildcards.digest]
    return finished(spec.teacher_run) + prepared(spec.test_set)


def exposure_inputs(wildcards):
    spec = PLAN.exposures[wildcards.digest]
    samples = f"{ROOT}/samples/{spec.samples}/seal.json"
    return finished(spec.run, spec.teacher_run) + prepared(spec.test_set) + [samples]


def probe_inputs(wildcards):
    spec = PLAN.probes[wildcards.digest]
    return finished(spec.student_run, spec.teacher_run) + prepared(spec.test_set)


def results_of(spec):
    """All results that a table or an open check shows."""
    results = [f"{ROOT}/runs/{row.run}/card.json" for row in spec.rows]
    results += [f"{ROOT}/evaluations/{row.evaluation}/seal.json" for row in spec.rows]
    return results + [f"{ROOT}/exposure/{row.exposure}/seal.json" for row in spec.rows if row.exposure]


def table_inputs(wildcards):
    spec = PLAN.tables[wildcards.table]
    floors = [f"{ROOT}/evaluations/{digest}/seal.json" for digest in spec.floors.values()]
    return [plan_file(wildcards.table), *results_of(spec), *floors]


def check_inputs(wildcards):
    spec = PLAN.checks[wildcards.check]
    return [plan_file(wildcards.check), *results_of(spec)] + [
        f"{ROOT}/probes/{probe}/seal.json" for probe in spec.probes.values()
    ]


def shown(page):
    """The files of all that a page shows; the tables come first."""
    spec = PLAN.page(page)
    files = [f"{ROOT}/tables/{table.name}.md" for table in spec.tables]
    files += [f"{ROOT}/tables/claims.md"] if spec.claims else []
    return files + [f"{ROOT}/open_checks/{check.name}.md" for check in spec.checks]


def page_inputs(wildcards):
    return [plan_file(wildcards.page), *shown(wildcards.page)]


def page_files(page):
    return [*shown(page), f"{ROOT}/{page}.html", f"{ROOT}/{page}.mlflow.json"]
