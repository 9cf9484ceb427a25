"""`mgsr samples`: prompts with their references and every method's answer."""

from __future__ import annotations

import random
import textwrap
from pathlib import Path

from mgsr.config.base import nearest
from mgsr.errors import MgsrError
from mgsr.inspection.results_folder import AnswerInContext, ResultsFolder, answers_of


def samples_text(root: Path, prompt: str | None, count: int, seed: int) -> str:
    """The prompt of this id, or `count` prompts drawn with `seed`; answers are those of the first training and decoding seed
    under the first protocol."""
    folder = ResultsFolder.load(root)
    by_method: list[tuple[str, dict[str, AnswerInContext]]] = []
    for method in folder.methods:
        run = method.runs[0]
        protocol = run.evaluation.protocols[0]
        answers = [answer for answer in answers_of(run) if answer.protocol == protocol]
        first = min(answer.decoding_seed for answer in answers)
        title = f"{method.title} ({method.family})"
        by_method.append((title, {answer.record.id: answer for answer in answers if answer.decoding_seed == first}))
    known = sorted({name for _, answers_by_id in by_method for name in answers_by_id})
    if prompt is not None and prompt not in known:
        raise MgsrError(f"there is no prompt '{prompt}' in the test sets; {nearest(prompt, known)}")
    chosen = [prompt] if prompt is not None else random.Random(seed).sample(known, min(count, len(known)))
    return "\n\n".join(_text(name, by_method, folder.spec.metrics[0]) for name in chosen)


def _text(name: str, by_method: list[tuple[str, dict[str, AnswerInContext]]], metric: str) -> str:
    found = [(title, answers[name]) for title, answers in by_method if name in answers]
    record = found[0][1].record
    lines = [f"{found[0][1].test_set}, {name}", _wrapped("prompt", "\n".join(filter(None, (record.instruction, record.input))))]
    lines += [_wrapped("reference", reference) for reference in record.references]
    lines += [_wrapped(f"{answer.scores[metric]:6.2f} {title}", answer.text) for title, answer in found]
    return "\n".join(lines)


def _wrapped(label: str, text: str) -> str:
    body = textwrap.fill(" ".join(text.split()) or "(nothing)", 100, initial_indent="    ", subsequent_indent="    ")
    return f"  {label}\n{body}"
