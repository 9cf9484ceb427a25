"""DAC-KL: Eq. 5-8 against numpy, what bounds it, and what trains f."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from mgsr.config.schema import DacKlConfig
from mgsr.objectives.dac_kl import DacKl
from mgsr.objectives.divergences import reverse_kl

V = 23


def config(**changes: object) -> DacKlConfig:
    return DacKlConfig.model_validate({"name": "dac_kl", **changes})


AS_PRINTED = config(
    content="mask",
    target="twice",
    normalisation="none",
    mask_space="probability",
    softness=1e-7,
    trained_by="same",
    start_upper=0.5,
    start_lower=0.5,
)


def draw(seed: int, n: int = 40, dtype: torch.dtype = torch.float64) -> Tensor:
    return (3 * torch.randn(n, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).log_softmax(-1).to(dtype)


def trained(dac: DacKl, seed: int = 0) -> DacKl:
    """An f whose thresholds differ between positions."""
    with torch.no_grad():
        dac.f.get_parameter("2.weight").normal_(generator=torch.Generator().manual_seed(seed))
    return dac


def gradients(dac: DacKl, value: Tensor) -> list[Tensor]:
    return [torch.zeros_like(x) if g is None else g for x, g in _pairs(dac, value)]


def _pairs(dac: DacKl, value: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    parameters = list(dac.parameters())
    return list(zip(parameters, torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True), strict=True))


def sigmoid(x: np.ndarray | float) -> np.ndarray:
    return np.asarray(np.exp(-np.logaddexp(0, -np.asarray(x, dtype=np.float64))))


def oracle(c: DacKlConfig, t: np.ndarray, s: np.ndarray, u: float, low: float) -> tuple[float, float]:
    """One position in plain probabilities, slot by slot; (loss without penalty, kept teacher mass)."""
    low = min(low, u)
    if c.mask_space == "log":
        m = sigmoid((np.log(t) - math.log(low)) / c.softness) * sigmoid((math.log(u) - np.log(t)) / c.softness)
    else:
        m = sigmoid((t - low) / c.softness) * sigmoid((u - t) / c.softness)
    target = int(np.argmax(t))
    vectors = []
    for p in (s, t):
        slots = []
        for k in range(V):
            value = m[k] if c.content == "mask" else m[k] * p[k]
            slots.append(p[k] if k == target and c.target == "once" else value)
        if c.target == "twice":
            slots.append(p[target])
        if c.normalisation == "residual":
            slots.append(sum((1 - m[k]) * p[k] for k in range(V) if k != target))
        vectors.append(slots)
    loss = sum(a * math.log(a / b) for a, b in zip(*vectors, strict=True) if a > 0)
    return loss, sum(t[k] if k == target else m[k] * t[k] for k in range(V))


@pytest.mark.parametrize(
    ("content", "target", "normalisation", "space"),
    list(product(("mask_times_prob", "mask"), ("once", "twice"), ("residual", "none"), ("log", "probability"))),
)
def test_equals_the_formulas_slot_by_slot(content: str, target: str, normalisation: str, space: str) -> None:
    starts: list[dict[str, object]] = [{}, {"start_upper": 0.05, "start_lower": 0.3}]  # the second: f gives l > u
    for start in starts:
        assert_equals_the_formulas(
            config(
                content=content,
                target=target,
                normalisation=normalisation,
                mask_space=space,
                softness=0.2 if space == "log" else 1e-2,
                trained_by="same",
                **start,
            )
        )


def assert_equals_the_formulas(c: DacKlConfig) -> None:
    dac, s, t = trained(DacKl(c, V, seed=1)).double(), draw(1), draw(2)
    loss, band = dac(s, t)
    for i in range(len(s)):
        inputs = torch.cat([t[i].exp(), t[i].exp().sort(descending=True).values, s[i].exp()])
        u, low = torch.sigmoid(dac.f(inputs)).tolist()
        want, mass = oracle(c, t[i].exp().numpy(), s[i].exp().numpy(), u, low)
        assert loss[i].item() == pytest.approx(want, rel=1e-8, abs=1e-10)
        assert band.kept_mass[i].item() == pytest.approx(mass, rel=1e-10)
        assert band.log_width[i].item() == pytest.approx(math.log(u / min(u, low)), rel=1e-8, abs=1e-12)


def test_as_printed_to_the_letter() -> None:
    """Both models' mask values agree and cancel; the target's own term is left: it goes below 0 and does not train f."""
    dac, s, t = DacKl(AS_PRINTED, V, seed=1), draw(1, dtype=torch.float32).requires_grad_(), draw(2, dtype=torch.float32)
    loss, band = dac(s, t)
    for i in range(len(s)):
        want, _ = oracle(AS_PRINTED, t[i].exp().double().numpy(), s[i].detach().exp().double().numpy(), 0.5, 0.5)
        assert loss[i].item() == pytest.approx(want, rel=1e-4, abs=1e-6)
    assert loss.min() < 0
    assert (band.kept_classes == 1).all() and (band.collapsed == 1).all() and (band.log_width == 0).all()
    assert all((g == 0).all() for g in gradients(dac, loss.sum()))
    loss.sum().backward()
    assert s.grad is not None and s.grad.isfinite().all() and s.grad.abs().max() > 0


@pytest.mark.parametrize(("space", "softness"), [("log", 0.2), ("log", 1e-3), ("probability", 1e-7), ("probability", 1e-2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_residual_lies_between_zero_and_the_full_reverse_kl(space: str, softness: float, dtype: torch.dtype) -> None:
    c = config(mask_space=space, softness=softness, trained_by="same")
    for seed in range(5):
        dac, s, t = trained(DacKl(c, V, seed=seed), seed).to(dtype), draw(seed, 200, dtype), draw(seed + 99, 200, dtype)
        loss, _ = dac(s, t)
        assert (loss >= 0).all() and (loss <= reverse_kl(s, t) + 1e-5).all()
        assert (dac(t, t)[0] < 1e-6).all()


def test_pitfall_09_direction_is_student_to_teacher() -> None:
    """A wide band keeps all classes, so the loss is the full KL in Eq. 8's direction."""
    dac = DacKl(config(start_upper=1 - 1e-9, start_lower=1e-9, trained_by="same", softness=1e-3), V, seed=1).double()
    s, t = draw(1), draw(2)
    inside = t.min(-1).values > math.log(1e-8)
    torch.testing.assert_close(dac(s, t)[0][inside], reverse_kl(s, t)[inside], rtol=1e-6, atol=1e-8)
    assert (reverse_kl(s, t) - reverse_kl(t, s)).abs().max() > 0.1


def test_gradients_against_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    dac, s, t = (
        trained(DacKl(config(hidden_width=3, trained_by="same"), V, seed=1)).double(),
        draw(1, 3).requires_grad_(),
        draw(2, 3),
    )

    def value(*parameters: Tensor) -> Tensor:
        named = dict(zip(dict(dac.named_parameters()), parameters, strict=True))
        out: Tensor = torch.func.functional_call(dac, named, (s.detach(), t))[0]
        return out

    assert torch.autograd.gradcheck(value, tuple(dac.parameters()))
    log_u, log_l = (x.detach() for x in dac.thresholds(s, t))
    monkeypatch.setattr(dac, "thresholds", lambda *_: (log_u, log_l))  # f's input is detached: hold u and l fixed
    assert torch.autograd.gradcheck(lambda x: dac(x.log_softmax(-1), t)[0], (s,))


def test_the_student_is_not_trained_through_f(monkeypatch: pytest.MonkeyPatch) -> None:
    dac, s, t = (
        trained(DacKl(config(start_lower=0.3), V, seed=1)),
        draw(1, 9, torch.float32).requires_grad_(),
        draw(2, 9, torch.float32),
    )
    (through,) = torch.autograd.grad(dac(s, t)[0].sum(), s)
    log_u, log_l = (x.detach() for x in dac.thresholds(s, t))
    monkeypatch.setattr(dac, "thresholds", lambda *_: (log_u, log_l))
    (held,) = torch.autograd.grad(dac(s, t)[0].sum(), s)
    torch.testing.assert_close(through, held, rtol=0, atol=0)


def test_log_space_trains_both_thresholds_where_the_printed_mask_does_not() -> None:
    s, t = draw(1, 200, torch.float32), draw(2, 200, torch.float32)
    log = DacKl(config(trained_by="same", start_upper=0.9, start_lower=1e-2), V, seed=1)
    assert (gradients(log, log(s, t)[0].mean())[-1].abs() > 1e-6).all()
    printed = DacKl(config(trained_by="same", mask_space="probability", softness=1e-7, start_upper=0.999), V, seed=1)
    assert gradients(printed, printed(s, t)[0].mean())[-1][0] == 0


def test_mass_floor_touches_f_only_and_widens_the_band() -> None:
    s, t = draw(1).requires_grad_(), draw(2)
    floor = DacKl(config(start_lower=0.3), V, seed=1).double()
    same = DacKl(config(start_lower=0.3, trained_by="same"), V, seed=1).double()
    (with_floor, band), (without, none) = floor(s, t), same(s, t)
    expected = 100 * (0.95 - band.kept_mass).clamp(min=0) ** 2
    torch.testing.assert_close(with_floor - without, expected)
    assert expected.max() > 1 and (none.penalty == 0).all()
    student = [torch.autograd.grad(x.sum(), s, retain_graph=True)[0] for x in (with_floor, without)]
    torch.testing.assert_close(*student, rtol=0, atol=0)
    of_f = [gradients(d, x.sum())[-1] for d, x in ((floor, with_floor), (same, without))]
    assert of_f[0][1] > 0 > of_f[1][1]  # descent lowers l, widening the band; the loss itself raises it


def test_mass_floor_training_holds_the_mass() -> None:
    """f alone is trained on fixed positions: `same` throws the band away, `mass_floor` keeps the asked-for mass."""
    s, t = draw(1, 200, torch.float32), draw(2, 200, torch.float32)
    mass = {}
    for trained_by in ("same", "mass_floor"):
        dac = DacKl(config(trained_by=trained_by), V, seed=1)
        optimiser = torch.optim.AdamW(dac.parameters(), lr=5e-2, weight_decay=0)
        for _ in range(150):
            optimiser.zero_grad()
            dac(s, t)[0].mean().backward()
            optimiser.step()
        mass[trained_by] = dac(s, t)[1].kept_mass.mean().item()
    assert mass["same"] < 0.85 < 0.92 < mass["mass_floor"] < 0.99


@pytest.mark.parametrize("space", ["log", "probability"])
def test_extreme_logits_and_thresholds(space: str) -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4, 3.0], [0.0, -math.inf, 1.0, 2.0]])
    for upper, lower in ((1 - 1e-7, 1e-30), (1e-30, 1 - 1e-7), (0.5, 0.5)):
        c = config(mask_space=space, softness=0.2 if space == "log" else 1e-7, start_upper=upper, start_lower=lower)
        dac, s = DacKl(c, 4, seed=1), logits.flip(0)[:, [0, 1, 3, 2]].clone().requires_grad_()
        loss, band = dac(s.log_softmax(-1), logits.log_softmax(-1))
        loss.sum().backward()
        assert loss.isfinite().all() and s.grad is not None and s.grad.isfinite().all()
        assert all(x.grad is None or x.grad.isfinite().all() for x in dac.parameters())
        assert all(x.isfinite().all() and not x.requires_grad for x in vars(band).values())


def test_start_and_seed() -> None:
    state = torch.get_rng_state()
    a, b, other = (DacKl(config(), V, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.f.get_parameter("0.weight"), other.f.get_parameter("0.weight"))
    log_u, log_l = a.thresholds(draw(1, dtype=torch.float32), draw(2, dtype=torch.float32))
    torch.testing.assert_close(log_u.exp(), torch.full((40, 1), 0.999))
    torch.testing.assert_close(log_l.exp(), torch.full((40, 1), 1e-4))
