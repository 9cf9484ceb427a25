"""One thing changed in MGSR at a time: which of its settings matter."""

from __future__ import annotations

from mgsr.tables import figures
from mgsr.tables.checks.check import (
    REFERENCE,
    TIES,
    Check,
    Difference,
    Line,
    against_mgsr,
    by_method,
    capital,
    count_text,
    difference_block,
    forest_series,
    interval_text,
    telling,
)
from mgsr.tables.render import Block, number
from mgsr.tables.results import Cells
from mgsr.tables.scores import headings, preset_notes

NAMED = 3  # variants that a sentence names


def sensitivity(cells: Cells) -> Check:
    """One thing changed in MGSR at a time: ROUGE-L and held-out KL against it."""
    several, first = len(cells.families) > 1, cells.protocols[0]
    lines: list[Line] = []
    shown: list[Difference] = []
    sentences, heldout = [], []
    for family in cells.families:
        groups = by_method(cells, family)
        told, own = against_mgsr(cells, groups)
        lines, shown = lines + told, shown + own
        base = groups[REFERENCE].heldout("forward_kl") if REFERENCE in groups else None
        changes: dict[str, float] = {}
        for name, group in groups.items():
            value = group.heldout("forward_kl")
            lines.append(Line(family, "heldout_forward_kl", group.title, value, "dolly"))
            change = None if value is None or base is None else value - base
            if change is not None and name != REFERENCE:
                changes[group.title] = change
            heldout.append((*((family,) if several else ()), group.title, number(value, 4), number(change, 4)))
        sentences += _sensitivity_sentences(own, changes, f"{family}: " if several else "")
    blocks = (
        difference_block(shown, f"minus MGSR, ROUGE-L, average of sets, protocol {first}", several),
        Block("held-out forward KL to the teacher (nats a token)",
              (*(("family",) if several else ()), "variant", "KL", "minus MGSR"), tuple(heldout)),
    )  # fmt: skip
    figure = figures.forest(forest_series(shown), "ROUGE-L minus MGSR, average of sets (95 %)")
    notes = (*preset_notes(cells), TIES, "The held-out KL has no interval: an evaluation keeps its mean alone.")
    return Check("sensitivity", headings(cells, "Sensitivity"), tuple(sentences), tuple(lines), blocks, figure, notes)


def _sensitivity_sentences(found: list[Difference], changes: dict[str, float], family: str) -> list[str]:
    if not found:
        return [capital(f"{family}no variant was compared with MGSR.")]
    sentences = [capital(f"{family}{count_text(found, 'MGSR')}.")]
    sentences.append(f"{telling(found, NAMED)}.")
    if changes:
        closest, farthest = min(changes, key=changes.__getitem__), max(changes, key=changes.__getitem__)
        sentences.append(
            f"The held-out forward KL, minus MGSR's, runs from {interval_text(changes[closest], None, None, 4)} ({closest}) to "
            f"{interval_text(changes[farthest], None, None, 4)} nats a token ({farthest}); it has no interval."
        )
    return sentences
