# All test sets, protocols and decoding seeds of one run share a process: start-up would dominate.


rule evaluate_run:
    input:
        evaluation_inputs,
    output:
        f"{ROOT}/evaluations/{{evaluation}}/summary.json",
        f"{ROOT}/evaluations/{{evaluation}}/rows.jsonl",
    log:
        f"{ROOT}/logs/evaluate_run.{{evaluation}}.log",
    benchmark:
        f"{ROOT}/benchmarks/evaluate_run.{{evaluation}}.tsv"
    threads: PLAN.config.threads
    resources:
        gpu=1 if PLAN.config.needs_gpu else 0,
        mem_mb=MEMORY_MB,
        what=lambda wildcards: PLAN.run_label(PLAN.evaluations[wildcards.evaluation].run),
    params:
        spec=lambda wildcards: spec_json(PLAN.evaluations[wildcards.evaluation]),
        root=lambda wildcards: ROOT,
        threads=PLAN.config.threads,
    message:
        "evaluate {resources.what}"
    shell:
        "OMP_NUM_THREADS={params.threads} HF_HUB_OFFLINE=1 "
        "mgsr evaluate --name {wildcards.evaluation} --spec {params.spec:q} --root {params.root} > {log} 2>&1"


rule evaluate_floor:
    input:
        f"{DATA}/manifest.json",
    output:
        summary=f"{ROOT}/evaluations/{PLAN.floor_name()}/summary.json",
        rows=f"{ROOT}/evaluations/{PLAN.floor_name()}/rows.jsonl",
    log:
        f"{ROOT}/logs/evaluate_floor.log",
    benchmark:
        f"{ROOT}/benchmarks/evaluate_floor.tsv"
    params:
        config=canonical_json(PLAN.config.data.model_dump(mode="json")),
    message:
        "score answers borrowed from other rows"
    shell:
        "mgsr floor --data $(dirname {input}) --config {params.config:q} --out $(dirname {output.summary}) > {log} 2>&1"


# A family's methods are compared on the same samples of the teacher, made once.
rule sample_teacher:
    input:
        lambda wildcards: finished(PLAN.samples[wildcards.samples].teacher_run),
    output:
        f"{ROOT}/samples/{{samples}}/samples.jsonl",
    log:
        f"{ROOT}/logs/sample_teacher.{{samples}}.log",
    benchmark:
        f"{ROOT}/benchmarks/sample_teacher.{{samples}}.tsv"
    threads: PLAN.config.threads
    resources:
        gpu=1 if PLAN.config.needs_gpu else 0,
        mem_mb=MEMORY_MB,
    params:
        spec=lambda wildcards: spec_json(PLAN.samples[wildcards.samples]),
        root=lambda wildcards: ROOT,
        threads=PLAN.config.threads,
    message:
        "sample a teacher's responses"
    shell:
        "OMP_NUM_THREADS={params.threads} HF_HUB_OFFLINE=1 "
        "mgsr sample-teacher --name {wildcards.samples} --spec {params.spec:q} --root {params.root} > {log} 2>&1"


rule measure_exposure:
    input:
        exposure_inputs,
    output:
        f"{ROOT}/exposure/{{exposure}}/summary.json",
        f"{ROOT}/exposure/{{exposure}}/prompts.jsonl",
    log:
        f"{ROOT}/logs/measure_exposure.{{exposure}}.log",
    benchmark:
        f"{ROOT}/benchmarks/measure_exposure.{{exposure}}.tsv"
    threads: PLAN.config.threads
    resources:
        gpu=1 if PLAN.config.needs_gpu else 0,
        mem_mb=MEMORY_MB,
        what=lambda wildcards: PLAN.run_label(PLAN.exposures[wildcards.exposure].run),
    params:
        spec=lambda wildcards: spec_json(PLAN.exposures[wildcards.exposure]),
        root=lambda wildcards: ROOT,
        threads=PLAN.config.threads,
    message:
        "measure the exposure bias of {resources.what}"
    shell:
        "OMP_NUM_THREADS={params.threads} HF_HUB_OFFLINE=1 "
        "mgsr exposure --name {wildcards.exposure} --spec {params.spec:q} --root {params.root} > {log} 2>&1"


rule probe:
    input:
        probe_inputs,
    output:
        f"{ROOT}/probes/{{probe}}/probe.json",
    log:
        f"{ROOT}/logs/probe.{{probe}}.log",
    benchmark:
        f"{ROOT}/benchmarks/probe.{{probe}}.tsv"
    threads: PLAN.config.threads
    resources:
        gpu=1 if PLAN.config.needs_gpu else 0,
        mem_mb=MEMORY_MB,
    params:
        spec=lambda wildcards: spec_json(PLAN.probes[wildcards.probe]),
        root=lambda wildcards: ROOT,
        threads=PLAN.config.threads,
    message:
        "probe a teacher and its SFT student"
    shell:
        "OMP_NUM_THREADS={params.threads} HF_HUB_OFFLINE=1 "
        "mgsr probe --name {wildcards.probe} --spec {params.spec:q} --root {params.root} > {log} 2>&1"
