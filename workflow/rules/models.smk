# Base models: built from scratch, fetched, dequantised, or pruned from another.


rule build_model:
    input:
        base=model_base,
    output:
        f"{ROOT}/models/{{model}}/config.json",
    log:
        f"{ROOT}/logs/build_model.{{model}}.log",
    benchmark:
        f"{ROOT}/benchmarks/build_model.{{model}}.tsv"
    resources:
        mem_mb=MEMORY_MB,
        what=lambda wildcards: PLAN.models[wildcards.model].model.builder,
    params:
        spec=lambda wildcards: spec_json(PLAN.models[wildcards.model]),
        base=lambda wildcards, input: f"--base $(dirname {input.base})" if input.base else "",
        lock=LOCK,
    message:
        "build a base model ({resources.what})"
    shell:
        "mgsr build-model --spec {params.spec:q} --out $(dirname {output}) {params.base} --lock {params.lock} > {log} 2>&1"
