"""Objectives in chunks: loss and gradients equal the plain computation, and no [positions, vocab] tensor exists."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgsr.config.loss_terms import ObjectiveConfig
from mgsr.errors import MgsrError
from mgsr.models.language_model import HiddenStates
from mgsr.objectives.chunked import chunked_loss
from mgsr.objectives.objective import Objective
from mgsr.objectives.positions import Positions, View

N, V, PADDED, WIDTH, TEACHER_WIDTH = 17, 29, 32, 8, 12
MGSR = {"distillation": {"name": "dac_kl", "start_lower": 1e-2}, "distillation_weight": 0.5, "span_weight": 2.0}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "sft": {},
    "forward_kl": {"sft_weight": 0, "distillation": {"name": "forward_kl"}},
    "gkd": {"distillation": {"name": "generalized_jsd"}},
    "mgsr": MGSR,
    "span_only": {"sft_weight": 0, "span_weight": 1.0},
    "clipped_spans": MGSR | {"span": {"vectors": "clipped", "norm": "l2_squared"}},
    "seqkd": {"distillation": {"name": "cross_entropy"}},
    "minillm": {"distillation": {"name": "policy_gradient"}, "span_weight": 0.3},
}


def make(name: str, dtype: torch.dtype = torch.float64) -> Objective:
    objective = Objective(ObjectiveConfig.model_validate(OBJECTIVES[name]), V, seed=3)
    if objective.dac_kl is not None:
        with torch.no_grad():
            objective.dac_kl.f.get_parameter("2.weight").normal_(generator=torch.Generator().manual_seed(1))
    return objective.to(dtype)


class Batch:
    """A micro-batch of N positions with random weights, a third of them zero, and pairs at `pairs`."""

    def __init__(self, pairs: list[int], dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(7)
        hidden = torch.randn(N, WIDTH, dtype=dtype).requires_grad_()
        teacher_hidden = torch.randn(N, TEACHER_WIDTH, dtype=dtype)
        self.student = HiddenStates(hidden, nn.Linear(WIDTH, PADDED, dtype=dtype), V)
        self.teacher = HiddenStates(teacher_hidden, nn.Linear(TEACHER_WIDTH, PADDED + 4, dtype=dtype), V)
        targets = torch.randint(V, (N,))
        token_weight, sft_weight = (torch.rand(N, dtype=dtype) * (torch.rand(N) > 0.33) for _ in range(2))
        token_weight[5:7] = sft_weight[5:7] = 0
        pair_weight = torch.zeros(N, dtype=dtype)
        pair_weight[pairs] = torch.rand(len(pairs), dtype=dtype) + 0.1
        columns = torch.randn(N, dtype=dtype) - 3, torch.randn(N, dtype=dtype), torch.rand(N, dtype=dtype)
        self.at = Positions(targets, token_weight, pair_weight, sft_weight, torch.stack(columns, -1))

    def chunked(self, objective: Objective, chunk: int, **changes: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """`changes`: other hidden states, or other fields of the positions."""
        states = [changes.pop(name, getattr(self, name)) for name in ("student", "teacher")]
        return chunked_loss(objective, *states, replace(self.at, **changes), chunk)

    def plain(self, objective: Objective) -> tuple[Tensor, dict[str, Tensor]]:
        student, teacher = (x.head(x.values)[:, :V].log_softmax(-1) for x in (self.student, self.teacher))
        return objective(View(student, teacher.detach(), self.at, N))

    def inputs(self, objective: Objective) -> list[Tensor]:
        return [self.student.values, *self.student.head.parameters(), *objective.parameters()]

    def gradients(self, objective: Objective, loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(3 * loss, self.inputs(objective), allow_unused=True, materialize_grads=True))


NO_PAIRS: list[int] = []
WITHIN = [0, 3, 4, 7, 12]  # the 5th position has no weight of its own
EVERYWHERE = [a for a in range(N - 1) if a != 4]


@pytest.mark.parametrize("pairs", [NO_PAIRS, WITHIN, EVERYWHERE], ids=["no pairs", "some", "over every edge"])
@pytest.mark.parametrize("chunk", [2, 3, 7, N, 100])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_chunks_change_neither_loss_nor_gradients(name: str, chunk: int, pairs: list[int]) -> None:
    batch, objective = Batch(pairs), make(name)
    loss, sums = batch.chunked(objective, chunk)
    expected, expected_sums = batch.plain(objective)
    torch.testing.assert_close(loss, expected)
    assert set(sums) == set(objective.terms)
    torch.testing.assert_close(sums, expected_sums)
    torch.testing.assert_close(sum(objective.weights[k] * sums[k] for k in objective.weights), expected.detach())
    if not expected.requires_grad:  # span_only without pairs
        assert name == "span_only" and not pairs
        return
    torch.testing.assert_close(batch.gradients(objective, loss), batch.gradients(objective, expected))


def test_gradients_reach_grad_fields_and_evaluation_has_none() -> None:
    batch, objective = Batch(WITHIN), make("mgsr")
    loss, sums = batch.chunked(objective, 5)
    assert not any(x.requires_grad for x in sums.values())
    loss.backward()
    assert all(x.grad is not None for x in batch.inputs(objective))
    assert batch.teacher.head.weight.grad is None
    with torch.no_grad():
        evaluated, same = batch.chunked(objective, 5)
    assert not evaluated.requires_grad
    torch.testing.assert_close(evaluated, loss.detach())
    torch.testing.assert_close(sums, same)


def test_frozen_and_tied_heads() -> None:
    batch, objective = Batch(WITHIN), make("mgsr")
    expected = batch.gradients(objective, batch.plain(objective)[0])
    embedding = nn.Embedding(PADDED, WIDTH, dtype=torch.float64)
    embedding.weight = batch.student.head.weight
    batch.chunked(objective, 4)[0].backward()
    torch.testing.assert_close(embedding.weight.grad, expected[1] / 3)
    batch.student.head.requires_grad_(False)
    batch.student.values.grad = None
    batch.chunked(objective, 4)[0].backward()
    torch.testing.assert_close(batch.student.values.grad, expected[0] / 3)


def test_every_parameter_gets_a_gradient_in_a_micro_batch_without_terms() -> None:
    batch, objective, nothing = Batch(NO_PAIRS), make("mgsr"), torch.zeros(N, dtype=torch.float64)
    loss, sums = batch.chunked(objective, 4, token_weight=nothing, sft_weight=nothing)
    loss.backward()
    assert loss == 0 and all(x == 0 for x in sums.values())
    assert all(x.grad is not None and (x.grad == 0).all() for x in batch.inputs(objective))


def test_no_tensor_of_all_positions_and_skipped_rows() -> None:
    batch, chunk, seen = Batch(EVERYWHERE), 3, list[tuple[int, ...]]()

    class Shapes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            seen.extend(tuple(x.shape) for x in (out if isinstance(out, list | tuple) else [out]) if isinstance(x, Tensor))
            return out

    with Shapes():
        batch.chunked(make("mgsr"), chunk)[0].backward()
    rows = [shape[0] for shape in seen if len(shape) == 2 and shape[1] in (V, PADDED, PADDED + 4) and shape[0] < N + 1]
    assert rows and max(r for r in rows if r not in (WIDTH, TEACHER_WIDTH)) == chunk + 1

    sparse = Batch(WITHIN)
    student, teacher = list[int](), list[int]()  # rows of each call of a head
    for states, calls in ((sparse.student, student), (sparse.teacher, teacher)):
        states.head.register_forward_hook(lambda _, inputs, __, calls=calls: calls.append(len(inputs[0])))
    sparse.chunked(make("mgsr"), chunk)
    needed = (sparse.at.token_weight != 0) | (sparse.at.sft_weight != 0)
    needed[WITHIN] = needed[[a + 1 for a in WITHIN]] = True
    edges = student.count(chunk + 1)
    assert student == teacher and sum(student) == int(needed.sum()) + edges < N + edges


def test_pitfall_01_a_shift_by_one_changes_the_result() -> None:
    batch, objective = Batch(WITHIN), make("sft")
    with torch.no_grad():
        batch.student.values.copy_(20 * F.one_hot(batch.at.targets % WIDTH, WIDTH))
        batch.student.head.weight.copy_(torch.eye(WIDTH, dtype=torch.float64).repeat(PADDED // WIDTH, 1))
    right, _ = batch.chunked(objective, 4)
    shifted, _ = batch.chunked(objective, 4, targets=batch.at.targets.roll(-1))
    assert shifted > 2 * right
    for name in ("forward_kl", "mgsr"):
        aligned, _ = batch.chunked(make(name), 4)
        moved, _ = batch.chunked(make(name), 4, teacher=batch.teacher[torch.arange(N).roll(1)])
        assert not torch.isclose(aligned, moved, rtol=1e-3)


@pytest.mark.parametrize("name", ["gkd", "minillm"])
def test_pitfall_11_micro_batches_add_up(name: str) -> None:
    """Weights hold the step's divisor, so 17 positions are 4 + 13 are 17 x 1; a mean of means would differ."""
    batch, objective = Batch(NO_PAIRS), make(name)
    whole, _ = batch.chunked(objective, 5)
    expected = batch.gradients(objective, whole)
    for edges in ([0, 4, N], list(range(N + 1))):
        rows = [slice(i, j) for i, j in pairwise(edges)]
        parts = [chunked_loss(objective, batch.student[part], batch.teacher[part], batch.at[part], 5)[0] for part in rows]
        total = torch.stack(parts).sum()
        torch.testing.assert_close(total, whole)
        torch.testing.assert_close(batch.gradients(objective, total), expected)


def test_a_rollouts_columns_stay_with_their_tokens() -> None:
    """Moved by one, or only where nothing is distilled: the first changes the result, the second does not."""
    batch, objective = Batch(WITHIN), make("minillm")
    right, _ = batch.chunked(objective, 3)
    for column in range(3):
        moved = batch.at.rollout.clone()
        moved[:, column] = moved[:, column].roll(1)
        assert not torch.isclose(batch.chunked(objective, 3, rollout=moved)[0], right, rtol=1e-3)
    idle = batch.at.rollout.clone()
    idle[batch.at.token_weight == 0] = torch.nan
    torch.testing.assert_close(batch.chunked(objective, 3, rollout=idle)[0], right)


def test_pitfall_14_padded_classes_have_no_influence() -> None:
    batch, objective = Batch(WITHIN), make("mgsr")
    before, _ = batch.chunked(objective, 4)
    with torch.no_grad():
        batch.student.head.bias[V:] += 100
        batch.teacher.head.bias[V:] -= 100
    after, _ = batch.chunked(objective, 4)
    torch.testing.assert_close(before, after, rtol=0, atol=0)


def test_pitfall_15_reductions_in_float32_under_autocast() -> None:
    batch, objective = Batch(WITHIN, torch.float32), make("mgsr", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            batch.student.head(batch.student.values)  # a first use without a graph must not lose the output layer's gradient
        loss, sums = batch.chunked(objective, 4)
        student, teacher = (x.head(x.values) for x in (batch.student, batch.teacher))
    assert student.dtype == torch.bfloat16 and loss.dtype == torch.float32 and sums["sft"].dtype == torch.float32
    s, t = (x.detach().float()[:, :V].log_softmax(-1) for x in (student, teacher))
    expected, _ = objective(View(s, t, batch.at, N))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    gradient = batch.student.head.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0 and gradient.dtype == torch.float32


def test_errors_say_what_is_wrong() -> None:
    batch, narrow = Batch(WITHIN), nn.Linear(WIDTH, V - 1, dtype=torch.float64)
    for name, changes, message in (
        ("mgsr", {"teacher": None}, "teacher's hidden states"),
        ("mgsr", {"teacher": batch.teacher[:3]}, "the teacher has 3 hidden states for 17 positions"),
        ("mgsr", {"token_weight": batch.at.token_weight[:3]}, "`token_weight` has 3 rows"),
        ("mgsr", {"rollout": batch.at.rollout[:3]}, "`rollout` has 3 rows"),
        ("minillm", {"rollout": None}, "policy_gradient needs the rollout's columns"),
        ("mgsr", {"pair_weight": batch.at.pair_weight + 1}, "no position follows"),
        ("mgsr", {"student": replace(batch.student, head=narrow)}, "28 classes, fewer than the vocabulary's 29"),
    ):
        with pytest.raises(MgsrError, match=message):
            batch.chunked(make(name), 4, **changes)


def test_needs_teacher_and_terms() -> None:
    needs = {name: make(name).needs_teacher for name in OBJECTIVES}
    assert {name for name, needed in needs.items() if not needed} == {"sft", "seqkd"}
    assert make("mgsr").terms[:4] == ("sft", "distillation", "span", "band/log_width")
    off = Objective(ObjectiveConfig.model_validate(MGSR | {"distillation_weight": 0}), V, seed=1)
    assert off.terms == ("sft", "span") and not list(off.parameters())
