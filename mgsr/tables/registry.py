"""Every table of scores by name: a cells file in; CSV, Markdown and LaTeX out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from mgsr.errors import MgsrError
from mgsr.tables import ablation_table, efficiency_table, exposure_table, main_table
from mgsr.tables.render import Document, write_table
from mgsr.tables.results import Cells, load_cells

Build = Callable[[Cells], pd.DataFrame]
Describe = Callable[[Cells, pd.DataFrame], Document]

TABLES: dict[str, tuple[Build, Describe]] = {
    "table1": (main_table.build, main_table.describe),
    "table2": (ablation_table.build, ablation_table.describe),
    "table3a": (ablation_table.build, ablation_table.describe),
    "table3b": (ablation_table.build, ablation_table.describe),
    "table3c": (ablation_table.build, ablation_table.describe),
    "table4a": (exposure_table.build, exposure_table.describe),
    "table4b": (efficiency_table.build, efficiency_table.describe),
    "table4c": (ablation_table.build, ablation_table.describe),
}


def document(cells: Cells) -> Document:
    """The table that these cells are for, as people read it."""
    build, describe = TABLES[cells.table]
    return describe(cells, build(cells))


DOCUMENTS: dict[str, Callable[[Cells], Document]] = dict.fromkeys(TABLES, document)


def write(cells_path: Path, folder: Path) -> None:
    """<table>.csv, .md and .tex of the table that a cells file is for."""
    cells = load_cells(cells_path)
    if cells.table not in TABLES:
        raise MgsrError(f"{cells_path} is for {cells.table}; tables are {', '.join(TABLES)}")
    build, describe = TABLES[cells.table]
    frame = build(cells)
    write_table(frame, folder, cells.table, describe(cells, frame))
