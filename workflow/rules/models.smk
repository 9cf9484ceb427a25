# Base models: built from scratch, fetched, dequantised, or pruned from another.


def model_base(wildcards):
    source = PLAN.model_source(wildcards.model)
    return f"{ROOT}/models/{source}/config.json" if source else []


rule build_model:
    input:
        base=model_base,
    output:
        f"{ROOT}/models/{{model}}/config.json",
    params:
        spec=lambda wildcards: spec_json(PLAN.models[wildcards.model]),
        base=lambda wildcards, input: f"--base $(dirname {input.base})" if input.base else "",
        lock=LOCK,
    log:
        f"{ROOT}/logs/build_model.{{model}}.log",
    benchmark:
        f"{ROOT}/benchmarks/build_model.{{model}}.tsv"
    shell:
        "mgsr build-model --spec {params.spec:q} --out $(dirname {output}) {params.base} --lock {params.lock} > {log} 2>&1"
