"""A loss of the user's own in the place of a divergence (docs/own_method.md)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from mgsr.config.loss_terms import Custom
from mgsr.errors import MgsrError
from mgsr.plugins import load_custom


class CustomLoss(nn.Module):
    """Wraps a loss of the user's own: a function `f(student_logp, teacher_logp, *, progress, **parameters) -> [n]` of
    log-probabilities [n, vocab], or an nn.Module class that is made with the parameters and called with the rest. Raises
    MgsrError where it cannot be made, or gives something else than a loss for each position."""

    def __init__(self, config: Custom) -> None:
        super().__init__()
        self.reference = config.function
        named = load_custom(config.function)
        is_class = isinstance(named, type)
        if is_class and not issubclass(named, nn.Module):
            raise MgsrError(f"'{self.reference}' is a class but no torch.nn.Module; make it one, or name a function")
        try:
            if is_class:
                inspect.signature(named).bind(**config.parameters)
            else:
                inspect.signature(named).bind(None, None, progress=0.0, **config.parameters)
        except TypeError as error:
            raise MgsrError(f"'{self.reference}' with parameters {config.parameters}: {error}") from None
        # A module is registered here: its parameters are trained, its parameters and buffers checkpointed.
        self.loss: Callable[..., Tensor] = named(**config.parameters) if is_class else partial(named, **config.parameters)

    def forward(self, s_logp: Tensor, t_logp: Tensor, progress: float) -> Tensor:
        value = self.loss(s_logp, t_logp, progress=progress)
        if not isinstance(value, Tensor) or value.shape != s_logp.shape[:1]:
            given = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise MgsrError(f"'{self.reference}' must give one loss for each position, [{len(s_logp)}], and gave {given}")
        return value

    def after_step(self, distillation: float, progress: float) -> None:
        if (hook := getattr(self.loss, "after_step", None)) is not None:
            hook(distillation, progress)
