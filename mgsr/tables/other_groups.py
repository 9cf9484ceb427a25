"""Numbers that other groups printed on the same benchmark, beside ours on request."""

from __future__ import annotations

from mgsr.config.table_specs import TableSpec
from mgsr.tables import paper
from mgsr.tables.render import Block, number
from mgsr.tables.results import TableResults

LOSSES_ALONE = {"table1": False, "table3c": True}  # the tables that show these numbers: of whole methods, or of losses alone
SETS = {"dolly": "Dolly", "self_instruct": "Self-Instruct", "vicuna": "Vicuna", "sni": "S-NI", "unni": "UnNI"}


def other_groups_blocks(spec: TableSpec, results: TableResults) -> list[Block]:
    """One block with the rows of the table's families; none where no group printed any."""
    if not spec.other_groups or spec.name not in LOSSES_ALONE:
        return []
    lines = [
        line
        for family in results.families
        for line in paper.read_lines("other_groups")
        if line["family"] == family and line["note"].startswith("loss only") == LOSSES_ALONE[spec.name]
    ]
    header = ("source", "family", "pair", "method", *SETS.values(), "note")
    rows = []
    for line in lines:
        pair = " → ".join(filter(None, (line["teacher"], line["student"])))
        scores = (number(float(line[name])) for name in SETS)
        rows.append((line["source"], line["family"], pair, line["method"], *scores, line["note"]))
    return [Block("other groups' numbers, as they printed them", header, tuple(rows))] if rows else []
