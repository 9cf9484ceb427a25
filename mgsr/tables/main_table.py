"""Tables of kind `main`: methods by test sets, one block a protocol, and checks that say whether the numbers mean anything."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from mgsr.config.table_entries import AVERAGE
from mgsr.config.table_specs import TableSpec
from mgsr.tables.baselines import BASELINES, is_baseline
from mgsr.tables.decisions import ABOVE, BELOW, decide, outcome
from mgsr.tables.legends import legend
from mgsr.tables.other_groups import other_groups_blocks
from mgsr.tables.render import FAMILY, Block, CsvLine, Table, bounds_text, document, number
from mgsr.tables.results import MethodResult, TableResults, mean
from mgsr.tables.rows import Row, difference_columns
from mgsr.tables.scores import score_blocks, score_notes, score_rows

BEST = "best_baseline"


def main_table(spec: TableSpec, results: TableResults) -> Table:
    """One row for each metric, protocol, family and method, the floor among them.

    Rows that are no baselines are compared with the best baseline of each column.
    """
    columns = (*results.sets, AVERAGE)
    rows = score_rows(results, columns, is_baseline, floor=True)
    steps = {"student steps": lambda row: number(row.method.student_step_share)}
    blocks = score_blocks(results, rows, columns, "the best baseline", named="best baseline", tail=steps)
    blocks += _answer_blocks(results, rows)
    others = other_groups_blocks(spec, results)
    notes = score_notes(results, rows) + legend("main", baselines=", ".join(BASELINES.values()))
    notes += legend("other_groups") if others else []
    lines = [_line(row, results) for row in rows]
    return Table(lines, document(spec, spec.title, [*blocks, *others], notes, checks(results)))


def _answer_blocks(results: TableResults, rows: Sequence[Row]) -> list[Block]:
    """For each protocol, what the answers to each set are like: the same whatever the metric."""
    blocks = []
    for protocol in results.protocols:
        shown = [row for row in rows if (row.metric, row.protocol) == (results.metric, protocol)]
        texts = [(row.family, row.label, *(_answer_text(row, name) for name in results.sets)) for row in shown]
        header = (FAMILY, "method", *results.titles(results.sets).values())
        blocks.append(Block(f"protocol {protocol}: answers (tokens; cut; precision, recall)", header, tuple(texts)))
    return blocks


def _answer_text(row: Row, test_set: str) -> str:
    answers = row.method.answers(test_set, row.protocol)
    length, precision, recall = (number(answers[name], 1) for name in ("length", "precision", "recall"))
    return f"{length}; {number(100 * answers['cut'], 0)} %; {precision}, {recall}"


def _line(row: Row, results: TableResults) -> CsvLine:
    line = row.labels() | {"student_step_share": row.method.student_step_share}
    for name, score in row.numbers.items():
        line |= score.columns(name) | {f"{name}_bold": name in row.bold}
    for name in row.numbers:
        line[f"{name}_{BEST}"] = row.reference[name].method if row.reference else ""
        line |= difference_columns(f"{name}_minus_{BEST}", row.differences.get(name))
    for name in results.sets:
        answers = row.method.answers(name, row.protocol)
        line |= {f"{name}_{key}": value for key, value in answers.items()}
    line |= {f"heldout_{name}": row.method.heldout(name) for name in ("forward_kl", "reverse_kl")}
    line["training_seconds"] = row.method.seconds
    line["evaluation_seconds"] = mean(run.evaluation.summary["timings"]["total"] for run in row.method.runs)
    return line


def checks(results: TableResults) -> list[str]:
    """What must hold before rows are compared: the teacher is above SFT and the floor, and distillation nears the teacher."""
    sentences = []
    for family in results.families:
        methods = results.of_family(family)
        teacher = next((method for method in methods.values() if method.role == "teacher"), None)
        sft = methods.get("sft")
        if teacher:
            sentences += _teacher_checks(results, teacher, sft)
        students = {name: method for name, method in methods.items() if method.heldout("forward_kl") is not None}
        if base := students.pop("sft", None):
            questions = {name: method.compare_heldout(base, "forward_kl") for name, method in students.items()}
            for name, answer in decide(questions).items():
                word = {ABOVE: "higher", BELOW: "lower"}.get(answer.outcome, answer.outcome)
                ours, theirs = (number(method.heldout("forward_kl"), 4) for method in (students[name], base))
                sentences.append(
                    f"{family}: held-out forward KL to the teacher, {students[name].title} − SFT: {number(answer.effect, 4)} "
                    f"nats a token, interval {bounds_text(answer.low, answer.high, 4)} ({ours} against {theirs}; {word}, Holm "
                    f"over {len(students)} methods)."
                )
    return sentences


def _teacher_checks(results: TableResults, teacher: MethodResult, sft: MethodResult | None) -> list[str]:
    """How far the teacher is above SFT and above the floor on each test set, and the sets whose references do not fit."""
    sentences, family = list[str](), teacher.family
    others = {**({"SFT": sft} if sft else {}), "floor": results.floor(family)}
    for protocol, (name, other) in product(results.protocols, others.items()):
        answers = {
            title: teacher.compare(other, results.metric, [key], protocol)
            for key, title in results.titles(results.sets).items()
        }
        texts = [
            f"{title} {number(answer.effect)} ({bounds_text(*answer.interval())}; {outcome(*answer.interval())}; "
            f"{answer.prompts} prompts)"
            for title, answer in answers.items()
        ]
        sentences.append(f"{family}, {protocol}: teacher − {name}, with 95 % intervals: {'; '.join(texts)}.")
    if capped := results.capped(family):
        shares = ", ".join(f"{results.title(name)} {number(100 * share, 0)} %" for name, share in capped.items())
        sentences.append(f"{family}: the length limits cut more than a tenth of the references: {shares}.")
    return sentences
