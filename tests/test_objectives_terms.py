"""The objective's terms: which need a teacher, a user's own losses, clipped spans, policy gradients."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mgsr.config.loss_terms import DacKlConfig, ObjectiveConfig, PolicyGradientConfig
from mgsr.errors import MgsrError
from mgsr.models.kl import forward_kl
from mgsr.objectives.dac_kl import DacKl
from mgsr.objectives.objective import Objective
from mgsr.objectives.policy_gradient import policy_gradient
from mgsr.objectives.positions import Positions, View
from mgsr.objectives.span_consistency import span_consistency
from tests.objectives_support import draw

N, V = 7, 11


def scaled(student_logp: Tensor, teacher_logp: Tensor, *, progress: float, factor: float = 1.0) -> Tensor:
    """A user's loss."""
    return factor * (1 + progress) * forward_kl(student_logp, teacher_logp)


def total(student_logp: Tensor, teacher_logp: Tensor, *, progress: float) -> Tensor:
    return (teacher_logp - student_logp).abs().sum()


class Learned(nn.Module):
    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(start))
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, student_logp: Tensor, teacher_logp: Tensor, *, progress: float) -> Tensor:
        return self.log_scale.exp() * forward_kl(student_logp, teacher_logp)

    def after_step(self, distillation: float, progress: float) -> None:
        self.seen += torch.tensor([distillation, progress])


class Plain:
    """No module."""


def make(**config: Any) -> Objective:
    return Objective(ObjectiveConfig.model_validate(config), V, seed=3).double()


def custom(name: str, **parameters: Any) -> Objective:
    distillation = {"name": "custom", "function": f"{__name__}:{name}", "parameters": parameters}
    return make(sft_weight=0.0, distillation=distillation)


def view(student_logp: Tensor | None = None, **changes: Any) -> View:
    """`changes`: other fields of the positions."""
    generator = torch.Generator().manual_seed(5)
    token, sft = (torch.rand(N, generator=generator, dtype=torch.float64) for _ in range(2))
    token[2] = sft[3] = 0
    pair = torch.tensor([0.5, 0, 1, 2, 0, 0, 0], dtype=torch.float64)
    targets = torch.randint(V, (N,), generator=generator)
    at = replace(Positions(targets, token, pair, sft), **changes)
    return View(draw(1, N, V) if student_logp is None else student_logp, draw(2, N, V), at, N)


def test_cross_entropy_is_on_the_sequence_distilled_on_and_needs_no_teacher() -> None:
    objective = make(sft_weight=0.0, distillation={"name": "cross_entropy"})
    assert not objective.needs_teacher and objective.terms == ("distillation",)
    seen = replace(view(), teacher_logp=None)
    loss, _ = objective(seen)
    nll = nn.functional.cross_entropy(seen.student_logp, seen.at.targets, reduction="none")
    torch.testing.assert_close(loss, (seen.at.token_weight * nll).sum())
    assert make(distillation={"name": "cross_entropy"}, span_weight=1.0).needs_teacher
    assert not make(distillation={"name": "forward_kl"}, distillation_weight=0.0).needs_teacher
    for name in ("symmetric_kl", "total_variation", "forward_kl", "policy_gradient", "dac_kl"):
        assert make(distillation={"name": name}).needs_teacher


def test_policy_gradient_is_its_function_over_the_weighted_positions() -> None:
    objective = make(sft_weight=0.0, distillation={"name": "policy_gradient"})
    rollout = torch.stack([draw(3, N, V)[:, 0], torch.linspace(-1, 1, N), torch.linspace(0.5, 1.2, N)], -1).double()
    seen = view(rollout=rollout)
    loss, sums = objective(seen)
    config = PolicyGradientConfig(name="policy_gradient")
    each, stats = policy_gradient(config, seen.student_logp, draw(2, N, V), seen.at.targets, rollout)
    torch.testing.assert_close(loss, (seen.at.token_weight * each).sum())
    assert set(sums) == set(objective.terms) == {"distillation", *(f"policy_gradient/{name}" for name in stats)}
    for name, stat in stats.items():
        torch.testing.assert_close(sums[f"policy_gradient/{name}"], (seen.at.token_weight * stat).sum())
    with pytest.raises(MgsrError, match="rollout"):
        objective(view())


# --- a user's own loss ------------------------------------------------------------------------------------------------


def test_a_function_gets_its_parameters_and_the_progress() -> None:
    objective = custom("scaled", factor=3.0)
    objective.progress = 0.25
    seen = view()
    loss, _ = objective(seen)
    torch.testing.assert_close(loss, 3 * 1.25 * (seen.at.token_weight * forward_kl(draw(1, N, V), draw(2, N, V))).sum())
    objective.after_step({"distillation": 1.0})  # a function has no state, and none is asked for
    assert not objective.state_dict() and objective.needs_teacher


def test_a_modules_parameters_are_trained_and_its_buffers_are_state() -> None:
    objective = custom("Learned", start=0.5)
    assert set(objective.state_dict()) == {"custom.loss.log_scale", "custom.loss.seen"}
    loss, _ = objective(view())
    loss.backward()
    (parameter,) = objective.parameters()
    torch.testing.assert_close(parameter.grad, loss.detach())
    for step, value in enumerate([2.0, 0.0, 1.0]):  # nothing was distilled on in the second step
        objective.progress = step / 4
        objective.after_step({"distillation": value, "loss": value})
    assert objective.state_dict()["custom.loss.seen"].tolist() == [3.0, 0.5]


def test_errors_name_the_file_and_what_is_wrong() -> None:
    for name, parameters, message in (
        ("scaled", {"facto": 1.0}, f"{__name__}:scaled.*facto"),
        ("Learned", {"begin": 1.0}, f"{__name__}:Learned.*begin"),
        ("Plain", {}, "no torch.nn.Module"),
        ("absent", {}, f"{__name__}:absent"),
    ):
        with pytest.raises(MgsrError, match=message):
            custom(name, **parameters)
    with pytest.raises(MgsrError, match=r"one loss for each position, \[6\], and gave \[\]"):
        custom("total")(view())


# --- clipped spans ----------------------------------------------------------------------------------------------------


def clipped(**changes: Any) -> Objective:
    """The span term on DAC-KL's vectors; `changes`: other parameters of DAC-KL."""
    dac_kl = {"name": "dac_kl", "start_lower": 0.05, "start_upper": 0.6, **changes}
    span = {"span_weight": 2.0, "span": {"vectors": "clipped", "norm": "l2_squared"}}
    objective = make(sft_weight=0.0, distillation=dac_kl, distillation_weight=0.5, **span)
    for name, parameter in objective.named_parameters():
        if name == "dac_kl.f.2.weight":
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    return objective


def test_clipped_spans_compare_dac_kls_vectors() -> None:
    objective, seen = clipped(), view()
    _, sums = objective(seen)
    assert isinstance(objective.dac_kl, DacKl) and isinstance(objective.distillation, DacKlConfig)
    student, teacher = (x.exp() for x in objective.dac_kl.clipped(seen.student_logp, draw(2, N, V)))
    assert student.shape == (N, V + 1)
    products = [x[:-1] * x[1:] for x in (student, teacher)]
    expected = (seen.at.pair_weight[:-1] * (products[0] - products[1]).square().sum(-1)).sum()
    torch.testing.assert_close(sums["span"], expected.detach())
    printed = span_consistency(seen.student_logp, draw(2, N, V), seen.at.pair_weight, "l2_squared")
    assert not torch.isclose(sums["span"], printed, rtol=1e-3)


def test_clipped_spans_train_the_student_and_not_the_network() -> None:
    objective = clipped()
    logits = draw(1, N, V).requires_grad_()
    none = torch.zeros(N, dtype=torch.float64)

    def spans_alone(x: Tensor) -> Tensor:
        value: Tensor = objective(view(student_logp=x.log_softmax(-1), token_weight=none))[0]
        return value

    found = torch.autograd.grad(spans_alone(logits), [logits, *objective.parameters()], allow_unused=True)
    assert found[0] is not None and (found[0] != 0).any() and all(g is None for g in found[1:])
    # Finite differences, the mask held: a fixed band does not read the student.
    objective = clipped(thresholds="fixed")
    assert torch.autograd.gradcheck(spans_alone, (logits,))
