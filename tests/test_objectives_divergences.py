"""The log-space core against scipy, torch.distributions, TRL and finite differences."""

import math
import os
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from scipy.special import rel_entr

from mgsr.config.loss_terms import CrossEntropy, Custom, DacKlConfig, Distillation, PolicyGradientConfig
from mgsr.models.kl import forward_kl, reverse_kl
from mgsr.objectives import divergences
from mgsr.objectives.divergences import (
    Divergence,
    generalized_jsd,
    skew_forward_kl,
    skew_reverse_kl,
    symmetric_kl,
    total_variation,
)
from tests.objectives_support import assert_finite, assert_zero_at_equality, draw

ALL: dict[str, Divergence] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "symmetric_kl": partial(symmetric_kl, forward_share=0.5),
    "symmetric_kl_code_base": partial(symmetric_kl, forward_share=0.1),
    "total_variation": total_variation,
    "generalized_jsd": partial(generalized_jsd, beta=0.1),
    "generalized_jsd_half": partial(generalized_jsd, beta=0.5),
    "skew_forward_kl": partial(skew_forward_kl, alpha=0.1),
    "skew_reverse_kl": partial(skew_reverse_kl, alpha=0.1),
    "skew_forward_kl_0": partial(skew_forward_kl, alpha=0.0),
}
each = pytest.mark.parametrize("name", ALL)


def np_kl(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sum(rel_entr(a, b), -1))


def expected(name: str, p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """The formulas of docs/methods.md in plain probabilities, p the teacher's."""
    match name:
        case "forward_kl" | "skew_forward_kl_0":
            return np_kl(p, q)
        case "reverse_kl":
            return np_kl(q, p)
        case "symmetric_kl" | "symmetric_kl_code_base":
            share = 0.5 if name == "symmetric_kl" else 0.1
            return np.asarray(share * np_kl(p, q) + (1 - share) * np_kl(q, p))
        case "total_variation":
            return np.asarray(1 - np.minimum(p, q).sum(-1))
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


@each
def test_gradient_of_student_and_teacher(name: str) -> None:
    s, t = (draw(seed, 3, 6).requires_grad_() for seed in (1, 2))
    assert torch.autograd.gradcheck(lambda a, b: ALL[name](a.log_softmax(-1), b.log_softmax(-1)), (s, t))


@each
def test_pitfall_07_zero_at_equality_and_never_below(name: str) -> None:
    assert_zero_at_equality(ALL[name], 1e-6, 50, 97, scale=4)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pitfall_08_extreme_logits(name: str, dtype: torch.dtype) -> None:
    for low, high in ((-1e4, 1e4), (-math.inf, 5.0)):
        # The last class is impossible for both, so that the divergence is finite in both directions where low is -inf.
        s, t = torch.tensor([[high, 0.0, 1.0, low]], dtype=dtype), torch.tensor([[0.0, high, 2.0, low]], dtype=dtype)
        assert (assert_finite(ALL[name], s, t) >= 0).all()


def test_pitfall_08_exact_where_probabilities_underflow() -> None:
    s, t = torch.tensor([[0.0, -200.0]]), torch.tensor([[-200.0, 0.0]])
    torch.testing.assert_close(forward_kl(s, t), torch.tensor([200.0]))
    torch.testing.assert_close(reverse_kl(s, t), torch.tensor([200.0]))
    torch.testing.assert_close(generalized_jsd(s, t, 0.5), torch.tensor([math.log(2)]))
    torch.testing.assert_close(skew_forward_kl(s, t, 0.1), torch.tensor([-math.log(0.1)]))


def test_symmetric_kl_at_its_ends_is_a_kl_itself() -> None:
    s, t = draw(1, 4, 11), draw(2, 4, 11)
    torch.testing.assert_close(symmetric_kl(s, t, 0.0), reverse_kl(s, t), rtol=0, atol=0)
    torch.testing.assert_close(symmetric_kl(s, t, 1.0), forward_kl(s, t), rtol=0, atol=0)
    missing, half = torch.tensor([[0.0, -math.inf]]), torch.log(torch.tensor([[0.5, 0.5]]))
    assert symmetric_kl(missing, half, 0.0).isfinite().all()  # 0 times the infinite forward KL is not part of it
    assert symmetric_kl(missing, half, 0.5).item() == math.inf


def test_total_variation_of_disjoint_and_equal_distributions() -> None:
    s, t = torch.tensor([[0.0, -1e4]]), torch.tensor([[-1e4, 0.0]])
    assert total_variation(s, t).item() == 1 and total_variation(s, s).item() == 0
    equal = draw(1, 7).requires_grad_()
    total_variation(equal, equal.detach()).backward()
    assert equal.grad is not None and (equal.grad == 0).all()


def test_skews_at_their_ends() -> None:
    s, t = draw(1, 4, 11), draw(2, 4, 11)
    torch.testing.assert_close(skew_forward_kl(s, t, 0.0), forward_kl(s, t), rtol=0, atol=0)
    torch.testing.assert_close(skew_reverse_kl(s, t, 0.0), reverse_kl(s, t), rtol=0, atol=0)
    # Near 1 they are (1 - a)^2 / 2 times the chi-squared distance.
    a = 1 - 1e-5
    p, q = t.exp(), s.exp()
    torch.testing.assert_close(skew_forward_kl(s, t, a) / (1 - a) ** 2, ((p - q) ** 2 / p).sum(-1) / 2, rtol=1e-2, atol=0)
    torch.testing.assert_close(skew_reverse_kl(s, t, a) / (1 - a) ** 2, ((p - q) ** 2 / q).sum(-1) / 2, rtol=1e-2, atol=0)


def test_trl_agrees_where_both_are_defined() -> None:
    """TRL 1.16's generalised JSD, values and gradients. It makes the end points KLs, ours has none: docs/methods.md."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    trl = pytest.importorskip("trl.experimental.gkd").GKDTrainer.generalized_jsd_loss
    for scale in (1.0, 30.0):
        s, t = scale * draw(1, 3, 5, 17), scale * draw(2, 3, 5, 17)
        for beta in (1e-3, 0.1, 0.5, 0.9):
            ours, theirs = s.clone().requires_grad_(), s.clone().requires_grad_()
            mine = generalized_jsd(ours.log_softmax(-1), t.log_softmax(-1), beta)
            other = trl(theirs, t, beta=beta, reduction="none").sum(-1)
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-12)  # TRL holds beta in the logits' precision
            gradients = (torch.autograd.grad(x.sum(), y)[0] for x, y in ((mine, ours), (other, theirs)))
            torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-10)
    s, t = draw(1, 1, 4, 17), draw(2, 1, 4, 17)
    torch.testing.assert_close(trl(s, t, beta=0, reduction="none").sum(-1), forward_kl(s, t))
    torch.testing.assert_close(trl(s, t, beta=1, reduction="none").sum(-1), reverse_kl(s, t))
    assert generalized_jsd(s, t, 1e-6).max() < 1e-4 < forward_kl(s, t).min()  # what the definition tends to instead
    s, t = (x.clone().index_fill(-1, torch.tensor([3]), -math.inf) for x in (s, t))
    s, t = s.log_softmax(-1), t.log_softmax(-1)
    assert trl(s, t, beta=0.5, reduction="none").sum().isnan()  # a class that both exclude
    np.testing.assert_allclose(generalized_jsd(s, t, 0.5), expected("generalized_jsd_half", t.exp().numpy(), s.exp().numpy()))


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
        ({"name": "symmetric_kl"}, "symmetric_kl"),
        ({"name": "symmetric_kl", "forward_share": 0.1}, "symmetric_kl_code_base"),
        ({"name": "total_variation"}, "total_variation"),
        ({"name": "generalized_jsd", "beta": 0.5}, "generalized_jsd_half"),
        ({"name": "skew_forward_kl", "alpha": 0.0}, "skew_forward_kl_0"),
        ({"name": "skew_reverse_kl", "alpha": 0.1}, "skew_reverse_kl"),
    ):
        parsed = TypeAdapter(Distillation).validate_python(config)
        assert (
            not isinstance(parsed, DacKlConfig | CrossEntropy | PolicyGradientConfig | Custom)
            and parsed.name in divergences.DIVERGENCES
        )
        torch.testing.assert_close(divergences.divergence_from_config(parsed)(s, t), ALL[name](s, t), rtol=0, atol=0)
