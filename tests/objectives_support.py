"""Random log-probabilities, and what holds of every divergence."""

import torch
from torch import Tensor

from mgsr.objectives.divergences import Divergence


def draw(seed: int, *shape: int, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Log-probabilities [*shape]; the same distributions in every type."""
    logits = scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.to(dtype).log_softmax(-1)


def assert_gradient(divergence: Divergence, s: Tensor, t: Tensor) -> None:
    """The student's is the numerical one."""
    assert torch.autograd.gradcheck(lambda x: divergence(x.log_softmax(-1), t), (s.clone().requires_grad_(),))


def assert_finite(divergence: Divergence, student: Tensor, teacher: Tensor) -> Tensor:
    """Value and gradient at extreme logits; gives the value."""
    logits = student.clone().requires_grad_()
    value = divergence(logits.log_softmax(-1), teacher.log_softmax(-1))
    value.sum().backward()
    assert value.isfinite().all() and logits.grad is not None and logits.grad.isfinite().all()
    return value.detach()


def assert_zero_at_equality(divergence: Divergence, atol: float, *shape: int, scale: float = 2.0) -> None:
    """And never below 0 near it."""
    for dtype in (torch.float32, torch.float64):
        s = draw(1, *shape, scale=scale, dtype=dtype)
        equal = divergence(s, s)
        assert (equal >= 0).all() and equal.max() < atol
        assert (divergence((s + 1e-4 * draw(2, *shape, dtype=dtype)).log_softmax(-1), s) >= 0).all()
