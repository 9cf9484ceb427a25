"""TAID, AKL and ABKD: each against its paper's formulas, and through the objective as a user's file is."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import Tensor

from mgsr.config.loss_terms import ObjectiveConfig
from mgsr.examples.abkd import ab_divergence
from mgsr.examples.akl import akl
from mgsr.examples.taid import Taid
from mgsr.models.kl import forward_kl, reverse_kl
from mgsr.objectives.divergences import Divergence
from mgsr.objectives.objective import Objective
from mgsr.objectives.positions import Positions, View
from tests.objectives_support import assert_finite, assert_gradient, assert_zero_at_equality, draw

Pair = tuple[Tensor, Tensor]
SHAPE = 6, 13
POWERS = [(0.2, 0.7), (0.5, 0.5), (1.0, 1.0), (-0.5, 1.5), (2.0, -0.5)]
LIMITS = [(1.0, 0.0), (0.0, 1.0), (0.3, 0.0), (0.0, 0.3), (0.4, -0.4), (-0.4, 0.4), (0.0, 0.0)]
FAR = torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([[0.0, 1e4, -1e4]])
each_pair = pytest.mark.parametrize(("alpha", "beta"), POWERS + LIMITS)


@pytest.fixture
def pair() -> Pair:
    """Log-probabilities of student and teacher."""
    return draw(1, *SHAPE), draw(2, *SHAPE)


def arrays(s: Tensor, t: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return t.exp().numpy(), s.exp().numpy()


def ab(alpha: float, beta: float) -> Divergence:
    return partial(ab_divergence, progress=0.5, alpha=alpha, beta=beta)


# --- ABKD -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "beta"), POWERS)
def test_abkd_equals_its_closed_form(pair: Pair, alpha: float, beta: float) -> None:
    p, q = arrays(*pair)
    powers = p**alpha * q**beta - (alpha * p ** (alpha + beta) + beta * q ** (alpha + beta)) / (alpha + beta)
    np.testing.assert_allclose(ab(alpha, beta)(*pair), -powers.sum(-1) / (alpha * beta), rtol=1e-10)


def test_abkd_has_the_kls_and_the_distances_it_is_known_for(pair: Pair) -> None:
    p, q = arrays(*pair)
    torch.testing.assert_close(ab(1, 0)(*pair), forward_kl(*pair))
    torch.testing.assert_close(ab(0, 1)(*pair), reverse_kl(*pair))
    for powers, distance in (
        ((1, 1), (p - q) ** 2 / 2),
        ((0.5, 0.5), 2 * (p**0.5 - q**0.5) ** 2),  # Hellinger
        ((0, 0), (np.log(p) - np.log(q)) ** 2 / 2),
        ((1, -1), p / q - np.log(p / q) - 1),  # Itakura-Saito
    ):
        np.testing.assert_allclose(ab(*powers)(*pair), distance.sum(-1), rtol=1e-10)


@pytest.mark.parametrize(("alpha", "beta"), LIMITS)
def test_abkd_limits_are_what_their_neighbours_tend_to(pair: Pair, alpha: float, beta: float) -> None:
    near = [ab(alpha + step, beta + 2 * step)(*pair) for step in (1e-5, -1e-5)]
    torch.testing.assert_close(ab(alpha, beta)(*pair), (near[0] + near[1]) / 2, rtol=1e-4, atol=1e-6)


@each_pair
def test_abkd_gradient(alpha: float, beta: float) -> None:
    assert_gradient(ab(alpha, beta), draw(1, 2, 13, scale=1.0), draw(2, 2, 13, scale=1.0))


@each_pair
def test_abkd_is_zero_at_equality_and_never_below(alpha: float, beta: float) -> None:
    assert_zero_at_equality(ab(alpha, beta), 1e-4, 20, 13)


@each_pair
def test_pitfall_08_abkd_at_extreme_logits(alpha: float, beta: float) -> None:
    """Finite where no negative power or logarithm meets a probability of 0; a class that both exclude never matters."""
    s, t = torch.tensor([[50.0, 0.0, 1.0, -math.inf]]), torch.tensor([[0.0, 50.0, 2.0, -math.inf]])
    value = assert_finite(ab(alpha, beta), s, t)
    short = ab(alpha, beta)(s[:, :3].log_softmax(-1), t[:, :3].log_softmax(-1))
    torch.testing.assert_close(value, short, rtol=1e-5, atol=1e-6)
    if alpha >= 0 and beta >= 0 and alpha + beta > 0:
        assert_finite(ab(alpha, beta), *FAR)


# --- AKL --------------------------------------------------------------------------------------------------------------


def akl_by_hand(p: np.ndarray, q: np.ndarray, mu: float) -> float:
    """Class by class: walk down the teacher's classes while their mass is at most mu; the first is in any case head."""
    head, mass = set(), 0.0
    for place, k in enumerate(np.argsort(-p, kind="stable")):
        mass += p[k]
        if place == 0 or mass <= mu:
            head.add(int(k))
    gaps = [sum(abs(p[k] - q[k]) for k in range(len(p)) if (k in head) == inside) for inside in (True, False)]
    forward, reverse = float(rel_entr(p, q).sum()), float(rel_entr(q, p).sum())
    return (gaps[0] * forward + gaps[1] * reverse) / sum(gaps)


@pytest.mark.parametrize("mu", [0.1, 0.5, 0.9])
def test_pitfall_13_akl_weighs_each_class_in_its_own_place(mu: float) -> None:
    """The head is defined in the teacher's order: a gap left in the vocabulary's order gives other weights."""
    s, t = (draw(seed, 30, 13, scale=1.0) for seed in (1, 2))
    p, q = arrays(s, t)
    value = akl(s, t, progress=0.5, mu=mu)
    np.testing.assert_allclose(value, [akl_by_hand(a, b, mu) for a, b in zip(p, q, strict=True)], rtol=1e-10)
    shuffle = torch.randperm(13, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(akl(s[:, shuffle], t[:, shuffle], progress=0.5, mu=mu), value)
    tail = np.cumsum(-np.sort(-p, axis=-1), -1) > mu
    tail[:, 0] = False
    wrong = (np.abs(p - q) * ~tail).sum(-1) / np.abs(p - q).sum(-1)  # the fault: a sorted mask on unsorted gaps
    faulty = wrong * rel_entr(p, q).sum(-1) + (1 - wrong) * rel_entr(q, p).sum(-1)
    assert np.abs(value.numpy() - faulty).max() > 0.01


def test_akl_gradient_is_that_of_the_two_kls_at_fixed_weights(pair: Pair) -> None:
    s, t = pair[0].requires_grad_(), pair[1]
    value, *kls = (kl(s.log_softmax(-1), t) for kl in (partial(akl, progress=0.0), forward_kl, reverse_kl))
    share = ((value - kls[1]) / (kls[0] - kls[1])).detach()
    (gradient,) = torch.autograd.grad(value.sum(), s, retain_graph=True)
    (expected,) = torch.autograd.grad((share * kls[0] + (1 - share) * kls[1]).sum(), s)
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-10)


def test_akl_at_equality_and_at_extreme_logits() -> None:
    s = draw(1, *SHAPE, dtype=torch.float32)
    assert (akl(s, s, progress=0.0) == 0).all()
    assert_finite(partial(akl, progress=0.0), *FAR)


# --- TAID -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_taid_is_the_kl_from_interpolated_logits(t: float) -> None:
    """Logits with a shift for each row: log-probabilities give the same intermediate distribution."""
    shift = torch.tensor([[3.0], [-2.0], [0.5], [7.0], [0.0], [1.0]], dtype=torch.float64)
    student, teacher = draw(1, *SHAPE) + shift, draw(2, *SHAPE) - 2 * shift
    between = softmax((1 - t) * student.numpy() + t * teacher.numpy(), axis=-1)
    expected = rel_entr(between, softmax(student.numpy(), axis=-1)).sum(-1)
    value = Taid(start=t)(student.log_softmax(-1), teacher.log_softmax(-1), progress=0.0)
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)


def test_taid_gradient_holds_the_intermediate_distribution(pair: Pair) -> None:
    """d KL(p_t || q) / d logits = q - p_t where p_t is a constant."""
    logits, t, taid = pair[0].requires_grad_(), pair[1], Taid()
    (gradient,) = torch.autograd.grad(taid(logits.log_softmax(-1), t, progress=0.0).sum(), logits)
    s = logits.detach()
    torch.testing.assert_close(gradient, s.softmax(-1) - (0.6 * s + 0.4 * t).softmax(-1))
    assert not taid(s, s, progress=0.0).gt(1e-12).any()


def test_taid_parameter_follows_its_rule() -> None:
    """The paper's update by hand: at least the line, ahead of it by the momentum of the loss's relative fall."""
    taid, steps = Taid(start=0.4, end=1.0, rate=0.5, momentum=0.9), 50
    losses = [2.0 * 0.9**k + (0.3 if k == 20 else 0.0) for k in range(steps)]
    t, m, previous = 0.4, 0.0, None
    for k, loss in enumerate(losses):
        progress = k / steps
        taid.after_step(loss, progress)
        if previous is not None:
            m = 0.9 * m + 0.1 * (previous - loss) / previous
            t = min(1.0, max(0.4 + 0.6 * progress, t + 0.5 / (1 + math.exp(-m)) * (1 - t)))
        previous = loss
        assert float(taid.t) == pytest.approx(t, rel=1e-12)
    slow = Taid(rate=0.0)
    for k in range(steps):
        slow.after_step(losses[k], (k + 1) / steps)
    assert float(slow.t) == 1.0


def test_taid_resumes_at_its_parameter() -> None:
    config = ObjectiveConfig.model_validate({"distillation": {"name": "custom", "function": "mgsr.examples.taid:Taid"}})
    one, other = Objective(config, 13, seed=1), Objective(config, 13, seed=1)
    for step in range(5):
        one.progress = step / 10
        one.after_step({"distillation": 2.0 - 0.3 * step, "sft": 1.0})
    other.load_state_dict(one.state_dict())
    other.progress = one.progress = 0.5
    for objective in (one, other):
        objective.after_step({"distillation": 0.1})
    assert one.state_dict() and all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))
    assert float(one.state_dict()["custom.loss.t"]) > 0.4


# --- all, as the workflow uses them -----------------------------------------------------------------------------------

FILES = {
    "mgsr.examples.taid:Taid": {},
    "mgsr.examples.akl:akl": {},
    "mgsr.examples.abkd:ab_divergence": {"alpha": 0.2, "beta": 0.7},
}


@pytest.mark.parametrize("function", FILES)
def test_each_file_is_a_term_of_the_objective(pair: Pair, function: str) -> None:
    distillation = {"name": "custom", "function": function, "parameters": FILES[function]}
    objective = Objective(ObjectiveConfig.model_validate({"sft_weight": 0, "distillation": distillation}), 13, seed=1)
    s, t, weight = pair[0].requires_grad_(), pair[1], torch.tensor([0.5, 0, 1, 2, 0, 1], dtype=torch.float64)
    none = torch.zeros_like(weight)
    at = Positions(torch.zeros(6, dtype=torch.long), weight, none, none)
    loss, sums = objective(View(s.log_softmax(-1), t, at, 6))
    loss.backward()
    assert loss > 0 and sums["distillation"] == loss.detach() and s.grad is not None
    assert (s.grad[1] == 0).all() and (s.grad[0] != 0).any()
