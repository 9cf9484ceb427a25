"""The log-space core against numpy, torch.distributions and finite differences."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from mgsr.config.schema import DacKlConfig, Distillation
from mgsr.objectives.divergences import (
    DIVERGENCES,
    Divergence,
    divergence_from_config,
    forward_kl,
    generalized_jsd,
    reverse_kl,
    skew_forward_kl,
    skew_reverse_kl,
)

ALL: dict[str, Divergence] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "generalized_jsd": partial(generalized_jsd, beta=0.1),
    "generalized_jsd_half": partial(generalized_jsd, beta=0.5),
    "skew_forward_kl": partial(skew_forward_kl, alpha=0.1),
    "skew_reverse_kl": partial(skew_reverse_kl, alpha=0.1),
    "skew_forward_kl_0": partial(skew_forward_kl, alpha=0.0),
}
each = pytest.mark.parametrize("name", ALL)


def draw(seed: int, *shape: int, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> Tensor:
    logits = scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.to(dtype).log_softmax(-1)


def np_kl(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sum(a * np.log(a / b), -1))


def expected(name: str, p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """recipe.md's formulas, p the teacher, in plain probabilities."""
    match name:
        case "forward_kl" | "skew_forward_kl_0":
            return np_kl(p, q)
        case "reverse_kl":
            return np_kl(q, p)
        case "generalized_jsd" | "generalized_jsd_half":
            beta = 0.1 if name == "generalized_jsd" else 0.5
            m = beta * p + (1 - beta) * q
            return np.asarray(beta * np_kl(p, m) + (1 - beta) * np_kl(q, m))
        case "skew_forward_kl":
            return np_kl(p, 0.1 * p + 0.9 * q)
        case "skew_reverse_kl":
            return np_kl(q, 0.9 * p + 0.1 * q)
    raise AssertionError(name)


@each
def test_equals_numpy(name: str) -> None:
    s, t = draw(1, 5, 3, 11), draw(2, 5, 3, 11)
    np.testing.assert_allclose(ALL[name](s, t), expected(name, t.exp().numpy(), s.exp().numpy()), rtol=1e-10)


def test_kl_equals_torch_distributions() -> None:
    s, t = draw(1, 7, 11), draw(2, 7, 11)
    p, q = Categorical(logits=t), Categorical(logits=s)
    torch.testing.assert_close(forward_kl(s, t), kl_divergence(p, q))
    torch.testing.assert_close(reverse_kl(s, t), kl_divergence(q, p))


@each
def test_gradient_of_student_and_teacher(name: str) -> None:
    s, t = (draw(seed, 3, 6).requires_grad_() for seed in (1, 2))
    assert torch.autograd.gradcheck(lambda a, b: ALL[name](a.log_softmax(-1), b.log_softmax(-1)), (s, t))


@each
def test_pitfall_07_zero_at_equality_and_never_below(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        s = draw(1, 50, 97, scale=4, dtype=dtype)
        equal = ALL[name](s, s)
        assert (equal >= 0).all() and equal.max() < 1e-6
        near = ALL[name]((s + 1e-4 * draw(2, 50, 97, dtype=dtype)).log_softmax(-1), s)
        assert (near >= 0).all()


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pitfall_08_extreme_logits(name: str, dtype: torch.dtype) -> None:
    for low in (-1e4, -math.inf):
        # The last class is impossible for both, so that the divergence is finite in both directions where low is -inf.
        s = torch.tensor([[1e4 if low == -1e4 else 5.0, 0.0, 1.0, low]], dtype=dtype, requires_grad=True)
        t = torch.tensor([[0.0, 1e4 if low == -1e4 else 5.0, 2.0, low]], dtype=dtype)
        value = ALL[name](s.log_softmax(-1), t.log_softmax(-1))
        value.sum().backward()
        assert value.isfinite().all() and (value >= 0).all() and s.grad is not None and s.grad.isfinite().all()


def test_pitfall_08_exact_where_probabilities_underflow() -> None:
    s, t = torch.tensor([[0.0, -200.0]]), torch.tensor([[-200.0, 0.0]])
    torch.testing.assert_close(forward_kl(s, t), torch.tensor([200.0]))
    torch.testing.assert_close(reverse_kl(s, t), torch.tensor([200.0]))
    torch.testing.assert_close(generalized_jsd(s, t, 0.5), torch.tensor([math.log(2)]))
    torch.testing.assert_close(skew_forward_kl(s, t, 0.1), torch.tensor([-math.log(0.1)]))


def test_infinite_where_support_is_missing() -> None:
    s, t = torch.tensor([[0.0, -math.inf]]), torch.log(torch.tensor([[0.5, 0.5]]))
    assert forward_kl(s, t).item() == math.inf
    torch.testing.assert_close(reverse_kl(s, t), torch.tensor([math.log(2)]))


def test_pitfall_09_directions() -> None:
    """A student with zero mass on a teacher's mode: the forward directions punish it, the reverse ones do not."""
    t, s = torch.log(torch.tensor([0.5, 0.5 - 1e-9, 1e-9])), torch.log(torch.tensor([1 - 2e-9, 1e-9, 1e-9]))
    assert forward_kl(s, t) > 8 and reverse_kl(s, t) < 1
    assert skew_forward_kl(s, t, 0.1) > 1.1 * skew_reverse_kl(s, t, 0.1)
    p, q = t.exp().double().numpy(), s.exp().double().numpy()
    right, swapped = expected("generalized_jsd", p, q), expected("generalized_jsd", q, p)
    assert abs(right - swapped) > 0.01
    np.testing.assert_allclose(generalized_jsd(s, t, 0.1), right, rtol=1e-4)
    torch.testing.assert_close(generalized_jsd(s, t, 0.1), generalized_jsd(t, s, 0.9))


def test_pitfall_12_jsd_shrinks_at_its_ends() -> None:
    s, t = draw(1, 11), draw(2, 11)
    middle, end = generalized_jsd(s, t, 0.5), generalized_jsd(s, t, 1e-4)
    assert 0 < end < 0.01 * middle
    torch.testing.assert_close(end / 1e-4, forward_kl(s, t), rtol=5e-3, atol=0)


def test_pitfall_20_configuration_reaches_exactly_its_divergence() -> None:
    s, t = draw(1, 4, 11), draw(2, 4, 11)
    for config, name in (
        ({"name": "forward_kl"}, "forward_kl"),
        ({"name": "reverse_kl"}, "reverse_kl"),
        ({"name": "generalized_jsd", "beta": 0.5}, "generalized_jsd_half"),
        ({"name": "skew_forward_kl", "alpha": 0.0}, "skew_forward_kl_0"),
        ({"name": "skew_reverse_kl", "alpha": 0.1}, "skew_reverse_kl"),
    ):
        parsed = TypeAdapter(Distillation).validate_python(config)
        assert not isinstance(parsed, DacKlConfig) and parsed.name in DIVERGENCES
        torch.testing.assert_close(divergence_from_config(parsed)(s, t), ALL[name](s, t), rtol=0, atol=0)
