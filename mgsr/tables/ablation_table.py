"""Tables of kind `ablation`: variants, each compared with the reference method of the same table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mgsr.config.table_entries import AVERAGE, VALIDATION
from mgsr.config.table_specs import TableSpec
from mgsr.tables.legends import legend
from mgsr.tables.other_groups import other_groups_blocks
from mgsr.tables.render import CROSS, TICK, CsvLine, Table, document
from mgsr.tables.results import MethodResult, TableResults
from mgsr.tables.rows import Row, difference_columns
from mgsr.tables.scores import score_blocks, score_notes, score_rows, tests

COMPONENTS = {"scrg": "SCRG", "dac_kl": "DAC-KL", "span": "span"}


def components(method: MethodResult) -> dict[str, bool]:
    """Whether a method has SCRG, DAC-KL and span consistency, by the resolved method on its first run's card."""
    resolved = method.runs[0].card["spec"]["method"]
    objective = resolved["objective"]
    return {
        "scrg": resolved["sequences"]["scrg"] is not None,
        "dac_kl": (objective["distillation"] or {}).get("name") == "dac_kl" and objective["distillation_weight"] > 0,
        "span": objective["span_weight"] > 0,
    }


def _tick(name: str) -> Callable[[Row], str]:
    return lambda row: TICK if components(row.method)[name] else CROSS


def ablation_table(spec: TableSpec, results: TableResults) -> Table:
    """The table has one row for each metric, protocol, family and method; rows are compared with the table's reference."""
    columns = spec.columns or (AVERAGE,)
    rows = score_rows(results, columns, lambda name: name == spec.reference)
    against = next((method.title for method in results.methods if method.method == spec.reference), spec.reference)
    ticks = {title: _tick(name) for name, title in COMPONENTS.items()} if spec.components else {}
    blocks = score_blocks(results, rows, columns, against, lead=ticks)
    others = other_groups_blocks(spec, results)
    notes = score_notes(results, rows) + (legend(VALIDATION) if VALIDATION in columns else [])
    notes += legend("other_groups") if others else []
    lines = [_line(spec, row, columns) for row in rows]
    return Table(lines, document(spec, spec.title, [*blocks, *others], notes))


def _line(spec: TableSpec, row: Row, columns: Sequence[str]) -> CsvLine:
    line = row.labels() | (components(row.method) if spec.components else {})
    for name in columns:
        line |= row.numbers[name].columns(name)
    for name in tests(columns):
        line |= difference_columns(f"{name}_minus_{spec.reference}", row.differences.get(name))
        line[f"{name}_bold"] = name in row.bold
    return line
