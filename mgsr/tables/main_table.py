"""Tables of kind `main`: methods by test sets, one block a protocol, and checks that say whether the numbers mean anything."""

from __future__ import annotations

from collections.abc import Sequence

from mgsr.config.base import SECOND_ROW
from mgsr.config.table_entries import AVERAGE
from mgsr.config.table_specs import TableSpec
from mgsr.tables import paper
from mgsr.tables.legends import legend
from mgsr.tables.other_groups import other_groups_blocks
from mgsr.tables.render import CsvLine, Table, document, number
from mgsr.tables.results import MethodResult, TableResults, mean
from mgsr.tables.rows import Row, comparison_columns
from mgsr.tables.scores import highest, score_blocks, score_notes, score_rows
from mgsr.tables.statistics import paired_bootstrap

BEST = "best_baseline"


def main_table(spec: TableSpec, results: TableResults) -> Table:
    """One row for each metric, protocol, family and method, the floor among them.

    Students are compared with the best baseline of each column.
    """
    columns = (*results.sets, AVERAGE)

    def best_baselines(methods: Sequence[MethodResult], protocol: str) -> dict[str, MethodResult]:
        baselines = [method for method in methods if method.method.removesuffix(SECOND_ROW) in paper.BASELINES]
        return highest(baselines, columns, results, protocol)

    rows = score_rows(results, columns, best_baselines, floor=True)
    steps = {"student steps": lambda row: number(row.method.student_step_share)}
    blocks = score_blocks(results, rows, columns, "the best baseline", named="best baseline", tail=steps)
    others = other_groups_blocks(spec, results)
    notes = score_notes(results, rows) + legend("main", baselines=", ".join(paper.BASELINES.values()))
    notes += legend("other_groups") if others else []
    return Table(list(map(_line, rows)), document(spec, spec.title, [*blocks, *others], notes, checks(results)))


def _line(row: Row) -> CsvLine:
    line = row.labels() | {"student_step_share": row.method.student_step_share}
    for name, score in row.numbers.items():
        line |= score.columns(name) | {f"{name}_mark": row.marks.get(name, "")}
    for name in row.numbers:
        line[f"{name}_{BEST}"] = row.reference[name].method if row.reference else ""
        line |= comparison_columns(f"{name}_minus_{BEST}", row.comparisons.get(name))
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
        base = sft.heldout("forward_kl") if sft else None
        for method in methods.values():
            value = method.heldout("forward_kl")
            if base is not None and value is not None and method is not sft:
                word = "lower" if value < base else "not lower"
                sentences.append(
                    f"{family}: held-out forward KL to the teacher, {method.title} − SFT: {number(value - base, 4)} nats a "
                    f"token ({number(value, 4)} against {number(base, 4)}; {word})."
                )
    return sentences


def _teacher_checks(results: TableResults, teacher: MethodResult, sft: MethodResult | None) -> list[str]:
    """How far the teacher is above SFT and above the floor, on the first test set."""
    sentences, place = list[str](), (results.metric, results.sets[0])
    for protocol in results.protocols:
        answers = teacher.row_scores(*place, protocol)
        others = {"SFT": sft.row_scores(*place, protocol)} if sft else {}
        # The floor knows no tokenizer, so it has rows that the family dropped as too long; each of the teacher's rows must have
        # its partner.
        borrowed = results.floor(teacher.family).row_scores(*place, protocol)
        others["floor"] = {name: borrowed[name] for name in answers if name in borrowed}
        for name, other in others.items():
            interval = paired_bootstrap(answers, other)
            verdict = "excludes 0" if interval.excludes_zero else "includes 0"
            sentences.append(
                f"{teacher.family}, {protocol}: teacher − {name} on {results.title(place[1])} {number(interval.difference)}, "
                f"95 % interval {number(interval.low)} to {number(interval.high)} ({verdict}; paired bootstrap over "
                f"{interval.rows} prompts)."
            )
    return sentences
