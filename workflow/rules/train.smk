# One rule for every method, and for the choice among a grid of learning rates: what differs stands in the run's spec.


rule train_run:
    input:
        run_inputs,
    output:
        f"{ROOT}/runs/{{run}}/training.json",
        f"{ROOT}/runs/{{run}}/metrics.jsonl",
    log:
        f"{ROOT}/logs/train_run.{{run}}.log",
    benchmark:
        f"{ROOT}/benchmarks/train_run.{{run}}.tsv"
    threads: lambda wildcards: PLAN.config.threads * processes(wildcards.run)
    resources:
        gpu=lambda wildcards: processes(wildcards.run) if PLAN.config.needs_gpu and PLAN.trains(wildcards.run) else 0,
        mem_mb=lambda wildcards: MEMORY_MB * processes(wildcards.run),
        # not in params: another title is no reason to train again
        what=lambda wildcards: ("train " if PLAN.trains(wildcards.run) else "take ") + PLAN.run_label(wildcards.run),
    params:
        spec=lambda wildcards: spec_json(PLAN.runs[wildcards.run]),
        root=lambda wildcards: ROOT,
        threads=PLAN.config.threads,
    message:
        "{resources.what}"
    shell:
        "OMP_NUM_THREADS={params.threads} HF_HUB_OFFLINE=1 "
        "mgsr train --run {wildcards.run} --spec {params.spec:q} --root {params.root} > {log} 2>&1"


# Apart from training, as the twin without SCRG is another run: an added or edited twin trains no run anew.
rule write_card:
    input:
        unpack(card_inputs),
    output:
        f"{ROOT}/runs/{{run}}/card.json",
    log:
        f"{ROOT}/logs/write_card.{{run}}.log",
    benchmark:
        f"{ROOT}/benchmarks/write_card.{{run}}.tsv"
    localrule: True
    params:
        twin=lambda wildcards, input: f"--twin {input.twin}" if wildcards.run in PLAN.twins else "",
        code=code_digest(*STAGES["card"]),
    message:
        "write the card of {wildcards.run}"
    shell:
        "mgsr card --record {input.record} {params.twin} --out {output} > {log} 2>&1"
