# Records of all sets, from the hub, a local folder or the generator.


def spec_json(spec):
    return canonical_json(spec.model_dump(mode="json"))


rule prepare_data:
    output:
        f"{DATA}/manifest.json",
    params:
        spec=spec_json(PLAN.data),
        lock=LOCK,
    log:
        f"{ROOT}/logs/prepare_data.log",
    benchmark:
        f"{ROOT}/benchmarks/prepare_data.tsv"
    shell:
        "mgsr prepare --spec {params.spec:q} --out $(dirname {output}) --lock {params.lock} > {log} 2>&1"
