"""The objective's terms: which need a teacher, a user's own losses, clipped spans, policy gradients."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mgsr.config.loss_terms import DacKlConfig, ObjectiveConfig, PolicyGradientConfig
from mgsr.errors import MgsrError
from mgsr.models.kl import forward_kl
from mgsr.models.language_model import HiddenStates
from mgsr.objectives.chunked import chunked_loss
from mgsr.objectives.dac_kl import DacKl
from mgsr.objectives.objective import Objective
from mgsr.objectives.policy_gradient import policy_gradient
from mgsr.objectives.positions import Positions, View
from mgsr.objectives.span_consistency import span_consistency

N, V = 7, 11

USER_FILE = """
import torch
from torch import nn

def scaled(student_logp, teacher_logp, *, progress, factor=1.0):
    return factor * (1 + progress) * (teacher_logp.exp() * (teacher_logp - student_logp)).sum(-1)

def total(student_logp, teacher_logp, *, progress):
    return (teacher_logp - student_logp).abs().sum()

class Learned(nn.Module):
    def __init__(self, start=0.0):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(start))
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, student_logp, teacher_logp, *, progress):
        return self.log_scale.exp() * (teacher_logp.exp() * (teacher_logp - student_logp)).sum(-1)

    def after_step(self, distillation, progress):
        self.seen += torch.tensor([distillation, progress])

class Plain:
    pass
"""


@pytest.fixture
def user_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_losses.py").write_text(USER_FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "users_losses", raising=False)


def make(**config: Any) -> Objective:
    return Objective(ObjectiveConfig.model_validate(config), V, seed=3).double()


def custom(name: str, **parameters: Any) -> Objective:
    distillation = {"name": "custom", "function": f"users_losses:{name}", "parameters": parameters}
    return make(sft_weight=0.0, distillation=distillation)


def draw(seed: int) -> Tensor:
    return torch.randn(N, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log_softmax(-1)


def view(student_logp: Tensor | None = None, teacher_logp: Tensor | None = None, **changes: Any) -> View:
    """`changes`: other fields of the positions."""
    generator = torch.Generator().manual_seed(5)
    token, sft = (torch.rand(N, generator=generator, dtype=torch.float64) for _ in range(2))
    token[2] = sft[3] = 0
    pair = torch.tensor([0.5, 0, 1, 2, 0, 0, 0], dtype=torch.float64)
    targets = torch.randint(V, (N,), generator=generator)
    at = replace(Positions(targets, token, pair, sft), **changes)
    return View(draw(1) if student_logp is None else student_logp, draw(2) if teacher_logp is None else teacher_logp, at, N)


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
    rollout = torch.stack([draw(3)[:, 0], torch.linspace(-1, 1, N), torch.linspace(0.5, 1.2, N)], -1).double()
    seen = view(rollout=rollout)
    loss, sums = objective(seen)
    each, stats = policy_gradient(
        PolicyGradientConfig(name="policy_gradient"), seen.student_logp, draw(2), seen.at.targets, rollout
    )
    torch.testing.assert_close(loss, (seen.at.token_weight * each).sum())
    assert set(sums) == set(objective.terms) == {"distillation", *(f"policy_gradient/{name}" for name in stats)}
    for name, stat in stats.items():
        torch.testing.assert_close(sums[f"policy_gradient/{name}"], (seen.at.token_weight * stat).sum())
    with pytest.raises(MgsrError, match="rollout"):
        objective(view())


# --- a user's own loss ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("user_file")
def test_a_function_gets_its_parameters_and_the_progress() -> None:
    objective = custom("scaled", factor=3.0)
    objective.progress = 0.25
    seen = view()
    loss, _ = objective(seen)
    torch.testing.assert_close(loss, 3 * 1.25 * (seen.at.token_weight * forward_kl(draw(1), draw(2))).sum())
    objective.after_step({"distillation": 1.0})  # a function has no state, and none is asked for
    assert not objective.state_dict() and objective.needs_teacher


@pytest.mark.usefixtures("user_file")
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


@pytest.mark.usefixtures("user_file")
def test_errors_name_the_file_and_what_is_wrong() -> None:
    for name, parameters, message in (
        ("scaled", {"facto": 1.0}, "users_losses:scaled.*facto"),
        ("Learned", {"begin": 1.0}, "users_losses:Learned.*begin"),
        ("Plain", {}, "no torch.nn.Module"),
        ("absent", {}, "users_losses:absent"),
    ):
        with pytest.raises(MgsrError, match=message):
            custom(name, **parameters)
    with pytest.raises(MgsrError, match=r"one loss for each position, \[6\], and gave \[\]"):
        custom("total")(view())


# --- clipped spans ----------------------------------------------------------------------------------------------------

CLIPPED: dict[str, Any] = {
    "sft_weight": 0.0,
    "distillation": {"name": "dac_kl", "start_lower": 0.05, "start_upper": 0.6},
    "distillation_weight": 0.5,
    "span_weight": 2.0,
    "span": {"vectors": "clipped", "norm": "l2_squared"},
}


def trained(objective: Objective) -> Objective:
    with torch.no_grad():
        objective.get_parameter("dac_kl.f.2.weight").normal_(generator=torch.Generator().manual_seed(1))
    return objective


def test_clipped_spans_compare_dac_kls_vectors() -> None:
    objective, seen = trained(make(**CLIPPED)), view()
    _, sums = objective(seen)
    assert isinstance(objective.dac_kl, DacKl) and isinstance(objective.distillation, DacKlConfig)
    student, teacher = (x.exp() for x in objective.dac_kl.clipped(seen.student_logp, draw(2)))
    assert student.shape == (N, V + 1)
    products = [x[:-1] * x[1:] for x in (student, teacher)]
    expected = (seen.at.pair_weight[:-1] * (products[0] - products[1]).square().sum(-1)).sum()
    torch.testing.assert_close(sums["span"], expected.detach())
    assert not torch.isclose(sums["span"], span_consistency(draw(1), draw(2), seen.at.pair_weight, "l2_squared"), rtol=1e-3)


def test_clipped_spans_train_the_student_and_not_the_network() -> None:
    objective = trained(make(**CLIPPED))
    logits = draw(1).requires_grad_()
    none = torch.zeros(N, dtype=torch.float64)

    def spans_alone(x: Tensor) -> Tensor:
        value: Tensor = objective(view(student_logp=x.log_softmax(-1), token_weight=none))[0]
        return value

    found = torch.autograd.grad(spans_alone(logits), [logits, *objective.parameters()], allow_unused=True)
    assert found[0] is not None and (found[0] != 0).any() and all(g is None for g in found[1:])
    # Finite differences, the mask held: a fixed band does not read the student.
    fixed = CLIPPED | {"distillation": CLIPPED["distillation"] | {"thresholds": "fixed"}}
    objective = make(**fixed)
    assert torch.autograd.gradcheck(spans_alone, (logits,))


@pytest.mark.parametrize("chunk", [2, 3, 100])
def test_chunks_change_nothing_with_clipped_spans(chunk: int) -> None:
    torch.manual_seed(0)
    objective, seen = trained(make(**CLIPPED)), view()
    heads = [nn.Linear(4, V, dtype=torch.float64) for _ in range(2)]
    student, teacher = torch.randn(N, 4, dtype=torch.float64).requires_grad_(), torch.randn(N, 4, dtype=torch.float64)
    loss, sums = chunked_loss(objective, HiddenStates(student, heads[0], V), HiddenStates(teacher, heads[1], V), seen.at, chunk)
    plain, expected = objective(
        view(student_logp=heads[0](student).log_softmax(-1), teacher_logp=heads[1](teacher).log_softmax(-1).detach())
    )
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(sums, expected)
    inputs = [student, *objective.parameters()]
    torch.testing.assert_close(torch.autograd.grad(loss, inputs), torch.autograd.grad(plain, inputs))
