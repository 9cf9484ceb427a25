# Tables, the report and MLflow, and the named targets.


def table_inputs(wildcards):
    rows = PLAN.tables[wildcards.table]
    return (
        [f"{ROOT}/runs/{row.run}/card.json" for row in rows]
        + [f"{ROOT}/evaluations/{row.evaluation}/summary.json" for row in rows]
        + [f"{ROOT}/evaluations/{PLAN.floor_name()}/summary.json"]
    )


rule write_table:
    input:
        table_inputs,
    output:
        cells=f"{TABLES}/{{table}}.cells.json",
        csv=report(f"{TABLES}/{{table}}.csv", caption="../report/table1.rst", category="Tables"),
        md=f"{TABLES}/{{table}}.md",
        tex=f"{TABLES}/{{table}}.tex",
    params:
        cells=lambda wildcards: canonical_json(PLAN.cells(wildcards.table)),
        folder=TABLES,
        code=code_digest(*STAGES["tables"]),
    log:
        f"{ROOT}/logs/write_table.{{table}}.log",
    benchmark:
        f"{ROOT}/benchmarks/write_table.{{table}}.tsv"
    shell:
        "mgsr table --cells {params.cells:q} --folder {params.folder} > {log} 2>&1"


rule write_report:
    input:
        CELLS,
    output:
        report(f"{ROOT}/report.html", caption="../report/report.rst", category="Report"),
    params:
        code=code_digest(*STAGES["report"]),
    log:
        f"{ROOT}/logs/write_report.log",
    benchmark:
        f"{ROOT}/benchmarks/write_report.tsv"
    shell:
        "mgsr report --cells {input} --out {output} > {log} 2>&1"


rule sync_mlflow:
    input:
        CELLS,
    output:
        f"{ROOT}/mlflow.json",
    params:
        uri=f"--uri {PLAN.config.tracking.uri}" if PLAN.config.tracking.uri else "",
        experiment=PLAN.config.tracking.experiment,
        code=code_digest(*STAGES["track"]),
    log:
        f"{ROOT}/logs/sync_mlflow.log",
    benchmark:
        f"{ROOT}/benchmarks/sync_mlflow.tsv"
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
