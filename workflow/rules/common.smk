# What the rules share: JSON of specs, and each job's inputs. Whatever decides lies in the plan (mgsr/config/plan.py).

MEMORY_MB = 64_000 if PLAN.config.needs_gpu else 4_000  # what a cluster's scheduler is asked for


def spec_json(spec):
    return canonical_json(spec.model_dump(mode="json"))


def cards(*runs):
    return [f"{ROOT}/runs/{run}/card.json" for run in runs if run]


def model_base(wildcards):
    source = PLAN.model_source(wildcards.model)
    return f"{ROOT}/models/{source}/config.json" if source else []


def run_inputs(wildcards):
    spec = PLAN.runs[wildcards.run]
    needed = [f"{ROOT}/data/{spec.data}/manifest.json", f"{ROOT}/models/{spec.base_model}/config.json"]
    return needed + cards(spec.start_run, spec.teacher_run)


def evaluation_inputs(wildcards):
    spec = PLAN.evaluations[wildcards.evaluation]
    return cards(spec.run, spec.teacher_run)


def table_inputs(wildcards):
    rows = PLAN.tables[wildcards.table]
    summaries = [row.evaluation for row in rows] + [PLAN.floor_name()]
    return cards(*(row.run for row in rows)) + [f"{ROOT}/evaluations/{name}/summary.json" for name in summaries]
