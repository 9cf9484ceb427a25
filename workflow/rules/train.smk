# One rule for every method: what differs stands in the run's spec.


def run_inputs(wildcards):
    spec = PLAN.runs[wildcards.run]
    needed = [f"{ROOT}/data/{spec.data}/manifest.json", f"{ROOT}/models/{spec.base_model}/config.json"]
    upstream = [run for run in (spec.start_run, spec.teacher_run) if run]
    return needed + [f"{ROOT}/runs/{run}/card.json" for run in upstream]


rule train_run:
    input:
        run_inputs,
    output:
        f"{ROOT}/runs/{{run}}/card.json",
        f"{ROOT}/runs/{{run}}/metrics.jsonl",
    params:
        spec=lambda wildcards: spec_json(PLAN.runs[wildcards.run]),
        root=ROOT,
    message:
        "train {wildcards.run}"
    threads: PLAN.config.threads * PLAN.config.processes
    resources:
        gpu=PLAN.config.processes if PLAN.config.needs_gpu else 0,
    log:
        f"{ROOT}/logs/train_run.{{run}}.log",
    benchmark:
        f"{ROOT}/benchmarks/train_run.{{run}}.tsv"
    shell:
        "OMP_NUM_THREADS={PLAN.config.threads} HF_HUB_OFFLINE=1 "
        "mgsr train --run {wildcards.run} --spec {params.spec:q} --root {params.root} > {log} 2>&1"
