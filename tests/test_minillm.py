"""MiniLLM's loss, its advantages and its collections, against closed forms, loops and enumeration."""

import itertools
import json
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from mgsr.config.loss_terms import PolicyGradientConfig
from mgsr.config.policy import CollectionConfig
from mgsr.errors import MgsrError
from mgsr.objectives.policy_gradient import STATS, policy_gradient
from mgsr.rollouts.collection import Collection, Rollout, advantages, collect
from mgsr.rollouts.sampler import Prompt
from mgsr.rollouts.sequence import Sequence
from mgsr.training.distributed import World
from mgsr.training.step import whitened
from tests.rollouts_support import EOS, PLAIN, VOCABULARY, language_model, parts, prompts, sample, tiny

V = 7
DECODING = replace(PLAIN, max_new_tokens=12)


def config(**changes: Any) -> PolicyGradientConfig:
    return PolicyGradientConfig(name="policy_gradient", **changes)


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rollout_columns(old: Tensor, advantage: Tensor, weight: Tensor) -> Tensor:
    return torch.stack([old, advantage, weight], -1)


# --- the loss ---------------------------------------------------------------------------------------------------------


class Positions:
    """n positions whose ratios and advantages fall on every side of the clip."""

    def __init__(self, n: int = 60) -> None:
        generator = torch.Generator().manual_seed(5)
        self.student, self.teacher = logits(n, V, seed=1), logits(n, V, seed=2).log_softmax(-1)
        self.targets = torch.randint(V, (n,), generator=generator)
        old = self.student + 0.3 * logits(n, V, seed=3)
        self.old = old.log_softmax(-1).gather(-1, self.targets[:, None]).squeeze(-1)
        self.advantage, self.weight = logits(n, seed=4), torch.rand(n, dtype=torch.float64, generator=generator) + 0.25
        self.rollout = rollout_columns(self.old, self.advantage, self.weight)

    def loss(self, student: Tensor, **changes: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return policy_gradient(config(**changes), student.log_softmax(-1), self.teacher, self.targets, self.rollout)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("single_step", [0.0, 1.0, 2.5])
def test_loss_is_the_closed_form(weighted: bool, single_step: float) -> None:
    x, clip = Positions(), 0.2
    loss, figures = x.loss(x.student, ratio_clip=clip, single_step_weight=single_step, weighted_single_step=weighted)
    q, p = np.exp(x.student.log_softmax(-1).numpy()), np.exp(x.teacher.numpy())
    expected, clipped = [], []
    for i, y in enumerate(x.targets.tolist()):
        a, w = float(x.advantage[i]), float(x.weight[i])
        rho = q[i, y] / math.exp(float(x.old[i])) * w
        kl = sum(q[i, k] * math.log(q[i, k] / p[i, k]) for k in range(V))
        surrogate = max(-rho * a, -min(max(rho, 1 - clip), 1 + clip) * a)
        expected.append(surrogate + single_step * kl * (w if weighted else 1))
        # the gradient is cut where the ratio has already moved past the bound in the advantage's direction
        clipped.append(float(rho > 1 + clip) if a > 0 else float(rho < 1 - clip))
        assert figures["ratio"][i].item() == pytest.approx(rho) and figures["single_step"][i].item() == pytest.approx(kl)
    assert loss.tolist() == pytest.approx(expected)
    assert figures["clipped"].tolist() == clipped and 10 < sum(clipped) < 50
    assert tuple(figures) == STATS and not any(figure.requires_grad for figure in figures.values())


@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_is_the_numerical_one(weighted: bool) -> None:
    x = Positions(12)
    student = x.student.requires_grad_()
    assert torch.autograd.gradcheck(lambda student: x.loss(student, weighted_single_step=weighted)[0], student, atol=1e-6)


def test_expected_gradient_is_that_of_the_sequence_level_kl() -> None:
    """All responses of three tokens enumerated: with undiscounted sums of later rewards and the single-step term, the
    expectation over y ~ q of the loss's gradient is the gradient of KL(q || p) between distributions of whole responses."""
    size, length = 3, 3
    prefixes = [prefix for n in range(length) for prefix in itertools.product(range(size), repeat=n)]
    place = {prefix: i for i, prefix in enumerate(prefixes)}
    student, teacher = logits(len(prefixes), size, seed=8).requires_grad_(), logits(len(prefixes), size, seed=9)
    q, p = student.log_softmax(-1), teacher.log_softmax(-1)
    kl, surrogate = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    raw = config(reward_scale=1.0, advantage="paper")
    for response in itertools.product(range(size), repeat=length):
        rows = torch.tensor([place[response[:n]] for n in range(length)])
        targets = torch.tensor(response)
        log_q, log_p = (x[rows].gather(-1, targets[:, None]).squeeze(-1) for x in (q, p))
        kl = kl + log_q.sum().exp() * (log_q.sum() - log_p.sum())
        means = advantages((log_p - log_q).tolist(), raw)
        sums = torch.tensor([mean * (length - 1 - t) for t, mean in enumerate(means)], dtype=torch.float64)
        columns = rollout_columns(log_q.detach(), sums, torch.ones_like(sums))
        loss, _ = policy_gradient(raw, q[rows], p[rows], targets, columns)
        surrogate = surrogate + log_q.sum().exp().detach() * loss.sum()
    found, expected = (torch.autograd.grad(x, student, retain_graph=True)[0] for x in (surrogate, kl))
    torch.testing.assert_close(found, expected)


def test_extreme_probabilities_stay_finite() -> None:
    student = torch.tensor([[0.0, -200.0, -1e4]], dtype=torch.float32).requires_grad_()
    teacher = torch.tensor([[-1e4, 0.0, -300.0]]).log_softmax(-1)
    for target, weight in ((0, math.exp(-87)), (1, 1e-30), (2, 0.0)):
        columns = torch.tensor([[-89.0, -2.0, weight]])  # e^89 alone is more than a float32 holds
        loss, figures = policy_gradient(config(), student.log_softmax(-1), teacher, torch.tensor([target]), columns)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert loss.isfinite().all() and gradient.isfinite().all()
        assert figures["ratio"].item() == pytest.approx(math.exp(2) if target == 0 else 0, abs=1e-4)


# --- rewards and advantages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("discount", [1.0, 0.95, 0.3])
def test_advantages_by_brute_force(length: int, discount: float) -> None:
    r = logits(length, seed=length).tolist()
    code = [sum(discount ** (k - t) * r[k] for k in range(t, length)) / (length - t) for t in range(length)]
    paper = [float(np.mean(r[t + 1 :])) if t + 1 < length else 0.0 for t in range(length)]
    assert advantages(r, config(discount=discount)) == pytest.approx(code)
    assert advantages(r, config(discount=discount, advantage="paper")) == pytest.approx(paper, abs=1e-12)


def test_columns_hold_old_probability_advantage_and_weight() -> None:
    old, teacher = torch.tensor([-1.0, -2.0, -80.0]), torch.tensor([-2.0, -1.5, -0.1])
    mixed = torch.tensor([-1.1, -1.8, -1.7])
    rollout = Rollout(Sequence("a", (5,), (6, 7, 8), False), torch.stack([old, teacher, mixed], -1))
    columns = rollout.columns(config(discount=0.5))
    rewards = [-2.0, 1.0, 100.0]  # (log p - log q_old) / 0.5, the last one cut from 159.8
    assert columns[:, 0].tolist() == old.tolist()
    assert columns[:, 1].tolist() == pytest.approx([(rewards[0] + 0.5 * rewards[1] + 0.25 * 100) / 3, (1 + 50) / 2, 100])
    assert columns[:, 2].tolist() == pytest.approx([math.exp(0.1), math.exp(-0.2), math.exp(-78.3)])
    assert rollout.columns(config(reward_clip=0.5))[2, 1] == 0.5


def test_whitening_is_over_all_tokens_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [logits(n, 3, seed=n).float() for n in (5, 1, 8, 3)]
    alone = World(0, 1, torch.device("cpu"))
    found = whitened(columns, alone)
    expected = stats.zscore(torch.cat(columns)[:, 1].double().numpy())  # population deviation
    assert torch.cat(found)[:, 1].numpy() == pytest.approx(expected, abs=1e-6)
    for before, after in zip(columns, found, strict=True):
        assert torch.equal(before[:, ::2], after[:, ::2]) and after.dtype == torch.float32

    assert whitened([torch.ones(4, 3)], alone)[0][:, 1].tolist() == [0, 0, 0, 0]

    # one of two processes, whose sums are known beforehand because both are computed here
    mean = float(torch.cat(columns)[:, 1].double().mean())
    rest = torch.cat(columns[2:])[:, 1].double()
    others = iter([[len(rest), float(rest.sum())], [float((rest - mean).square().sum())]])
    monkeypatch.setattr(World, "sum", lambda _, values: [a + b for a, b in zip(values, next(others), strict=True)])
    torch.testing.assert_close(whitened(columns[:2], World(0, 2, torch.device("cpu"))), found[:2])


# --- rollouts ---------------------------------------------------------------------------------------------------------


def rolled(mix: float, batch: int = 8, count: int = 8, first: int = 0, student: str = "llama") -> list[Rollout]:
    items = [replace(prompt, visit=3) for prompt in prompts(8)[first : first + count]]
    return collect(parts(student, seed=1), parts(seed=2), items, replace(DECODING, batch=batch), mix)


def test_without_the_teachers_share_it_is_the_students_rollout() -> None:
    written = sample(parts(seed=1), prompts(8), DECODING, visit=3)
    rollouts = rolled(0.0)
    assert [rollout.sequence for rollout in rollouts] == written
    assert {rollout.sequence.finished for rollout in rollouts} == {True, False}
    assert all((rollout.columns(config())[:, 2] == 1).all() for rollout in rollouts)
    assert [rollout.sequence.response_ids for rollout in rolled(0.5)] != [sequence.response_ids for sequence in written]


@pytest.mark.parametrize("student", ["llama", "gpt2"])
def test_log_probabilities_are_those_of_whole_forward_passes(student: str) -> None:
    mix = 0.3
    models = tiny(student, seed=1), tiny("llama", seed=2)
    for rollout in rolled(mix, student=student):
        sequence, start = rollout.sequence, len(rollout.sequence.prompt_ids) - 1
        ids = torch.tensor([sequence.prompt_ids + sequence.response_ids])
        with torch.no_grad():
            full = [m(ids).logits[0, start:-1].double().log_softmax(-1) for m in models]
        old, teacher = (x[range(len(sequence.response_ids)), list(sequence.response_ids)] for x in full)
        mixed = (mix * teacher.exp() + (1 - mix) * old.exp()).log()
        torch.testing.assert_close(rollout.log_probs.double(), torch.stack([old, teacher, mixed], -1), atol=1e-4, rtol=1e-4)
        assert (rollout.columns(config())[:, 2] <= 1 / (1 - mix) + 1e-6).all()


def test_text_depends_on_neither_batch_nor_process() -> None:
    whole = rolled(0.2)
    for other in (rolled(0.2, batch=3), rolled(0.2, count=4) + rolled(0.2, count=4, first=4)):
        assert [r.sequence for r in other] == [r.sequence for r in whole]
        for a, b in zip(other, whole, strict=True):
            torch.testing.assert_close(a.log_probs, b.log_probs, atol=1e-4, rtol=1e-4)


def test_tokens_are_drawn_from_the_mixture() -> None:
    """4,000 first tokens after one prompt fit p~ and neither of its parts; their importance weights average 1."""
    mix, count = 0.4, 4000
    models = tiny(seed=1, init=0.12), tiny(seed=2, init=0.12)
    ids = (9, 5, 11)
    with torch.no_grad():
        old, teacher = (m(torch.tensor([ids])).logits[0, -1].double().softmax(-1) for m in models)
    items = [Prompt("one", ids, visit=visit) for visit in range(count)]
    decoding = replace(PLAIN, max_new_tokens=1, seed=4, batch=1000)
    rollouts = collect(*map(language_model, models), items, decoding, mix)
    seen = torch.bincount(torch.tensor([r.sequence.response_ids[0] for r in rollouts]), minlength=VOCABULARY).numpy()
    shares = (share.numpy() / share.sum().item() for share in (mix * teacher + (1 - mix) * old, old, teacher))
    of_mixture, *of_parts = (stats.chisquare(seen, count * share).pvalue for share in shares)
    assert of_mixture > 1e-3 and max(of_parts) < 1e-9
    weights = np.array([float(r.columns(config())[0, 2]) for r in rollouts])
    assert abs(weights.mean() - 1) < 4 * weights.std() / math.sqrt(count)


def test_errors_name_the_example() -> None:
    student, teacher = parts(seed=1), parts(seed=2)
    with pytest.raises(MgsrError, match=r"example long: a prompt of 9 tokens leaves no room .* max_length 9"):
        collect(student, teacher, [Prompt("long", (5,) * 9)], replace(DECODING, max_length=9), 0.2)
    with torch.no_grad():
        teacher.head.weight.fill_(float("nan"))
    with pytest.raises(MgsrError, match=r"example bad, response position 0: the logits are not finite"):
        collect(student, teacher, [Prompt("bad", (5, 6))], DECODING, 0.2)


# --- collections ------------------------------------------------------------------------------------------------------


def numbered(count: int, start: int = 0) -> list[Rollout]:
    sequences = [Sequence(f"row-{start + i}", (5, 6), (7 + i, EOS), True, "student") for i in range(count)]
    return [Rollout(sequence, torch.randn(2, 3)) for sequence in sequences]


def make_collection(seed: int = 10) -> Collection:
    return Collection(CollectionConfig(rollouts=12, inner_epochs=3), seed=seed, global_batch=4)


def test_each_rollout_is_trained_on_once_an_inner_epoch_in_a_new_order() -> None:
    collection, walks = make_collection(), list[list[str]]()
    assert collection.steps == 9
    for step in range(1, 19):
        assert collection.due(step) == (step in (1, 10))
        assert list(collection.prompt_batches(step)) == ([1, 2, 3] if step < 10 else [4, 5, 6])
        if collection.due(step):
            made = numbered(12, start=step)
            collection.fill(step, made)
        if step % 3 == 1:
            walks.append([])
        for place, rollout in collection.batch(step):
            assert rollout is made[place]
            walks[-1].append(rollout.sequence.example_id)
    assert [set(Counter(walk).values()) for walk in walks] == [{1}] * 6
    assert len({tuple(int(name[4:]) % 12 for name in walk) for walk in walks}) == 6
    assert [r.sequence for _, r in make_filled(seed=11).batch(1)] != [r.sequence for _, r in make_filled().batch(1)]


def make_filled(seed: int = 10) -> Collection:
    collection = make_collection(seed)
    collection.fill(1, numbered(12))
    return collection


def test_a_collection_continues_from_its_state_bit_for_bit() -> None:
    collection, other = make_filled(), make_collection()
    assert make_collection().state_dict() == {"number": -1, "rollouts": []}
    other.load_state_dict(json.loads(json.dumps(collection.state_dict())))
    assert not other.due(9) and other.due(10)
    for step in range(1, 10):
        for (place, a), (same, b) in zip(collection.batch(step), other.batch(step), strict=True):
            assert place == same and a.sequence == b.sequence and torch.equal(a.log_probs, b.log_probs)
            assert b.log_probs.dtype == torch.float32


def test_a_collection_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="11 rollouts, where a collection has 12"):
        make_collection().fill(1, numbered(11))
    with pytest.raises(ValueError, match="not held"):
        make_filled().batch(10)
