# All test sets, protocols and decoding seeds of one run share a process: start-up would dominate.


rule evaluate_run:
    input:
        lambda wildcards: [
            f"{ROOT}/runs/{run}/card.json"
            for run in (PLAN.evaluations[wildcards.evaluation].run, PLAN.evaluations[wildcards.evaluation].teacher_run)
            if run
        ],
    output:
        f"{ROOT}/evaluations/{{evaluation}}/summary.json",
        f"{ROOT}/evaluations/{{evaluation}}/rows.jsonl",
    params:
        spec=lambda wildcards: spec_json(PLAN.evaluations[wildcards.evaluation]),
        root=ROOT,
    threads: PLAN.config.threads
    resources:
        gpu=1 if PLAN.config.needs_gpu else 0,
    log:
        f"{ROOT}/logs/evaluate_run.{{evaluation}}.log",
    benchmark:
        f"{ROOT}/benchmarks/evaluate_run.{{evaluation}}.tsv"
    shell:
        "OMP_NUM_THREADS={threads} HF_HUB_OFFLINE=1 "
        "mgsr evaluate --name {wildcards.evaluation} --spec {params.spec:q} --root {params.root} > {log} 2>&1"


rule evaluate_floor:
    input:
        f"{DATA}/manifest.json",
    output:
        f"{ROOT}/evaluations/{PLAN.floor_name()}/summary.json",
        f"{ROOT}/evaluations/{PLAN.floor_name()}/rows.jsonl",
    params:
        data=DATA,
        config=canonical_json(PLAN.config.data.model_dump(mode="json")),
    log:
        f"{ROOT}/logs/evaluate_floor.log",
    benchmark:
        f"{ROOT}/benchmarks/evaluate_floor.tsv"
    shell:
        "mgsr floor --data {params.data} --config {params.config:q} --out $(dirname {output[0]}) > {log} 2>&1"
