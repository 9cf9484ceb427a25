"""`mgsr compare A B`: how two runs or methods differ, and on which prompts most."""

from __future__ import annotations

import textwrap
from pathlib import Path

from mgsr.errors import MgsrError
from mgsr.inspection.results_folder import ResultsFolder, answers_of
from mgsr.tables.columns import aligned
from mgsr.tables.results import MethodResult

SHOWN = 3  # prompts of each set that changed most


def compare_text(root: Path, first: str, second: str) -> str:
    """A minus B for each test set and on average, with a 95 % interval and a p-value that are not corrected for their number;
    then the prompts that changed most, with both answers of the first training and decoding seed."""
    folder = ResultsFolder.load(root)
    one, other = folder.find(first), folder.find(second)
    if one.family != other.family:
        raise MgsrError(f"{first} is of family {one.family} and {second} of {other.family}; name two of one family")
    sets, metric, protocol = list(folder.spec.test_sets), folder.spec.metrics[0], one.runs[0].evaluation.protocols[0]
    rows = []
    for title, names in [*((folder.spec.test_sets[name], [name]) for name in sets), ("average", sets)]:
        comparison = one.compare(other, metric, names, protocol)
        low, high = comparison.interval()
        rows.append(
            [title, f"{comparison.effect:+.2f}", f"{low:.2f} to {high:.2f}", f"{comparison.p:.3f}", str(comparison.prompts)]
        )
    head = ["", f"{metric}, A - B", "95 % interval", "p", "prompts"]
    text = [f"A: {one.title}\nB: {other.title}\nprotocol {protocol}", aligned(head, rows)]
    return "\n\n".join([*text, *_changed_most(one, other, metric, protocol)])


def _changed_most(one: MethodResult, other: MethodResult, metric: str, protocol: str) -> list[str]:
    ours, theirs = (
        {(a.test_set, a.record.id, a.decoding_seed): a for a in answers_of(method.runs[0]) if a.protocol == protocol}
        for method in (one, other)
    )
    shared = [key for key in ours if key in theirs]
    first = min(seed for _, _, seed in shared)
    by_set: dict[str, list[tuple[str, str, int]]] = {}
    for key in shared:
        if key[2] == first:
            by_set.setdefault(key[0], []).append(key)
    texts = []
    for test_set, keys in by_set.items():
        keys.sort(key=lambda key: -abs(ours[key].scores[metric] - theirs[key].scores[metric]))
        for key in keys[:SHOWN]:
            answers = [(name, side[key]) for name, side in (("A", ours), ("B", theirs))]
            lines = [f"{test_set}, {key[1]}: {shorten(ours[key].record.instruction)}"]
            lines += [f"  {name} {answer.scores[metric]:6.2f}  {shorten(answer.text)}" for name, answer in answers]
            texts.append("\n".join(lines))
    return texts


def shorten(text: str) -> str:
    return textwrap.shorten(text, 160, placeholder=" ...") or "(nothing)"
