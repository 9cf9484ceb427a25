"""Numbers that other groups printed on the same benchmark, beside ours on request."""

from __future__ import annotations

from mgsr.config.table_specs import TableSpec
from mgsr.tables import paper
from mgsr.tables.render import Block, number
from mgsr.tables.results import TableResults

NOTE = (
    "Other groups' numbers are second-hand copies of published tables. Between groups the same method differs by up to 4 "
    "points, far more than any printed deviation over decoding seeds. Whether WASD's symmetric KL is ours is not verified."
)
SETS = {"dolly": "Dolly", "self_instruct": "Self-Instruct", "vicuna": "Vicuna", "sni": "S-NI", "unni": "UnNI"}


def other_groups_blocks(spec: TableSpec, results: TableResults) -> list[Block]:
    """One block with the rows of the table's families; none where no group printed any. `NOTE` goes with it."""
    rows = [row for family in results.families for row in paper.other_groups(spec.name, family)] if spec.other_groups else []
    header = ("source", "family", "pair", "method", *SETS.values(), "note")
    lines = tuple(
        (row.source, row.family, row.pair, row.method, *(number(row.scores[name]) for name in SETS), row.note) for row in rows
    )
    return [Block("other groups' numbers, as they printed them", header, lines)] if lines else []
