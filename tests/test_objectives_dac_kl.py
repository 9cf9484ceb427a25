"""DAC-KL: Eq. 5-8 against numpy, what bounds it, and what trains f."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from mgsr.config.loss_terms import DacKlConfig
from mgsr.models.kl import forward_kl, reverse_kl
from mgsr.objectives.coarse_kl import CoarseKl, SplitLinear
from mgsr.objectives.dac_kl import DacKl, mass_not_above, quantiles
from tests.plan_support import methods_of

V = 23


def config(**changes: object) -> DacKlConfig:
    return DacKlConfig.model_validate({"name": "dac_kl", **changes})


AS_PRINTED = methods_of().resolve("tiny", "mgsr_as_printed").objective.distillation


def draw(seed: int, n: int = 40, dtype: torch.dtype = torch.float64) -> Tensor:
    return (3 * torch.randn(n, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).log_softmax(-1).to(dtype)


def trained(dac: DacKl, seed: int = 0) -> DacKl:
    """An f, if there is one, whose thresholds differ between positions."""
    if dac.f is not None:
        with torch.no_grad():
            dac.f.get_parameter("2.weight").normal_(generator=torch.Generator().manual_seed(seed))
    return dac


def gradients(dac: DacKl, value: Tensor) -> tuple[Tensor, ...]:
    """Of f's parameters; 0 where the value does not depend on them."""
    return torch.autograd.grad(value, tuple(dac.parameters()), retain_graph=True, allow_unused=True, materialize_grads=True)


def sigmoid(x: np.ndarray | float) -> np.ndarray:
    return np.asarray(np.exp(-np.logaddexp(0, -np.asarray(x, dtype=np.float64))))


def oracle(c: DacKlConfig, t: np.ndarray, s: np.ndarray, u: float, low: float) -> tuple[float, float]:
    """One position in plain probabilities, slot by slot; (loss without penalty, kept teacher mass).

    u and low: what f gives, or the levels and bounds that the configuration starts with.
    """
    if c.thresholds == "rank":
        u, low = (float(np.quantile(t, level)) for level in (u, low))
    low = min(low, u)
    if c.thresholds == "mass":
        m = np.array([float(low <= 1 - t[t > t[k]].sum() <= u) for k in range(V)])
    elif c.mask_space == "log":
        m = sigmoid((np.log(t) - math.log(low)) / c.softness) * sigmoid((math.log(u) - np.log(t)) / c.softness)
    else:
        m = sigmoid((t - low) / c.softness) * sigmoid((u - t) / c.softness)
    if c.parts == "target_only":
        m = np.zeros(V)
    target = int(np.argmax(t))
    vectors = []
    for p in (s, t):
        band = [m[k] if c.content == "mask" else m[k] * p[k] for k in range(V)]
        slots, rest = band, sum((1 - m[k]) * p[k] for k in range(V) if k != target)
        if c.parts == "dense_only":
            band[target], rest = 0.0, rest + p[target]
        elif c.target == "once":
            band[target] = p[target]
        else:
            slots = [*band, p[target]]
        if c.normalisation == "residual":
            slots = [*slots, rest]
        vectors.append([slot / sum(slots) for slot in slots] if c.normalisation == "kept" else slots)
    student, teacher = vectors if c.direction == "reverse" else reversed(vectors)
    loss = sum(a * math.log(a / b) for a, b in zip(student, teacher, strict=True) if a > 0)
    return loss, sum(t[k] if k == target else m[k] * t[k] for k in range(V))


def is_always_zero(reading: dict[str, str]) -> bool:
    """The target's share of itself; mask values against themselves."""
    if reading["parts"] == "target_only":
        return reading["normalisation"] == "kept"
    return (reading["parts"], reading["content"]) == ("dense_only", "mask") and reading["normalisation"] != "residual"


VALUES = {
    "content": ("mask_times_prob", "mask"),
    "target": ("once", "twice"),
    "normalisation": ("residual", "kept", "none"),
    "mask_space": ("log", "probability"),
    "direction": ("reverse", "forward"),
    "parts": ("both", "target_only", "dense_only"),
}
ALL_READINGS = [dict(zip(VALUES, values, strict=True)) for values in product(*VALUES.values())]
READINGS = [reading for reading in ALL_READINGS if not is_always_zero(reading)]


def name_of(reading: dict[str, str]) -> str:
    return "-".join(reading.values())


def softness(reading: dict[str, str]) -> float:
    return 0.2 if reading["mask_space"] == "log" else 1e-2


@pytest.mark.parametrize("reading", READINGS, ids=name_of)
def test_equals_the_formulas_slot_by_slot(reading: dict[str, str]) -> None:
    for start in (
        {"thresholds": "learned"},
        {"thresholds": "learned", "start_upper": 0.05, "start_lower": 0.3},  # f gives l > u
        {"thresholds": "fixed"},
        {"thresholds": "fixed", "start_upper": 0.3, "start_lower": 0.01},
        {"thresholds": "rank", "start_upper": 0.97, "start_lower": 0.31},
        {"thresholds": "mass", "start_upper": 0.9, "start_lower": 0.05},
    ):
        assert_equals_the_formulas(config(**reading, softness=softness(reading), trained_by="same", **start))


def assert_equals_the_formulas(c: DacKlConfig) -> None:
    dac, s, t = trained(DacKl(c, V, seed=1)).double(), draw(1, 4), draw(2, 4)
    loss, band = dac(s, t)
    for i in range(len(s)):
        u, low = c.start_upper, c.start_lower
        if dac.f is not None:
            inputs = torch.cat([t[i].exp(), t[i].exp().sort(descending=True).values, s[i].exp()])
            u, low = torch.sigmoid(dac.f(inputs)).tolist()
        want, mass = oracle(c, t[i].exp().numpy(), s[i].exp().numpy(), u, low)
        assert loss[i].item() == pytest.approx(want, rel=1e-8, abs=1e-10)
        assert band.kept_mass[i].item() == pytest.approx(mass, rel=1e-8)
        if c.parts == "target_only":
            assert band.log_width[i] == 0 and band.collapsed[i] == 1
        elif c.thresholds != "rank":
            assert band.log_width[i].item() == pytest.approx(math.log(u / min(u, low)), rel=1e-8, abs=1e-12)


def test_as_printed_to_the_letter() -> None:
    """Both models' mask values agree and cancel; the target's own term is left: it goes below 0 and does not train f."""
    assert isinstance(AS_PRINTED, DacKlConfig)
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


FIXED = {"thresholds": "fixed", "start_upper": 0.3, "start_lower": 0.02}
OF_TEACHER = [{"thresholds": name, "start_upper": 0.9, "start_lower": 0.2} for name in ("rank", "mass")]


@pytest.mark.parametrize("changes", [*({**FIXED, **r, "softness": softness(r)} for r in READINGS), *OF_TEACHER], ids=str)
def test_gradient_of_the_student(changes: dict[str, object]) -> None:
    """Of every reading, the thresholds held (f's input is detached), and with thresholds of the teacher."""
    s, t = draw(1, 2)[:, :6].clone().requires_grad_(), draw(2, 2)[:, :6].log_softmax(-1)
    dac = DacKl(config(**changes), 6, seed=1)
    assert torch.autograd.gradcheck(lambda x: dac(x.log_softmax(-1), t)[0], (s,))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"trained_by": "mass_floor", "start_lower": 0.3},
        {"direction": "forward"},
        {"normalisation": "kept"},
        {"normalisation": "none"},
        {"target": "twice"},
        {"parts": "dense_only"},
        {"parts": "dense_only", "normalisation": "kept", "direction": "forward"},
        {"mask_space": "probability", "softness": 0.02},
    ],
    ids=str,
)
def test_gradient_of_f(changes: dict[str, object]) -> None:
    c = config(**{"hidden_width": 3, "trained_by": "same", **changes})
    dac, s, t = trained(DacKl(c, 9, seed=1)).double(), draw(1, 3)[:, :9].log_softmax(-1), draw(2, 3)[:, :9].log_softmax(-1)

    def value(*parameters: Tensor) -> Tensor:
        named = dict(zip(dict(dac.named_parameters()), parameters, strict=True))
        out: Tensor = torch.func.functional_call(dac, named, (s, t))[0]
        return out

    assert torch.autograd.gradcheck(value, tuple(dac.parameters()))
    assert any((g != 0).any() for g in gradients(dac, dac(s, t)[0].sum()))


def test_an_attached_student_is_trained_through_f() -> None:
    s, t = draw(1, 3)[:, :9].clone().requires_grad_(), draw(2, 3)[:, :9].log_softmax(-1)
    attached, detached = (
        trained(DacKl(config(student_input=value, start_lower=0.3, hidden_width=3), 9, seed=1)).double()
        for value in ("attached", "detached")
    )
    assert torch.autograd.gradcheck(lambda x: attached(x.log_softmax(-1), t)[0], (s,))
    grads = [torch.autograd.grad(dac(s.log_softmax(-1), t)[0].sum(), s)[0] for dac in (attached, detached)]
    assert not torch.allclose(*grads, rtol=1e-3)


def test_the_student_is_not_trained_through_f(monkeypatch: pytest.MonkeyPatch) -> None:
    dac, s, t = trained(DacKl(config(start_lower=0.3), V, seed=1)), *(draw(seed, 9, torch.float32) for seed in (1, 2))
    s.requires_grad_()
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


def test_start_and_seed() -> None:
    state = torch.get_rng_state()
    a, b, other = (DacKl(config(), V, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.get_parameter("f.0.weight"), other.get_parameter("f.0.weight"))
    log_u, log_l = a.thresholds(draw(1, dtype=torch.float32), draw(2, dtype=torch.float32))
    torch.testing.assert_close(log_u.exp(), torch.full((40, 1), 0.999))
    torch.testing.assert_close(log_l.exp(), torch.full((40, 1), 1e-4))


def test_without_learned_thresholds_there_is_no_network() -> None:
    s, t = draw(1, 5), draw(2, 5)
    for changes in ({"thresholds": "fixed"}, {"thresholds": "rank"}, {"thresholds": "mass"}, {"parts": "target_only"}):
        dac = DacKl(config(**changes), V, seed=1)
        assert dac.f is None and not list(dac.parameters()) and not dac.state_dict()
        assert (dac(s, t)[1].penalty == 0).all()
    # At its start f is a constant, so detached it is the fixed band.
    detached, learned = DacKl(config(trained_by="detached"), V, seed=1), DacKl(config(trained_by="same"), V, seed=1).double()
    assert not list(detached.parameters()) and list(learned.parameters())
    torch.testing.assert_close(detached(s, t)[0], learned(s, t)[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(detached(s, t)[0], DacKl(config(thresholds="fixed"), V, seed=1)(s, t)[0], rtol=0, atol=0)


def test_pitfall_09_direction_is_student_to_teacher() -> None:
    s, t = draw(1), draw(2)
    wide = {"start_upper": 1 - 1e-9, "start_lower": 1e-30, "softness": 1e-3, "thresholds": "fixed"}
    for direction, full in (("reverse", reverse_kl), ("forward", forward_kl)):
        for normalisation in ("residual", "kept", "none"):
            dac = DacKl(config(direction=direction, normalisation=normalisation, **wide), V, seed=1)
            torch.testing.assert_close(dac(s, t)[0], full(s, t), rtol=1e-6, atol=1e-8)
    assert (reverse_kl(s, t) - forward_kl(s, t)).abs().max() > 0.1


def test_rank_thresholds_are_quantiles() -> None:
    t = draw(2, 6).exp()
    for levels in ((0.999, 0.5), (0.5, 0.25), (1.0, 0.0)):
        found = torch.cat(quantiles(t, levels), -1).exp().numpy()
        np.testing.assert_allclose(found, np.quantile(t.numpy(), levels, axis=-1).T, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mass_not_above_a_class_with_ties(dtype: torch.dtype) -> None:
    t = torch.tensor([[0.1, 0.4, 0.1, 0.4], [0.7, 0.0, 0.3, 0.0], [0.25, 0.25, 0.25, 0.25]], dtype=dtype)
    brute = [[1 - sum(y for y in row if y > x) for x in row] for row in t.tolist()]
    torch.testing.assert_close(mass_not_above(t), torch.tensor(brute, dtype=dtype), rtol=1e-6, atol=1e-6)


def test_mass_band_is_a_nucleus() -> None:
    """l = 0.09 keeps the smallest set of largest classes with 91 % of the mass, be the distribution peaked or flat."""
    t = torch.tensor([[0.5, 0.3, 0.15, 0.04, 0.01], [0.3, 0.2, 0.2, 0.2, 0.1]], dtype=torch.float64).log()
    dac = DacKl(config(thresholds="mass", start_upper=0.999, start_lower=0.09), 5, seed=1)
    # The first has mass 1, above u; it is the target, and kept as such. The three equal ones have the same mass 0.7.
    assert dac.mask(t, t).log_in.exp().tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 1, 1]]
    assert dac(t, t)[1].kept_classes.tolist() == [3, 5]
    torch.testing.assert_close(dac(t, t)[1].kept_mass, torch.tensor([0.95, 1.0], dtype=torch.float64))
    s = draw(3, 2)[:, :5].log_softmax(-1).requires_grad_()
    loss, _ = dac(s, t)  # nothing is left for the rest in the second
    torch.testing.assert_close(loss[1], reverse_kl(s, t)[1])
    loss.sum().backward()
    assert s.grad is not None and s.grad.isfinite().all()


@pytest.mark.parametrize("reading", READINGS, ids=name_of)
def test_pitfall_07_and_08_equality_and_extreme_logits(reading: dict[str, str]) -> None:
    """0 at p = q in every reading; finite values and gradients at extreme logits, -inf included."""
    s = draw(1, 6, torch.float32)
    logits = torch.tensor([[1e4, 0.0, -1e4, 3.0], [0.0, -math.inf, 1.0, 2.0], [0.0, 1e4, -math.inf, -math.inf]])
    other = logits[[1, 2, 0]][:, [0, 1, 3, 2]]  # impossible for one model alone: a KL may be infinite, never NaN
    for thresholds in ("learned", "fixed", "rank", "mass"):
        for eps in (softness(reading), 1e-7):
            c = config(**{**reading, "softness": eps}, thresholds=thresholds, trained_by="same", start_upper=0.9)
            assert DacKl(c, V, seed=1)(s, s)[0].abs().max() < 1e-5
            for teacher in (logits, other.nan_to_num(neginf=-1e4)):
                assert_no_nan(DacKl(c, 4, seed=1), logits.nan_to_num(neginf=-1e4).flip(-1), teacher)


@pytest.mark.parametrize("space", ["log", "probability"])
def test_extreme_logits_and_thresholds(space: str) -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4, 3.0], [0.0, -math.inf, 1.0, 2.0]])
    for upper, lower in ((1 - 1e-7, 1e-30), (1e-30, 1 - 1e-7), (0.5, 0.5)):
        c = config(mask_space=space, softness=0.2 if space == "log" else 1e-7, start_upper=upper, start_lower=lower)
        loss = assert_no_nan(DacKl(c, 4, seed=1), logits.flip(0)[:, [0, 1, 3, 2]], logits)
        assert loss.isfinite().all()


def assert_no_nan(dac: DacKl, student: Tensor, teacher: Tensor) -> Tensor:
    """In loss and band; where the loss is finite, so are the gradients. Gives the loss."""
    x = student.clone().requires_grad_()
    loss, band = dac(x.log_softmax(-1), teacher.log_softmax(-1))
    assert not loss.isnan().any()
    assert all(value.isfinite().all() and not value.requires_grad for value in vars(band).values())
    if loss.isfinite().all():
        loss.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in (x, *dac.parameters()))
    return loss


class SlotBySlot(DacKl):
    """The reference of the default reading."""

    is_default = False


@pytest.mark.parametrize("vocabulary", [50, 20_000])
@pytest.mark.parametrize("trained_by", ["mass_floor", "same"])
def test_default_reading_equals_its_reference(vocabulary: int, trained_by: str) -> None:
    """Loss, band and gradients in float32, where most classes of the large vocabulary lie far below the band."""
    generator = torch.Generator().manual_seed(1)
    teacher = (4 * torch.randn(32, vocabulary, generator=generator)).log_softmax(-1)
    student = teacher + torch.randn(32, vocabulary, generator=generator)
    c = config(trained_by=trained_by)
    results = []
    for kind in (DacKl, SlotBySlot):
        dac, logits = trained(kind(c, vocabulary, seed=1)), student.clone().requires_grad_()
        loss, band = dac(logits.log_softmax(-1), teacher)
        (loss * torch.linspace(1, 2, 32)).sum().backward()
        assert dac.f is not None
        results.append([loss, *vars(band).values(), logits.grad, *(x.grad for x in dac.f.parameters())])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5 * slow.abs().max().item() + 1e-6)


def test_classes_far_below_the_band_move_the_loss_within_the_bound() -> None:
    eps, softness, log_l = torch.finfo(torch.float32).eps, 0.2, torch.tensor([[-6.0]])
    logits = 3 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(1))
    s, t = logits.log_softmax(-1)[:, None]
    target = t.argmax(-1, keepdim=True)
    fast, *_ = CoarseKl.apply(s, t, torch.tensor([[-1e-3]]), log_l, target, softness)
    wide = config(thresholds="fixed", start_lower=math.exp(-6), start_upper=math.exp(-1e-3), softness=softness)
    slow, _ = SlotBySlot(wide, 4000, seed=1)(s.double(), t.double())
    mask = torch.sigmoid((t - log_l) / softness).double()
    far = mask < eps
    assert 0.2 < far.double().mean() < 0.9
    rest_s, rest_t = (((1 - mask) * x.double().exp()).sum() for x in (s, t))
    bound = eps * (s.double().exp() * (s - t - (rest_s / rest_t).log()).abs())[far].sum()
    rounding = 8 * eps * slow.item()
    print(f"moved by {abs(fast.item() - slow.item()):.1e}; bound {bound:.1e}, rounding {rounding:.1e}")
    assert abs(fast.item() - slow.item()) < bound + rounding


def test_gradients_in_closed_form() -> None:
    """Of loss and kept mass, in the student and in both thresholds."""
    s, t = draw(1, 5).requires_grad_(), draw(2, 5)
    log_u, log_l = torch.linspace(-1.5, -0.1, 5).double()[:, None], torch.linspace(-5, -2, 5).double()[:, None]
    inputs = s, log_u.requires_grad_(), log_l.requires_grad_()
    target = t.argmax(-1, keepdim=True)
    assert torch.autograd.gradcheck(lambda s, u, low: CoarseKl.apply(s, t, u, low, target, 0.3)[:2], inputs)


def test_split_linear_is_a_linear_layer_of_its_inputs_side_by_side() -> None:
    shapes = [(4, 6), (4,), (5, 2), (5, 2), (5, 2)]
    weight, bias, *inputs = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes)
    layer = torch.nn.functional.linear(torch.cat(inputs, -1), weight, bias)
    torch.testing.assert_close(SplitLinear.apply(weight, bias, *inputs), layer)
    assert torch.autograd.gradcheck(SplitLinear.apply, (weight, bias, *inputs))


def test_clipped_vectors_are_those_of_the_loss_and_hold_the_mask() -> None:
    s, t = draw(1, 5).requires_grad_(), draw(2, 5)
    dac = trained(DacKl(config(trained_by="same"), V, seed=1)).double()
    student, teacher = dac.clipped(s, t)
    assert student.shape == teacher.shape == (5, V + 1)
    torch.testing.assert_close(teacher.exp().sum(-1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close((student.exp() * (student - teacher)).sum(-1), dac(s, t)[0])
    assert not any(g.any() for g in gradients(dac, student.exp().square().sum()))
