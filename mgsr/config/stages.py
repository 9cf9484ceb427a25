"""The stages of the workflow: what each job calls, and which code its result depends on."""

from __future__ import annotations

from dataclasses import dataclass

from mgsr.config.identity import code_digest


@dataclass(frozen=True)
class Stage:
    """`mgsr <stage> --root ROOT --name NAME` calls `module.function(ROOT, NAME)`. gpus: leased before the import. reads: the
    folder below ROOT whose <NAME>.json says what to make."""

    module: str
    function: str
    text: str
    gpus: int = 0
    reads: str = "specs"


STAGES = {
    "prepare-data": Stage("mgsr.data.prepare", "prepare_data", "Write the training and validation records."),
    "prepare-test-set": Stage("mgsr.data.prepare", "prepare_test_set", "Write the records of a test set."),
    "build-model": Stage("mgsr.models.build", "build", "Write the folder of a base model."),
    "train": Stage("mgsr.training.launch", "launch", "Train a run, from its last checkpoint where there is one."),
    "select": Stage("mgsr.training.select", "select", "Take the best run of a grid of learning rates."),
    "adopt": Stage("mgsr.training.adopt", "adopt", "Take a released model as a run."),
    "card": Stage("mgsr.tables.card", "write_card", "Write the card of a run from its record and its twin's.", reads="plan"),
    "evaluate": Stage("mgsr.evaluation.evaluator", "evaluate", "Answer and score all test sets with the model of a run.", 1),
    "floor": Stage("mgsr.evaluation.floor", "write_floor", "Score answers borrowed from other rows of the same kind."),
    "sample-teacher": Stage("mgsr.evaluation.exposure", "sample_teacher", "Write a teacher's samples for ExAccErr.", 1),
    "exposure": Stage("mgsr.evaluation.exposure", "measure_exposure", "Measure the ExAccErr of a run.", 1),
    "probe": Stage("mgsr.evaluation.probe", "probe", "Measure injected errors, span statistics and diversity.", 1),
    "table": Stage("mgsr.tables.registry", "write_table", "Write a table as CSV, Markdown and LaTeX.", reads="plan"),
    "open-check": Stage("mgsr.tables.open_checks", "write_check", "Write an open check as CSV, figure and text.", reads="plan"),
    "claims": Stage(
        "mgsr.tables.claims", "write_claims", "Judge the paper's claims by the results of the tables.", reads="plan"
    ),
    "report": Stage("mgsr.tables.report", "write_report", "Write the HTML report.", reads="plan"),
    "track": Stage("mgsr.tables.tracking", "sync", "Sync runs, scores and tables to MLflow.", reads="plan"),
}
ANSWERING = "mgsr.evaluation.answering"  # the code that decodes answers; what scores them is another part of `evaluate`
PAGE = ("report", "track")  # stages of one plan, which names the code of both


def stage_code(*stages: str) -> str:
    """Digest of the code of one stage, or of several together."""
    return code_digest(*(STAGES[stage].module for stage in stages))
