"""What is made of a method: its settings in words, one learning rate of its grid, its second row in Table 1."""

from __future__ import annotations

from mgsr.config.loss_terms import Custom
from mgsr.config.method import Method


def method_in_words(method: Method) -> str:
    """A method's settings in words: a run's title. What tables call the method is no part of the run, so that rows of equal
    settings share one."""
    sequences, objective = method.sequences, method.objective
    share = f" {sequences.student_share:g}" if sequences.policy == "mixed" else ""
    revised = f" with {sequences.scrg.passes} x SCRG" if sequences.scrg else ""
    distillation = objective.distillation.name if objective.distillation is not None and objective.distils else ""
    terms = ["SFT" if objective.sft_weight else "", distillation, "span" if objective.span_weight else ""]
    start = f", from {method.start}" if method.role == "student" else ""
    return f"{method.role}: {sequences.policy}{share}{revised}, {' + '.join(filter(None, terms))}{start}"


def custom_functions(method: Method) -> list[str]:
    """What the method takes from the user's own modules, as `module:name`."""
    distillation = method.objective.distillation
    names = [method.sequences.function, distillation.function if isinstance(distillation, Custom) else None]
    return [name for name in names if name]


def at_rate(method: Method, rate: float) -> Method:
    """The method at one learning rate of its grid."""
    return method.model_copy(update={"training": method.training.model_copy(update={"learning_rate": rate})})


def without_sft(method: Method) -> Method | None:
    """A method's second row: the same with SFT weight 0. None where there is no such term, or nothing else to learn from."""
    objective = method.objective
    learns = objective.distils or objective.span_weight > 0
    if method.role != "student" or not learns or not objective.sft_weight or method.sequences.dataset_terms == "sft":
        return None
    objective = objective.model_copy(update={"sft_weight": 0.0})
    return method.model_copy(update={"title": f"{method.title}, SFT weight 0", "objective": objective})
