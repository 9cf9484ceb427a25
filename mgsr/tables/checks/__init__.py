"""The questions that the paper leaves open, one module each; `mgsr.tables.open_checks` writes their answers."""
