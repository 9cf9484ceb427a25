"""Fixed ranges, ranks and masses against the learned band: final score by test set, and how soon training converges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mgsr.config.table_entries import AVERAGE
from mgsr.tables import figures
from mgsr.tables.checks import check
from mgsr.tables.render import FAMILY, Block, document, metric_title, number
from mgsr.tables.results import MethodResult, TableResults, mean

TARGET = 0.95  # of the best validation ROUGE-L: reached is converged
NAMED = 3  # variants that a sentence names
LEARNED = "the learned band"  # MGSR's
CONVERGENCE = ("95 % of best validation ROUGE-L", "lowest validation loss")


def convergence(method: MethodResult) -> tuple[float | None, float | None]:
    """The optimiser steps of the first validation within 5 % of the run's best ROUGE-L, and of the lowest validation loss;
    means over training seeds."""
    reached: list[int] = []
    lowest: list[int] = []
    for run in method.runs:
        validations = [line for line in run.metrics() if line["kind"] == "validation"]
        scored = [line for line in validations if line.get("rouge_l") is not None]
        if scored:
            best = max(line["rouge_l"] for line in scored)
            reached.append(next(line["step"] for line in scored if line["rouge_l"] >= TARGET * best))
        if validations:
            lowest.append(min(validations, key=lambda line: line["loss"])["step"])
    return mean(reached), mean(lowest)


def clipping_range(results: TableResults) -> check.Check:
    """Fixed ranges, ranks and masses against the learned band: final score by test set, and speed of convergence."""
    lines, compared = list[check.Line](), list[check.Line]()
    sentences, speeds = list[str](), list[tuple[str, ...]]()
    for family in results.families:
        methods = results.of_family(family)
        family_lines, family_differences = check.against_reference(results, family, each_set=True)
        lines, compared = lines + family_lines, compared + family_differences
        steps = {name: convergence(method) for name, method in methods.items()}
        for name, (reached, lowest) in steps.items():
            title = methods[name].title
            lines.append(check.Line(family, "step_of_95_percent_of_best_rouge_l", title, reached, "validation"))
            lines.append(check.Line(family, "step_of_lowest_loss", title, lowest, "validation"))
            speeds.append((family, LEARNED if name == check.REFERENCE else title, number(reached, 0), number(lowest, 0)))
        reached_at = {name: step for name, (step, _) in steps.items() if step is not None}
        sentences += _sentences(family_differences, reached_at, results, results.lead(family))
    metric = metric_title(results.metric)
    blocks = [
        check.difference_block(compared, f"minus {LEARNED}, {metric}, protocol {results.protocols[0]}", results),
        Block("convergence (optimiser steps)", (FAMILY, "range", *CONVERGENCE), tuple(speeds)),
    ]
    figure = figures.forest(check.forest_series(compared), f"{metric} minus {LEARNED}, average of sets (95 %)")
    return check.Check(document(results.spec, "Clipping range", blocks, [check.TIES]), sentences, lines, figure)


def _sentences(compared: Sequence[check.Line], reached_at: Mapping[str, float], results: TableResults, lead: str) -> list[str]:
    """`reached_at`: by method, the step at which its validation score had converged."""
    average = [line for line in compared if line.scope == AVERAGE]
    if not average:
        return [check.capital(f"{lead}no range was compared with the learned band.")]
    best = max(average, key=lambda line: line.effect)
    single = [line for line in compared if line.scope != AVERAGE]
    decided = [line for line in single if line.decided]
    where = ", ".join(f"{line.subject} on {results.title(line.scope)}" for line in decided[:NAMED])
    learned = number(reached_at.get(check.REFERENCE), 0)
    others = [step for name, step in reached_at.items() if name != check.REFERENCE]
    ranges = f"steps {number(min(others), 0)} to {number(max(others), 0)}" if others else "no step"
    return [
        check.capital(f"{lead}{check.count_text(average, LEARNED)}."),
        f"Highest on average is {best.subject} with {best.text(check.DOUBT)}; on single test sets {len(decided)} of "
        f"{len(single)} differences are decided" + (f" ({where})." if where else "."),
        f"The learned band comes within 5 % of its best validation ROUGE-L at step {learned}, the other ranges at {ranges}.",
    ]
