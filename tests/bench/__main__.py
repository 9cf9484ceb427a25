"""Measure the rows named on the command line, or all of them, and write results/bench/."""

import argparse
from pathlib import Path

from tests.bench import dac_kl, decoding, memory, rouge
from tests.bench.harness import write

MEASUREMENTS = {"rouge": rouge.rows, "dac_kl": dac_kl.rows, "memory": memory.rows, "decoding": decoding.rows}

parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
parser.add_argument("rows", nargs="*", choices=[[], *MEASUREMENTS], default=list(MEASUREMENTS))
parser.add_argument("--out", type=Path, default=Path("results/bench"))
arguments = parser.parse_args()
rows = []
for name in arguments.rows:
    rows += MEASUREMENTS[name]()
    table = write(rows, arguments.out)  # after each, so that what is measured stays if a later one is stopped
print(table)
