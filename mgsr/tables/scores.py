"""What the tables of scores share: their rows, the best row of a column, blocks of text, and notes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, product

from mgsr.config.table_entries import AVERAGE, VALIDATION
from mgsr.tables import paper
from mgsr.tables.render import FAMILY, MARK, Block, metric_title
from mgsr.tables.results import MethodResult, RunResult, TableResults
from mgsr.tables.rows import ALPHA, TIE, Mark, Row, Score
from mgsr.tables.statistics import Comparison, holm, mean_and_deviations

LEGEND = (
    "{metrics}: `mean ± decoding deviation (training deviation)`. Both are sample deviations: the first one over decoding "
    "seeds, averaged over training seeds; the second one over training seeds, of the means over decoding seeds. n/a: there "
    "is one seed."
)
METRICS_NOTE = "Rows are ranked, compared and marked by {ranking} alone."
PAPER_NOTE = "In square brackets stand the paper's number, and ours minus it."
OTHER_PAIR_NOTE = (
    "The paper has no such pair of models in this table, so its numbers are of another pair and stand apart. Ours minus them "
    "is a distance between models (and records, where these differ): it does not say whether the paper was reproduced."
)
MARK_NOTE = (
    f"{MARK}: the method asks for text of the student, but no step was trained on any: the row is training on the data set."
)
BEST_NOTE = (
    f"A score in bold is above every other student row of its column and family. {TIE} marks the highest row and those that "
    "are not told apart from it; then none is bold. The test is a two-sided sign-flip test over prompts at 5 %, with Holm's "
    "correction over test sets (the average is a test of its own). Teachers, checkpoints and the floor take no part."
)
DIFFERENCE_NOTE = (
    f"A difference is printed as `difference (95 % interval; p)`; {TIE} says that p is not below 0.05. Only p is corrected "
    "over test sets."
)
ONE_SEED_NOTE = (
    "There is one training seed, so differences are between the models trained here. Another seed of the same method may "
    "differ by more, and nothing here says by how much."
)
SEEDS_NOTE = (
    "Intervals and p-values are over prompts and training seeds, so they speak of the methods: prompts are resampled, and the "
    "mean over seeds varies as Student's t with (seeds - 1) degrees of freedom."
)

Reference = Callable[[Sequence[MethodResult], str], Mapping[str, MethodResult]]
Texts = Mapping[str, Callable[[Row], str]]  # further columns of a document: what they say of a row, by header


# --- rows -------------------------------------------------------------------------------------------------------------


def tests(columns: Iterable[str]) -> tuple[str, ...]:
    """The columns that rows are compared by. The validation score chose the checkpoint, so it is no test."""
    return tuple(name for name in columns if name != VALIDATION)


def score_rows(results: TableResults, columns: Sequence[str], reference: Reference, *, floor: bool = False) -> list[Row]:
    """One row for each metric, protocol, family and method and, with `floor`, one for the floor.

    `reference(methods, protocol)` says by column which of a family's methods the others are compared with. Marks, comparisons
    and the paper's numbers are of the metric that ranks.
    """
    rows = []
    for metric, protocol, family in product(results.spec.metrics, results.protocols, results.families):
        ranks = metric == results.metric
        methods = [*results.of_family(family).values(), *([results.floor(family)] if floor else [])]
        pair, printed = paper.numbers(results.spec.name, family) if ranks else ("", {})
        references = reference(methods, protocol) if ranks else {}
        students = [method for method in methods if ranks and method.role == "student"]
        marks = best_and_tied(students, tests(columns), results, protocol)
        for method in methods:
            others = references if method.role in ("student", "checkpoint") else {}
            rows.append(
                Row(
                    method=method, protocol=protocol, metric=metric, pair=pair, reference=references,
                    numbers=_numbers(results, method, columns, protocol, metric, printed.get(method.method, {})),
                    comparisons=comparisons(method, others, results, protocol), marks=marks.get(method.method, {}),
                )
            )  # fmt: skip
    return rows


def _numbers(
    results: TableResults, method: MethodResult, columns: Sequence[str], protocol: str, metric: str, printed: paper.Numbers
) -> dict[str, Score]:
    spreads = method.spreads(metric, results.sets, protocol)
    if VALIDATION in columns and metric == results.metric:
        spreads[VALIDATION] = mean_and_deviations([[run.card["validation"]["rouge_l"]] for run in method.runs])
    return {name: Score.of(spreads[name], printed.get(name)) if name in spreads else Score(None) for name in columns}


def comparisons(
    method: MethodResult, others: Mapping[str, MethodResult], results: TableResults, protocol: str
) -> dict[str, Comparison]:
    """By column (a test set, or `average` over all of them), `method` minus the method that `others` names, if that is
    another one. The p-values of the test sets are corrected together (Holm)."""
    compared = {
        name: method.compare(other, results.metric, results.sets if name == AVERAGE else (name,), protocol)
        for name, other in others.items()
        if other is not method
    }
    sets = [name for name in compared if name != AVERAGE]
    adjusted = holm([compared[name].p for name in sets])
    return compared | {name: replace(compared[name], p=p) for name, p in zip(sets, adjusted, strict=True)}


def highest(
    methods: Sequence[MethodResult], columns: Iterable[str], results: TableResults, protocol: str
) -> dict[str, MethodResult]:
    """By column, the method with the highest score; nothing where there is no method."""
    spreads = {method.method: method.spreads(results.metric, results.sets, protocol) for method in methods}
    return {name: max(methods, key=lambda method: spreads[method.method][name].mean) for name in columns if methods}


def best_and_tied(
    methods: Sequence[MethodResult], columns: Sequence[str], results: TableResults, protocol: str
) -> dict[str, dict[str, Mark]]:
    """Marks by method and column. The highest method is `best` where it is told apart from each other one; else it and those
    that it is not told apart from are a `tie`. `methods` are of one family; a single method has no mark."""
    marks: dict[str, dict[str, Mark]] = {method.method: {} for method in methods}
    if len(methods) < 2:
        return marks
    tops = highest(methods, columns, results, protocol)
    for method in methods:
        for name, comparison in comparisons(method, tops, results, protocol).items():
            if comparison.p >= ALPHA:
                marks[method.method][name] = marks[tops[name].method][name] = "tie"
    for name, top in tops.items():
        marks[top.method].setdefault(name, "best")
    return marks


# --- blocks -----------------------------------------------------------------------------------------------------------


def score_blocks(
    results: TableResults,
    rows: Iterable[Row],
    columns: Sequence[str],
    against: str,
    *,
    named: str = "",
    lead: Texts | None = None,
    tail: Texts | None = None,
) -> list[Block]:
    """Up to three blocks for each metric and protocol: the scores, with further columns before (`lead`) and after (`tail`)
    them; the differences to the reference, which the heading calls `against`; the paper's numbers of another pair.

    `named` is the label of a line that names the reference of each column; it is empty where that is always the same method.
    """
    lead, tail, blocks = lead or {}, tail or {}, list[Block]()
    for (metric, protocol), members in groupby(rows, key=lambda row: (row.metric, row.protocol)):
        part, ranks = list(members), metric == results.metric
        heading = f"protocol {protocol}" if ranks else f"protocol {protocol}, {metric_title(metric)}"
        titles, test_titles = results.titles(columns if ranks else tests(columns)), results.titles(tests(columns))
        texts = tuple(
            (row.family, *(text(row) for text in lead.values()), row.label, *row.texts(titles),
             *(text(row) for text in tail.values()))
            for row in part
        )  # fmt: skip
        blocks.append(Block(heading, (FAMILY, *lead, "method", *titles.values(), *tail), texts))
        if differences := _difference_texts(part, test_titles, named):
            title = f"{heading}: difference to {against} (95 % interval)"
            blocks.append(Block(title, (FAMILY, "method", *test_titles.values()), differences))
        blocks += other_pair_blocks(f"{heading}: ", part, titles)
    return blocks


def _difference_texts(rows: Sequence[Row], columns: Iterable[str], named: str) -> tuple[tuple[str, ...], ...]:
    """For each family, the references by column if they are `named`, then every row that is compared with them."""
    lines: list[tuple[str, ...]] = []
    for family, members in groupby(rows, key=lambda row: row.family):
        part = list(members)
        if named and part[0].reference:
            lines.append((family, named, *(part[0].reference[name].title for name in columns)))
        lines += [(family, row.label, *row.comparison_texts(columns)) for row in part if row.comparisons]
    return tuple(lines)


def other_pair_blocks(heading: str, rows: Sequence[Row], columns: Mapping[str, str]) -> list[Block]:
    """One block with the paper's numbers of another pair, `paper; ours minus it`, for families that it has none of; none
    where there are no such rows. `columns` are titles by column. `OTHER_PAIR_NOTE` goes with it."""
    others = [row for row in rows if not row.own_pair and row.has_paper_number]
    if not others:
        return []
    texts = tuple((row.family, row.label, *(row.numbers[name].paper_text for name in columns)) for row in others)
    title = f"{heading}the paper's numbers of {others[0].pair}; ours minus them"
    return [Block(title, (FAMILY, "method", *columns.values()), texts)]


# --- notes ------------------------------------------------------------------------------------------------------------


def row_notes(table: str, rows: Sequence[Row]) -> list[str]:
    """What is said of unused student steps and of the paper's numbers, where a table has them."""
    compared = [row for row in rows if row.has_paper_number]
    notes = [MARK_NOTE] if any(row.student_steps_unused for row in rows) else []
    notes += [PAPER_NOTE] if any(row.own_pair for row in compared) else []
    notes += [] if all(row.own_pair for row in compared) else [OTHER_PAIR_NOTE]
    return [*notes, *paper.notes(table)] if compared else notes


def score_notes(results: TableResults, rows: Sequence[Row]) -> list[str]:
    """The notes below a table of scores; the paper's caveats only where its numbers are shown."""
    several = any(len(method.runs) > 1 for method in results.methods)
    ranking, *others = (metric_title(metric) for metric in results.spec.metrics)
    return [
        LEGEND.format(metrics=" and ".join([ranking, *others])),
        *([METRICS_NOTE.format(ranking=ranking)] if others else []),
        BEST_NOTE, DIFFERENCE_NOTE, SEEDS_NOTE if several else ONE_SEED_NOTE, *chosen_rates(results),
        *row_notes(results.spec.name, rows),
    ]  # fmt: skip


def chosen_rates(results: TableResults) -> list[str]:
    """A note for each family with a grid of learning rates. It says which rate each method was given and, for grids with a
    middle, for how many runs the grid may be too narrow."""
    notes = []
    for family in results.families:
        methods = results.of_family(family).values()
        searched = [method for method in methods if any(run.card["candidates"] for run in method.runs)]
        if searched:
            runs = [run for method in searched for run in method.runs]
            grid = {candidate["learning_rate"] for run in runs for candidate in run.card["candidates"]}
            rates = ", ".join(f"{rate:g}" for rate in sorted(grid))
            chosen = "; ".join(f"{method.title} {method.learning_rates}" for method in searched)
            ends = [_at_end(run) for run in runs if len(run.card["candidates"]) > 2]
            count = f"{sum(ends)} of {len(ends)} runs"
            where = f" {count} were given an end of the grid, beyond which a better rate may lie." if ends else ""
            notes.append(f"{family}: validation chose the learning rate from {rates}: {chosen}.{where}")
    return notes


def _at_end(run: RunResult) -> bool:
    rates = [candidate["learning_rate"] for candidate in run.card["candidates"]]
    return run.card["learning_rate"] in (min(rates), max(rates))
