"""Every table of scores by name: a cells file in; CSV, Markdown and LaTeX out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from mgsr.errors import MgsrError
from mgsr.tables import ablations, efficiency, exposure, main_table
from mgsr.tables.cells import Cells, load_cells
from mgsr.tables.render import Document, write_table

FRAMES: dict[str, Callable[[Cells], pd.DataFrame]] = {
    "table1": main_table.build,
    "table2": ablations.build,
    "table3a": ablations.build,
    "table3b": ablations.build,
    "table3c": ablations.build,
    "table4a": exposure.build,
    "table4b": efficiency.build,
    "table4c": ablations.build,
}
DOCUMENTS: dict[str, Callable[[Cells], Document]] = {
    "table1": main_table.document,
    "table2": ablations.document,
    "table3a": ablations.document,
    "table3b": ablations.document,
    "table3c": ablations.document,
    "table4a": exposure.document,
    "table4b": efficiency.document,
    "table4c": ablations.document,
}


def write(cells_path: Path, folder: Path) -> None:
    """<table>.csv, .md and .tex of the table that a cells file is for."""
    cells = load_cells(cells_path)
    if cells.table not in DOCUMENTS:
        raise MgsrError(f"{cells_path} is for {cells.table}; tables are {', '.join(DOCUMENTS)}")
    write_table(FRAMES[cells.table](cells), folder, cells.table, DOCUMENTS[cells.table](cells))
