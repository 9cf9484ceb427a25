# Tables, claims, open checks, the report and MLflow, and the named targets.


rule write_table:
    input:
        table_inputs,
    output:
        csv=report(f"{ROOT}/tables/{{table}}.csv", caption="../report/table.rst", category="Tables"),
        md=f"{ROOT}/tables/{{table}}.md",
        tex=f"{ROOT}/tables/{{table}}.tex",
    log:
        f"{ROOT}/logs/write_table.{{table}}.log",
    benchmark:
        f"{ROOT}/benchmarks/write_table.{{table}}.tsv"
    params:
        root=lambda wildcards: ROOT,
    message:
        "write {wildcards.table}"
    shell:
        "mgsr table --root {params.root:q} --name {wildcards.table} > {log:q} 2>&1"


rule write_claims:
    input:
        plan_file("claims"),
        expand(f"{ROOT}/tables/{{table}}.md", table=PLAN.tables),
    output:
        csv=report(f"{ROOT}/tables/claims.csv", caption="../report/claims.rst", category="Claims"),
        md=f"{ROOT}/tables/claims.md",
        tex=f"{ROOT}/tables/claims.tex",
    log:
        f"{ROOT}/logs/write_claims.log",
    benchmark:
        f"{ROOT}/benchmarks/write_claims.tsv"
    params:
        root=lambda wildcards: ROOT,
    message:
        "judge the paper's claims"
    shell:
        "mgsr claims --root {params.root:q} --name claims > {log:q} 2>&1"


rule write_check:
    input:
        check_inputs,
    output:
        csv=f"{ROOT}/open_checks/{{check}}.csv",
        svg=report(f"{ROOT}/open_checks/{{check}}.svg", caption="../report/check.rst", category="Open checks"),
        md=f"{ROOT}/open_checks/{{check}}.md",
    log:
        f"{ROOT}/logs/write_check.{{check}}.log",
    benchmark:
        f"{ROOT}/benchmarks/write_check.{{check}}.tsv"
    params:
        root=lambda wildcards: ROOT,
    message:
        "open check: {wildcards.check}"
    shell:
        "mgsr open-check --root {params.root:q} --name {wildcards.check} > {log:q} 2>&1"


rule write_report:
    input:
        page_inputs,
    output:
        report(f"{ROOT}/{{page}}.html", caption="../report/report.rst", category="Report"),
    log:
        f"{ROOT}/logs/write_report.{{page}}.log",
    benchmark:
        f"{ROOT}/benchmarks/write_report.{{page}}.tsv"
    params:
        root=lambda wildcards: ROOT,
    message:
        "write the report ({wildcards.page})"
    shell:
        "mgsr report --root {params.root:q} --name {wildcards.page} > {log:q} 2>&1"


rule sync_mlflow:
    input:
        page_inputs,
    output:
        f"{ROOT}/{{page}}.mlflow.json",
    log:
        f"{ROOT}/logs/sync_mlflow.{{page}}.log",
    benchmark:
        f"{ROOT}/benchmarks/sync_mlflow.{{page}}.tsv"
    params:
        root=lambda wildcards: ROOT,
    message:
        "sync runs, scores and tables to MLflow ({wildcards.page})"
    shell:
        "mgsr track --root {params.root:q} --name {wildcards.page} > {log:q} 2>&1"


rule data:
    input:
        f"{ROOT}/data/{PLAN.data_name}/seal.json",
        prepared(*TEST_SETS),


for table in PLAN.tables:

    rule:
        name:
            table
        input:
            f"{ROOT}/tables/{table}.md",
        localrule: True


rule claims:
    input:
        f"{ROOT}/tables/claims.md",


rule open_checks:
    input:
        expand(f"{ROOT}/open_checks/{{check}}.md", check=PLAN.checks),


rule report:
    input:
        f"{ROOT}/report.html",


rule mlflow:
    input:
        f"{ROOT}/report.mlflow.json",
