# One rule for every method: what differs stands in the run's spec.


rule train_run:
    input:
        run_inputs,
    output:
        f"{ROOT}/runs/{{run}}/card.json",
        f"{ROOT}/runs/{{run}}/metrics.jsonl",
    log:
        f"{ROOT}/logs/train_run.{{run}}.log",
    benchmark:
        f"{ROOT}/benchmarks/train_run.{{run}}.tsv"
    threads: PLAN.config.threads * PLAN.config.processes
    resources:
        gpu=PLAN.config.processes if PLAN.config.needs_gpu else 0,
        mem_mb=MEMORY_MB * PLAN.config.processes,
        # not in params: another title is no reason to train again
        what=lambda wildcards: PLAN.run_label(wildcards.run),
    params:
        spec=lambda wildcards: spec_json(PLAN.runs[wildcards.run]),
        root=lambda wildcards: ROOT,
        threads=PLAN.config.threads,
    message:
        "train {resources.what}"
    shell:
        "OMP_NUM_THREADS={params.threads} HF_HUB_OFFLINE=1 "
        "mgsr train --run {wildcards.run} --spec {params.spec:q} --root {params.root} > {log} 2>&1"
