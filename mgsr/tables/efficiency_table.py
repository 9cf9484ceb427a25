"""Tables of kind `efficiency`: training speed, where the time goes, peak memory. Nearly all of it is timing, so no two runs
give the same bytes."""

from __future__ import annotations

from mgsr.config.table_entries import AVERAGE
from mgsr.config.table_specs import TableSpec
from mgsr.tables import paper
from mgsr.tables.legends import legend
from mgsr.tables.render import FAMILY, Block, Table, document, metric_title, number
from mgsr.tables.results import MethodResult, TableResults
from mgsr.tables.rows import Fact, Measured, Row, Score
from mgsr.tables.scores import other_pair_blocks, row_notes

STAGES = ("rollout", "scrg", "chunker", "teacher", "student", "update")  # as the trainer names them
PAPER_BATCH = 4  # samples in a batch of the paper's unit
GIBIBYTE = 2**30
SPEED, BATCHES, MEMORY = "examples_per_second", "batches_of_4_per_second", "peak_memory_gib"


def stage_shares(method: MethodResult) -> dict[str, float | None]:
    """Share of the time of all stages, 0..1; None where a run trained nothing."""
    totals = {stage: sum(run.card["timings"].get(stage, 0.0) for run in method.runs) for stage in STAGES}
    whole = sum(totals.values())
    return {stage: seconds / whole if whole else None for stage, seconds in totals.items()}


def efficiency_table(spec: TableSpec, results: TableResults) -> Table:
    """The table has one row for each metric, family and method: speed, and the average score under each protocol."""
    rows = {metric: [_row(results, method, metric) for method in results.methods] for metric in spec.metrics}
    averages = {f"average_{protocol}": f"average, {protocol}" for protocol in results.protocols}
    ranking, *others = rows
    speeds = ("examples a second", "batches of 4 a second", *(f"{stage} %" for stage in STAGES), "peak memory GiB")
    texts = tuple((row.family, row.label, *_speed_texts(row), *row.texts(averages)) for row in rows[ranking])
    blocks = [Block("efficiency", (FAMILY, "method", *speeds, *averages.values()), texts)]
    for metric in others:
        texts = tuple((row.family, row.label, *row.texts(averages)) for row in rows[metric])
        blocks.append(Block(metric_title(metric), (FAMILY, "method", *averages.values()), texts))
    blocks += other_pair_blocks("", rows[ranking], {BATCHES: "batches of 4 a second", **averages})
    lines = [
        row.labels() | {column: value for name, score in row.numbers.items() for column, value in score.columns(name).items()}
        for part in rows.values()
        for row in part
    ]
    return Table(lines, document(spec, spec.title, blocks, legend("efficiency") + row_notes(spec.name, rows[ranking])))


def _row(results: TableResults, method: MethodResult, metric: str) -> Row:
    pair, printed = paper.numbers(results.spec.name, method.family)
    of_paper = printed.get(method.method, {})
    average = of_paper.get(AVERAGE) if metric == results.metric else None
    speed, memory = method.card_mean("examples_per_second"), method.card_mean("peak_memory_bytes")
    numbers: dict[str, Measured] = {
        f"average_{protocol}": Score.of(method.spreads(metric, results.sets, protocol)[AVERAGE], average)
        for protocol in results.protocols
    }
    numbers |= {
        SPEED: Fact(speed),
        BATCHES: Measured(None if speed is None else speed / PAPER_BATCH, of_paper.get(BATCHES)),
        **{f"{stage}_share": Fact(share) for stage, share in stage_shares(method).items()},
        MEMORY: Fact(None if memory is None else memory / GIBIBYTE),
        "training_seconds": Fact(method.seconds),
    }
    return Row(method=method, pair=pair, numbers=numbers, metric=metric)


def _speed_texts(row: Row) -> tuple[str, ...]:
    shares = [row.numbers[f"{stage}_share"].value for stage in STAGES]
    percentages = (number(None if share is None else share * 100, 0) for share in shares)
    return *row.texts([SPEED, BATCHES]), *percentages, *row.texts([MEMORY])
