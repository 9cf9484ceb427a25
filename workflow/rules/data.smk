# Records from the hub, a local folder, the generator or a file of one's own: those of training, and each test set apart.


rule prepare_data:
    output:
        f"{ROOT}/data/{{digest}}/seal.json",
    log:
        f"{ROOT}/logs/prepare_data.{{digest}}.log",
    benchmark:
        f"{ROOT}/benchmarks/prepare_data.{{digest}}.tsv"
    params:
        root=lambda wildcards: ROOT,
    message:
        "prepare the training records"
    shell:
        "mgsr prepare-data --root {params.root:q} --name {wildcards.digest} > {log:q} 2>&1"


rule prepare_test_set:
    input:
        lambda wildcards: f"{ROOT}/data/{TEST_SETS[wildcards.digest].data}/seal.json",
    output:
        f"{ROOT}/test_sets/{{digest}}/seal.json",
    log:
        f"{ROOT}/logs/prepare_test_set.{{digest}}.log",
    benchmark:
        f"{ROOT}/benchmarks/prepare_test_set.{{digest}}.tsv"
    resources:
        what=lambda wildcards: TEST_SETS[wildcards.digest].name,
    params:
        root=lambda wildcards: ROOT,
    message:
        "prepare test set {resources.what}"
    shell:
        "mgsr prepare-test-set --root {params.root:q} --name {wildcards.digest} > {log:q} 2>&1"
