"""One thing changed in MGSR at a time: which of its settings matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mgsr.tables import figures
from mgsr.tables.checks import check
from mgsr.tables.decisions import AgainstBest
from mgsr.tables.render import FAMILY, MISSING, Block, document, metric_title, number
from mgsr.tables.results import TableResults
from mgsr.tables.rows import TIE

NAMED = 3  # variants that a sentence names


def sensitivity(results: TableResults) -> check.Check:
    """One thing changed in MGSR at a time: scores and held-out KL against it."""
    lines, compared = list[check.Line](), list[check.Line]()
    sentences, heldout = list[str](), list[tuple[str, ...]]()
    for family in results.families:
        methods = results.of_family(family)
        family_lines, family_differences = check.against_reference(results, family)
        lines, compared = lines + family_lines, compared + family_differences
        known = {name: method for name, method in methods.items() if method.heldout("forward_kl") is not None}
        base = known.get(check.REFERENCE)
        questions: dict[check.Place, AgainstBest] = {
            (family, "heldout_forward_kl", method.title, results.sets[0], base.title): AgainstBest(
                (method.compare_heldout(base, "forward_kl"),)
            )
            for method in known.values()
            if base and method is not base
        }
        changes = {line.subject: line for line in check.difference_lines(questions, "")}
        for method in methods.values():
            value = method.heldout("forward_kl")
            lines.append(check.Line(family, "heldout_forward_kl", method.title, value, results.sets[0]))
            change = changes[method.title].text(f" {TIE}", 4) if method.title in changes else MISSING
            heldout.append((family, method.title, number(value, 4), change))
        lines += changes.values()
        sentences += _sentences(family_differences, changes, results.lead(family))
    metric = metric_title(results.metric)
    heading = f"minus MGSR, {metric}, average of sets, protocol {results.protocols[0]}"
    header = (FAMILY, "variant", "KL", "minus MGSR")
    blocks = [
        check.difference_block(compared, heading, results),
        Block("held-out forward KL to the teacher (nats a token)", header, tuple(heldout)),
    ]
    figure = figures.forest(check.forest_series(compared), f"{metric} minus MGSR, average of sets (95 %)")
    return check.Check(document(results.spec, "Sensitivity", blocks, [check.TIES]), sentences, lines, figure)


def _sentences(compared: Sequence[check.Line], changes: Mapping[str, check.Line], lead: str) -> list[str]:
    if not compared:
        return [check.capital(f"{lead}no variant was compared with MGSR.")]
    sentences = [check.capital(f"{lead}{check.count_text(compared, 'MGSR')}."), f"{check.telling(compared, NAMED)}."]
    if changes:
        closest, farthest = (choose(changes.values(), key=lambda line: line.effect) for choose in (min, max))
        sentences.append(
            f"The held-out forward KL, minus MGSR's, runs from {closest.text(check.DOUBT, 4)} ({closest.subject}) to "
            f"{farthest.text(check.DOUBT, 4)} nats a token ({farthest.subject})."
        )
    return sentences
