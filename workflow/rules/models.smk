# Base models: built from scratch, fetched, dequantised, or pruned from another.


rule build_model:
    input:
        model_inputs,
    output:
        f"{ROOT}/models/{{digest}}/seal.json",
    log:
        f"{ROOT}/logs/build_model.{{digest}}.log",
    benchmark:
        f"{ROOT}/benchmarks/build_model.{{digest}}.tsv"
    resources:
        mem_mb=MEMORY_MB,
        what=lambda wildcards: PLAN.models[wildcards.digest].model.builder,
    params:
        root=lambda wildcards: ROOT,
    message:
        "build a base model ({resources.what})"
    shell:
        "mgsr build-model --root {params.root:q} --name {wildcards.digest} > {log:q} 2>&1"
