"""Measuring two ways of doing the same work in turn, so that whatever else the machine does falls on both."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

Work = Callable[[], float]  # does some work, and returns how many units it was


@dataclass(frozen=True)
class Row:
    """A row of the table: the cost of a unit of work, ours and the peer's, round by round."""

    name: str
    peer: str
    unit: str  # of the costs
    ours: list[float]
    peers: list[float]
    asked: float  # how many times cheaper ours should be

    @property
    def ratios(self) -> list[float]:
        """How many times cheaper ours is, by round."""
        return [peer / ours for ours, peer in zip(self.ours, self.peers, strict=True)]


def in_turn(ours: Work, peer: Work, rounds: int, uncounted: int = 1) -> tuple[list[float], list[float]]:
    """Milliseconds of a unit of work, by round, after some rounds that are not counted."""
    costs: tuple[list[float], list[float]] = ([], [])
    for _ in range(uncounted + rounds):
        for work, cost in zip((ours, peer), costs, strict=True):
            start = time.perf_counter()
            units = work()
            cost.append(1e3 * (time.perf_counter() - start) / units)
    return costs[0][uncounted:], costs[1][uncounted:]


def write(rows: list[Row], folder: Path) -> str:
    """Write table.csv, table.md and ratios.svg; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "peer", "unit", "round", "ours", "peer_cost", "ratio"])
        for row in rows:
            for i, costs in enumerate(zip(row.ours, row.peers, row.ratios, strict=True)):
                writer.writerow([row.name, row.peer, row.unit, i, *(f"{cost:.4g}" for cost in costs)])
    lines = [
        "| row | peer | ours | peer's | times cheaper, median (range) | asked |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        costs = " | ".join(f"{median(x):.3g} {row.unit}" for x in (row.ours, row.peers))
        spread = f"{min(row.ratios):.2f} to {max(row.ratios):.2f}"
        lines.append(f"| {row.name} | {row.peer} | {costs} | {median(row.ratios):.2f} ({spread}) | {row.asked:.2f} |")
    threads, load = os.environ.get("OMP_NUM_THREADS", "all"), os.getloadavg()[0]
    lines += ["", f"Threads: {threads}. Load of the machine at the end: {load:.1f}, so compare ratios, not times."]
    text = "\n".join(lines) + "\n"
    (folder / "table.md").write_text(text, encoding="utf-8")
    _draw(rows, folder / "ratios.svg")
    return text


def _draw(rows: list[Row], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 1 + 0.5 * len(rows)), layout="constrained")
    for place, row in enumerate(reversed(rows)):
        axes.plot(row.ratios, [place] * len(row.ratios), "o", color="tab:blue", alpha=0.4)
        axes.plot(median(row.ratios), place, "|", color="tab:blue", markersize=18)
        axes.plot(row.asked, place, "x", color="tab:red")
    axes.set_yticks(range(len(rows)), [f"{row.name}\nbeside {row.peer}" for row in reversed(rows)])
    axes.set_xscale("log")
    axes.axvline(1, color="grey", linewidth=0.5)
    axes.set_xlabel("times cheaper (cross: asked)")
    figure.savefig(path)
    plt.close(figure)
