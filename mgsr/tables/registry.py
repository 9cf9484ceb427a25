"""Every kind of table: ROOT/plan/<name>.json in; ROOT/tables/<name>.csv, .md and .tex out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mgsr.config.table_entries import TableKind
from mgsr.config.table_specs import TableSpec, read_plan
from mgsr.tables.ablation_table import ablation_table
from mgsr.tables.efficiency_table import efficiency_table
from mgsr.tables.exposure_table import exposure_table
from mgsr.tables.main_table import main_table
from mgsr.tables.render import Table, write_files
from mgsr.tables.results import TableResults, load_results

BUILDERS: dict[TableKind, Callable[[TableSpec, TableResults], Table]] = {
    "main": main_table,
    "ablation": ablation_table,
    "exposure": exposure_table,
    "efficiency": efficiency_table,
}


def build_table(spec: TableSpec, results: TableResults) -> Table:
    return BUILDERS[spec.kind](spec, results)


def write_table(root: Path, name: str) -> None:
    """Write ROOT/tables/<name>.csv, .md and .tex."""
    spec = read_plan(root, name, TableSpec)
    write_files(build_table(spec, load_results(spec, root)), root / "tables", name)
