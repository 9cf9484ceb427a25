# All test sets, protocols and decoding seeds of one run share a process: start-up would dominate.


rule evaluate_run:
    input:
        evaluation_inputs,
    output:
        f"{ROOT}/evaluations/{{digest}}/seal.json",
    log:
        f"{ROOT}/logs/evaluate_run.{{digest}}.log",
    benchmark:
        f"{ROOT}/benchmarks/evaluate_run.{{digest}}.tsv"
    wildcard_constraints:
        digest="|".join(PLAN.evaluations),  # the floors' scores lie in the same folder
    threads: CONFIG.threads
    resources:
        gpu=1 if CONFIG.needs_gpu else 0,
        mem_mb=MEMORY_MB,
        what=lambda wildcards: PLAN.run_label(PLAN.evaluations[wildcards.digest].run),
    params:
        root=lambda wildcards: ROOT,
        threads=CONFIG.threads,
    message:
        "evaluate {resources.what}"
    shell:
        "OMP_NUM_THREADS={params.threads} HF_HUB_OFFLINE=1 mgsr evaluate --root {params.root:q} --name {wildcards.digest} > {log:q} 2>&1"


rule evaluate_floor:
    input:
        floor_inputs,
    output:
        f"{ROOT}/evaluations/{{digest}}/seal.json",
    log:
        f"{ROOT}/logs/evaluate_floor.{{digest}}.log",
    benchmark:
        f"{ROOT}/benchmarks/evaluate_floor.{{digest}}.tsv"
    wildcard_constraints:
        digest="|".join(PLAN.floors),
    params:
        root=lambda wildcards: ROOT,
    message:
        "score answers borrowed from other rows"
    shell:
        "HF_HUB_OFFLINE=1 mgsr floor --root {params.root:q} --name {wildcards.digest} > {log:q} 2>&1"


# A family's methods are compared on the same samples of the teacher, made once.
rule sample_teacher:
    input:
        samples_inputs,
    output:
        f"{ROOT}/samples/{{digest}}/seal.json",
    log:
        f"{ROOT}/logs/sample_teacher.{{digest}}.log",
    benchmark:
        f"{ROOT}/benchmarks/sample_teacher.{{digest}}.tsv"
    threads: CONFIG.threads
    resources:
        gpu=1 if CONFIG.needs_gpu else 0,
        mem_mb=MEMORY_MB,
    params:
        root=lambda wildcards: ROOT,
        threads=CONFIG.threads,
    message:
        "sample a teacher's responses"
    shell:
        "OMP_NUM_THREADS={params.threads} HF_HUB_OFFLINE=1 mgsr sample-teacher --root {params.root:q} --name {wildcards.digest} > {log:q} 2>&1"


rule measure_exposure:
    input:
        exposure_inputs,
    output:
        f"{ROOT}/exposure/{{digest}}/seal.json",
    log:
        f"{ROOT}/logs/measure_exposure.{{digest}}.log",
    benchmark:
        f"{ROOT}/benchmarks/measure_exposure.{{digest}}.tsv"
    threads: CONFIG.threads
    resources:
        gpu=1 if CONFIG.needs_gpu else 0,
        mem_mb=MEMORY_MB,
        what=lambda wildcards: PLAN.run_label(PLAN.exposures[wildcards.digest].run),
    params:
        root=lambda wildcards: ROOT,
        threads=CONFIG.threads,
    message:
        "measure the exposure bias of {resources.what}"
    shell:
        "OMP_NUM_THREADS={params.threads} HF_HUB_OFFLINE=1 mgsr exposure --root {params.root:q} --name {wildcards.digest} > {log:q} 2>&1"


rule probe:
    input:
        probe_inputs,
    output:
        f"{ROOT}/probes/{{digest}}/seal.json",
    log:
        f"{ROOT}/logs/probe.{{digest}}.log",
    benchmark:
        f"{ROOT}/benchmarks/probe.{{digest}}.tsv"
    threads: CONFIG.threads
    resources:
        gpu=1 if CONFIG.needs_gpu else 0,
        mem_mb=MEMORY_MB,
    params:
        root=lambda wildcards: ROOT,
        threads=CONFIG.threads,
    message:
        "probe a teacher and the student at the start"
    shell:
        "OMP_NUM_THREADS={params.threads} HF_HUB_OFFLINE=1 mgsr probe --root {params.root:q} --name {wildcards.digest} > {log:q} 2>&1"
