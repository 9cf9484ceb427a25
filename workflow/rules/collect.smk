# Tables, the report and MLflow, and the named targets.


rule write_table:
    input:
        table_inputs,
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


rule write_report:
    input:
        CELLS,
    output:
        report(f"{ROOT}/report.html", caption="../report/report.rst", category="Report"),
    log:
        f"{ROOT}/logs/write_report.log",
    benchmark:
        f"{ROOT}/benchmarks/write_report.tsv"
    params:
        code=code_digest(*STAGES["report"]),
    message:
        "write the report"
    shell:
        "mgsr report --cells {input} --out {output} > {log} 2>&1"


rule sync_mlflow:
    input:
        CELLS,
    output:
        f"{ROOT}/mlflow.json",
    log:
        f"{ROOT}/logs/sync_mlflow.log",
    benchmark:
        f"{ROOT}/benchmarks/sync_mlflow.tsv"
    params:
        uri=f"--uri {PLAN.config.tracking.uri}" if PLAN.config.tracking.uri else "",
        experiment=PLAN.config.tracking.experiment,
        code=code_digest(*STAGES["track"]),
    message:
        "sync runs, scores and tables to MLflow"
    shell:
        "mgsr track --cells {input} {params.uri} --experiment {params.experiment:q} --receipt {output} > {log} 2>&1"


rule data:
    input:
        f"{DATA}/manifest.json",


rule table1:
    input:
        f"{TABLES}/table1.md",


rule table2:
    input:
        f"{TABLES}/table2.md",


rule report:
    input:
        f"{ROOT}/report.html",


rule mlflow:
    input:
        f"{ROOT}/mlflow.json",
