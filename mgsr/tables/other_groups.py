"""Numbers that other groups printed on the same benchmark, beside ours on request."""

from __future__ import annotations

from collections.abc import Sequence

from mgsr.tables import paper
from mgsr.tables.render import Block, number
from mgsr.tables.scores import SET_TITLES

NOTE = (
    "Other groups' numbers are second-hand copies of published tables. Between groups the same method differs by up to 4 "
    "points, far more than any printed deviation over decoding seeds. Whether WASD's symmetric KL is ours is not verified."
)
SETS = ("dolly", "self_instruct", "vicuna", "sni", "unni")


def other_groups_blocks(families: Sequence[str], *, losses: bool) -> list[Block]:
    """One block with the rows of these families; none where no group printed any. `NOTE` goes with it."""
    rows = [row for family in families for row in paper.other_groups(family, losses)]
    header = ("source", "family", "pair", "method", *(SET_TITLES[name] for name in SETS), "note")
    lines = tuple(
        (row.source, row.family, row.pair, row.method, *(number(row.scores[name]) for name in SETS), row.note) for row in rows
    )
    return [Block("other groups' numbers, as they printed them", header, lines)] if lines else []
