# One rule for every method, for the choice among a grid of learning rates, and for a model that is scored as it is: what differs
# stands in the run's spec.


rule train_run:
    input:
        run_inputs,
    output:
        f"{ROOT}/runs/{{digest}}/seal.json",
    log:
        f"{ROOT}/logs/train_run.{{digest}}.log",
    benchmark:
        f"{ROOT}/benchmarks/train_run.{{digest}}.tsv"
    threads: lambda wildcards: CONFIG.threads * processes(wildcards)
    resources:
        gpu=lambda wildcards: processes(wildcards) if CONFIG.needs_gpu and PLAN.trains(wildcards.digest) else 0,
        mem_mb=lambda wildcards: MEMORY_MB * processes(wildcards),
        # not in params: another title is no reason to train again
        what=lambda wildcards: ("train " if PLAN.trains(wildcards.digest) else "take ") + PLAN.run_label(wildcards.digest),
    params:
        root=lambda wildcards: ROOT,
        stage=lambda wildcards: PLAN.runs[wildcards.digest].kind,
        threads=CONFIG.threads,
    message:
        "{resources.what}"
    shell:
        "OMP_NUM_THREADS={params.threads} HF_HUB_OFFLINE=1 mgsr {params.stage} --root {params.root:q} --name {wildcards.digest} > {log:q} 2>&1"


# Apart from training, as the twin without SCRG is another run: an added or edited twin trains no run anew.
rule write_card:
    input:
        lambda wildcards: plan_file(wildcards.digest),
        card_inputs,
    output:
        f"{ROOT}/runs/{{digest}}/card.json",
    log:
        f"{ROOT}/logs/write_card.{{digest}}.log",
    benchmark:
        f"{ROOT}/benchmarks/write_card.{{digest}}.tsv"
    localrule: True
    params:
        root=lambda wildcards: ROOT,
    message:
        "write the card of {wildcards.digest}"
    shell:
        "mgsr card --root {params.root:q} --name {wildcards.digest} > {log:q} 2>&1"
