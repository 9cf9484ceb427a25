# Tables, claims, open checks, the report and MLflow, and the named targets.


rule write_table:
    input:
        lambda wildcards: rows_inputs(wildcards.table),
    output:
        cells=f"{TABLES}/{{table}}.cells.json",
        csv=report(f"{TABLES}/{{table}}.csv", caption="../report/table.rst", category="Tables"),
        md=f"{TABLES}/{{table}}.md",
        tex=f"{TABLES}/{{table}}.tex",
    log:
        f"{ROOT}/logs/write_table.{{table}}.log",
    benchmark:
        f"{ROOT}/benchmarks/write_table.{{table}}.tsv"
    params:
        cells=lambda wildcards: canonical_json(PLAN.cells(wildcards.table)),
        code=code_digest(*STAGES["tables"]),
    message:
        "write {wildcards.table}"
    shell:
        "mgsr table --cells {params.cells:q} --folder $(dirname {output.cells}) > {log} 2>&1"


rule write_claims:
    input:
        expand(f"{TABLES}/{{table}}.cells.json", table=PLAN.tables),
    output:
        cells=f"{TABLES}/claims.cells.json",
        csv=report(f"{TABLES}/claims.csv", caption="../report/claims.rst", category="Claims"),
        md=f"{TABLES}/claims.md",
        tex=f"{TABLES}/claims.tex",
    log:
        f"{ROOT}/logs/write_claims.log",
    benchmark:
        f"{ROOT}/benchmarks/write_claims.tsv"
    params:
        code=code_digest(*STAGES["claims"]),
    message:
        "judge the paper's claims"
    shell:
        "mgsr claims --cells {input} --folder $(dirname {output.cells}) > {log} 2>&1"


rule write_check:
    input:
        lambda wildcards: rows_inputs(wildcards.check),
    output:
        cells=f"{CHECKS}/{{check}}.cells.json",
        csv=f"{CHECKS}/{{check}}.csv",
        svg=report(f"{CHECKS}/{{check}}.svg", caption="../report/check.rst", category="Open checks"),
        md=f"{CHECKS}/{{check}}.md",
    log:
        f"{ROOT}/logs/write_check.{{check}}.log",
    benchmark:
        f"{ROOT}/benchmarks/write_check.{{check}}.tsv"
    params:
        cells=lambda wildcards: canonical_json(PLAN.cells(wildcards.check)),
        code=code_digest(*STAGES["checks"]),
    message:
        "open check: {wildcards.check}"
    shell:
        "mgsr open-check --cells {params.cells:q} --folder $(dirname {output.cells}) > {log} 2>&1"


rule write_report:
    input:
        lambda wildcards: scope_cells(wildcards.scope),
    output:
        report(f"{ROOT}/{{scope}}.html", caption="../report/report.rst", category="Report"),
    log:
        f"{ROOT}/logs/write_report.{{scope}}.log",
    benchmark:
        f"{ROOT}/benchmarks/write_report.{{scope}}.tsv"
    params:
        code=code_digest(*STAGES["report"]),
    message:
        "write the report ({wildcards.scope})"
    shell:
        "mgsr report --cells {input} --out {output} > {log} 2>&1"


rule sync_mlflow:
    input:
        lambda wildcards: scope_cells(wildcards.scope),
    output:
        f"{ROOT}/{{scope}}.mlflow.json",
    log:
        f"{ROOT}/logs/sync_mlflow.{{scope}}.log",
    benchmark:
        f"{ROOT}/benchmarks/sync_mlflow.{{scope}}.tsv"
    params:
        uri=f"--uri {PLAN.config.tracking.uri}" if PLAN.config.tracking.uri else "",
        experiment=PLAN.config.tracking.experiment,
        code=code_digest(*STAGES["track"]),
    message:
        "sync runs, scores and tables to MLflow ({wildcards.scope})"
    shell:
        "mgsr track --cells {input} {params.uri} --experiment {params.experiment:q} --receipt {output} > {log} 2>&1"


rule data:
    input:
        f"{DATA}/manifest.json",


for table in PLAN.tables:

    rule:
        name:
            table
        input:
            f"{TABLES}/{table}.md",
        localrule: True


rule claims:
    input:
        f"{TABLES}/claims.md",


rule open_checks:
    input:
        expand(f"{CHECKS}/{{check}}.md", check=PLAN.checks),


rule report:
    input:
        f"{ROOT}/report.html",


rule mlflow:
    input:
        f"{ROOT}/report.mlflow.json",
