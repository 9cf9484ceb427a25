"""One thing changed in MGSR at a time: which of its settings matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mgsr.tables import figures
from mgsr.tables.checks import check
from mgsr.tables.legends import legend
from mgsr.tables.render import FAMILY, Block, document, metric_title, number
from mgsr.tables.results import TableResults

NAMED = 3  # variants that a sentence names


def sensitivity(results: TableResults) -> check.Check:
    """One thing changed in MGSR at a time: scores and held-out KL against it."""
    lines, compared = list[check.Line](), list[check.Line]()
    sentences, heldout = list[str](), list[tuple[str, ...]]()
    for family in results.families:
        methods = results.of_family(family)
        family_lines, family_differences = check.against_reference(results, family)
        lines, compared = lines + family_lines, compared + family_differences
        base = methods[check.REFERENCE].heldout("forward_kl") if check.REFERENCE in methods else None
        changes: dict[str, float] = {}
        for name, method in methods.items():
            value = method.heldout("forward_kl")
            lines.append(check.Line(family, "heldout_forward_kl", method.title, value, results.sets[0]))
            change = None if value is None or base is None else value - base
            if change is not None and name != check.REFERENCE:
                changes[method.title] = change
            heldout.append((family, method.title, number(value, 4), number(change, 4)))
        sentences += _sentences(family_differences, changes, results.lead(family))
    metric = metric_title(results.metric)
    heading = f"minus MGSR, {metric}, average of sets, protocol {results.protocols[0]}"
    header = (FAMILY, "variant", "KL", "minus MGSR")
    blocks = [
        check.difference_block(compared, heading, results),
        Block("held-out forward KL to the teacher (nats a token)", header, tuple(heldout)),
    ]
    figure = figures.forest(check.forest_series(compared), f"{metric} minus MGSR, average of sets (95 %)")
    notes = [check.TIES, *legend("sensitivity")]
    return check.Check(document(results.spec, "Sensitivity", blocks, notes), sentences, lines, figure)


def _sentences(compared: Sequence[check.Line], changes: Mapping[str, float], lead: str) -> list[str]:
    if not compared:
        return [check.capital(f"{lead}no variant was compared with MGSR.")]
    sentences = [check.capital(f"{lead}{check.count_text(compared, 'MGSR')}."), f"{check.telling(compared, NAMED)}."]
    if changes:
        closest, farthest = min(changes, key=changes.__getitem__), max(changes, key=changes.__getitem__)
        low, high = (check.interval_text(changes[name], None, None, 4) for name in (closest, farthest))
        sentences.append(
            f"The held-out forward KL, minus MGSR's, runs from {low} ({closest}) to {high} nats a token ({farthest}); it has "
            "no interval."
        )
    return sentences
