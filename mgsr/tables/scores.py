"""What the tables of scores share: their rows, the best row of a column, blocks of text, and notes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product

from mgsr.config.table_entries import AVERAGE, VALIDATION
from mgsr.tables import paper
from mgsr.tables.decisions import ABOVE, AgainstBest, Comparison
from mgsr.tables.power import verdicts
from mgsr.tables.render import FAMILY, MARK, Block, metric_title
from mgsr.tables.results import MethodResult, RunResult, TableResults
from mgsr.tables.rows import DETECTABLE, TIE, Difference, Row, Score
from mgsr.tables.statistics import mean_and_deviations

BOLD = "bold"  # in place of a method's name: the question whether the highest student is above all others
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
    "A score in bold is decided to be above every other student row of its column and family. Teachers, checkpoints and the "
    "floor take no part."
)
DIFFERENCE_NOTE = (
    f"A difference is printed as `difference (interval; p; {DETECTABLE})`; {TIE} says that it is undecided. All questions of a "
    "family of models and protocol, over rows, test sets, their average and the bold marks, are one family: the chance of any "
    "false alarm among them is at most 5 % (Holm's correction). p is corrected, and an interval has the level that the "
    f"correction leaves to it, so it excludes 0 exactly where p is at most 0.05. `{DETECTABLE}` is the smallest difference "
    "that would have been decided with a chance of 0.8."
)
ONE_SEED_NOTE = (
    "There is one training seed, so differences are between the models trained here. Another seed of the same method may "
    "differ by more, and nothing here says by how much."
)
SEEDS_NOTE = (
    "Intervals and p-values speak of other prompts and other training seeds, so of the methods: a difference is decided where "
    "the sign-flip test over prompts and the test over prompts and seeds both decide it. Two seeds decide next to nothing."
)

Texts = Mapping[str, Callable[[Row], str]]  # further columns of a document: what they say of a row, by header


# --- rows -------------------------------------------------------------------------------------------------------------


def tests(columns: Iterable[str]) -> tuple[str, ...]:
    """The columns that rows are compared by. The validation score chose the checkpoint, so it is no test."""
    return tuple(name for name in columns if name != VALIDATION)


def score_rows(
    results: TableResults, columns: Sequence[str], is_reference: Callable[[str], bool], *, floor: bool = False
) -> list[Row]:
    """One row for each metric, protocol, family and method and, with `floor`, one for the floor.

    `is_reference` says by its name whether a method is one of those that the other rows are compared with. Verdicts and the
    paper's numbers are of the metric that ranks.
    """
    rows = []
    for metric, protocol, family in product(results.spec.metrics, results.protocols, results.families):
        ranks = metric == results.metric
        methods = [*results.of_family(family).values(), *([results.floor(family)] if floor else [])]
        pair, printed = paper.numbers(results.spec.name, family) if ranks else ("", {})
        judged = judge_rows(methods, is_reference, tests(columns), results, protocol) if ranks else Judged({}, {}, {})
        rows += [
            Row(
                method=method, protocol=protocol, metric=metric, pair=pair, reference=judged.reference,
                numbers=_numbers(results, method, columns, protocol, metric, printed.get(method.method, {})),
                differences=judged.differences.get(method.method, {}),
                bold=[name for name, best in judged.bold.items() if best is method],
            )
            for method in methods
        ]  # fmt: skip
    return rows


def _numbers(
    results: TableResults, method: MethodResult, columns: Sequence[str], protocol: str, metric: str, printed: paper.Numbers
) -> dict[str, Score]:
    spreads = method.spreads(metric, results.sets, protocol)
    if VALIDATION in columns and metric == results.metric:
        spreads[VALIDATION] = mean_and_deviations([[run.card["validation"]["rouge_l"]] for run in method.runs])
    return {name: Score.of(spreads[name], printed.get(name)) if name in spreads else Score(None) for name in columns}


@dataclass(frozen=True)
class Judged:
    """What is said of a family's methods under one protocol. By column: the method with the highest score of those that others
    are compared with, and the student that is above every other one; by method and column: the difference to the former."""

    reference: Mapping[str, MethodResult]
    bold: Mapping[str, MethodResult]
    differences: Mapping[str, Mapping[str, Difference]]


def judge_rows(
    methods: Sequence[MethodResult],
    is_reference: Callable[[str], bool],
    columns: Sequence[str],
    results: TableResults,
    protocol: str,
) -> Judged:
    """All questions are one family: by column (a test set, or the average over them), whether each row is above the best of
    the references, and whether the highest student is above all other students."""
    trained = [method for method in methods if method.role in ("student", "checkpoint")]
    students = [method for method in trained if method.role == "student"]
    references = [method for method in trained if is_reference(method.method)]
    means = {
        (method.method, name): spread.mean
        for method in trained
        for name, spread in method.spreads(results.metric, results.sets, protocol).items()
    }
    best, top = (
        {name: max(group, key=lambda method: means[method.method, name]) for name in columns if group}
        for group in (references, students)
    )
    compared: dict[tuple[str, str, str], Comparison] = {}

    def against(method: MethodResult, others: Sequence[MethodResult], column: str) -> AgainstBest:
        sets = results.sets if column == AVERAGE else (column,)
        for other in others:
            if (key := (method.method, other.method, column)) not in compared:
                compared[key] = method.compare(other, results.metric, sets, protocol)
        return AgainstBest(tuple(compared[method.method, other.method, column] for other in others))

    asked = [method for method in trained if references and method not in references]
    family = {(method.method, name): against(method, references, name) for name in columns for method in asked}
    if len(students) > 1:
        for name, method in top.items():
            family[BOLD, name] = against(method, [other for other in students if other is not method], name)
    answers = verdicts(family)
    differences: dict[str, dict[str, Difference]] = {method.method: {} for method in trained}
    for name, other in best.items():
        for method in (method for method in trained if method is not other):
            answer = answers.get((method.method, name))
            effect = answer.effect if answer else means[method.method, name] - means[other.method, name]
            differences[method.method][name] = Difference(effect, answer)
    bold = {name: method for name, method in top.items() if (BOLD, name) in answers and answers[BOLD, name].outcome == ABOVE}
    return Judged(best, bold, differences)


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
            title = f"{heading}: difference to {against}"
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
        lines += [(family, row.label, *row.difference_texts(columns)) for row in part if row.differences]
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
