# Records of all sets, from the hub, a local folder or the generator.


rule prepare_data:
    output:
        f"{DATA}/manifest.json",
    log:
        f"{ROOT}/logs/prepare_data.log",
    benchmark:
        f"{ROOT}/benchmarks/prepare_data.tsv"
    params:
        spec=spec_json(PLAN.data),
        lock=LOCK,
    message:
        "prepare the records"
    shell:
        "mgsr prepare --spec {params.spec:q} --out $(dirname {output}) --lock {params.lock} > {log} 2>&1"
