# What the rules share: JSON of specs, and each job's inputs. Whatever decides lies in the plan (mgsr/config/plan.py).

MEMORY_MB = 64_000 if PLAN.config.needs_gpu else 4_000  # what a cluster's scheduler is asked for


def spec_json(spec):
    return canonical_json(spec.model_dump(mode="json"))


def processes(run):
    return PLAN.config.processes if PLAN.trains(run) else 1


def finished(*runs):
    return [f"{ROOT}/runs/{run}/training.json" for run in runs if run]


def card_inputs(wildcards):
    twin = PLAN.twins.get(wildcards.run)
    return {"record": finished(wildcards.run)[0]} | ({"twin": finished(twin)[0]} if twin else {})


def model_base(wildcards):
    source = PLAN.model_source(wildcards.model)
    return f"{ROOT}/models/{source}/config.json" if source else []


def run_inputs(wildcards):
    spec = PLAN.runs[wildcards.run]
    if spec.candidates:
        return finished(*spec.candidates)
    needed = [f"{ROOT}/data/{spec.data}/manifest.json", f"{ROOT}/models/{spec.base_model}/config.json"]
    return needed + finished(spec.start_run, spec.teacher_run)


def evaluation_inputs(wildcards):
    spec = PLAN.evaluations[wildcards.evaluation]
    return finished(spec.run, spec.teacher_run)


def exposure_inputs(wildcards):
    spec = PLAN.exposures[wildcards.exposure]
    return finished(spec.run, spec.teacher_run) + [f"{ROOT}/samples/{spec.samples}/samples.jsonl"]


def probe_inputs(wildcards):
    spec = PLAN.probes[wildcards.probe]
    return finished(spec.student_run, spec.teacher_run)


def rows_inputs(name):
    """What a table or an open check is made of."""
    rows = PLAN.rows(name)
    summaries = [row.evaluation for row in rows] + ([PLAN.floor_name()] if rows else [])
    needed = [f"{ROOT}/runs/{row.run}/card.json" for row in rows]
    needed += [f"{ROOT}/evaluations/{name}/summary.json" for name in summaries]
    needed += [f"{ROOT}/exposure/{row.exposure}/summary.json" for row in rows if row.exposure]
    return needed + [f"{ROOT}/probes/{probe}/probe.json" for probe in PLAN.probes_for(name).values()]


def scope_cells(scope):
    """The cells files of what a target shows; the tables come first."""
    names = TARGETS[scope]
    cells = [f"{TABLES}/{name}.cells.json" for name in names if name in PLAN.tables]
    cells += [f"{TABLES}/claims.cells.json"] if "claims" in names else []
    return cells + ([f"{CHECKS}/{name}.cells.json" for name in PLAN.checks] if "open_checks" in names else [])


def scope_files(scope):
    return [*scope_cells(scope), f"{ROOT}/{scope}.html", f"{ROOT}/{scope}.mlflow.json"]
