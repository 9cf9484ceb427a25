import json
import random
from collections import Counter

import numpy as np
import pytest
import torch

from mgsr.config.policy import OffPolicyConfig, SequencesConfig
from mgsr.errors import MgsrError
from mgsr.rollouts.noise import uniform
from mgsr.rollouts.schedule import RolloutPolicy
from mgsr.rollouts.sequence import Sequence


def policy(name, seed=10, batch=4, share=0.5, **off_policy):
    config = SequencesConfig(policy=name, student_share=share, off_policy=OffPolicyConfig(**off_policy))
    return RolloutPolicy(config, seed=seed, global_batch=batch)


def sequence(i):
    return Sequence(f"s{i}", (1, 2), (3, i), i % 2 == 0, ("student", "teacher")[i % 3 == 0])


class Oracle:
    """DistiLLM's scheduler, written from the recipe's words."""

    def __init__(self, tau, rise, eps, size):
        self.tau, self.rise, self.eps, self.size, self.prev, self.buffer = tau, rise, eps, size, None, []

    def validation(self, loss):
        if self.prev is None:
            self.prev = loss
        elif loss >= self.prev + self.eps:
            self.tau = min(self.tau + self.rise, 1.0)
            self.prev = loss

    def step(self, r, s, total, fresh):
        full = len(self.buffer) >= self.size
        if r < self.tau * (1 - s / total) or (r < self.tau and not full):
            self.buffer = (self.buffer + fresh)[-self.size :]
            return "student"
        if r < self.tau:
            return "buffer"
        return "dataset"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("start", [0.0, 0.2, 1.0])
def test_off_policy_equals_the_recipes_scheduler(seed, start):
    mine = policy("off_policy", seed, initial_threshold=start, threshold_step=0.3, tolerance=0.05, buffer_size=30)
    oracle = Oracle(start, 0.3, 0.05, 30)
    losses = random.Random(seed)
    steps, sources = 200, []
    for s in range(1, steps + 1):
        if s % 20 == 1:
            loss = 2.0 if s == 1 else losses.uniform(1.9, 2.3)
            mine.on_validation(loss)
            oracle.validation(loss)
        fresh = [sequence(s * 10 + i) for i in range(4)]
        sources.append(oracle.step(uniform(seed, "sequences", s), s, steps, fresh))
        assert mine.plan(s, steps) == sources[-1]
        assert mine.threshold == oracle.tau
        if sources[-1] == "student":
            mine.store(fresh)
        elif sources[-1] == "buffer":
            drawn = mine.draw(s)
            assert len(set(drawn)) == 4 and set(drawn) <= set(oracle.buffer)
    if start:
        assert {"student", "buffer"} <= set(sources)


@pytest.mark.parametrize("name", ["dataset", "student", "teacher", "off_policy"])
def test_constant_policies(name):
    """Off-policy sampling at threshold 0 uses no text of the student."""
    mine = policy(name, tolerance=99.0)
    (
        mine.on_validation(1.0),
        mine.on_validation(9.0),
    )  # a loss that rises changes nothing
    assert {mine.plan(s, 20) for s in range(1, 21)} == {name if name != "off_policy" else "dataset"}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixed_policy_keeps_its_share(share):
    mine = policy("mixed", share=share)
    plans = [mine.plan(s, 4000) for s in range(1, 4001)]
    assert set(plans) <= {"student", "dataset"}
    assert abs(plans.count("student") / 4000 - share) <= 5 * (share * (1 - share) / 4000) ** 0.5


@pytest.mark.parametrize("name", ["dataset", "student", "mixed", "teacher"])
def test_pitfall_17_on_policy_methods_never_touch_a_replay_buffer(name):
    mine = policy(name)
    for s in range(1, 101):
        assert mine.plan(s, 100) != "buffer"
        mine.store([sequence(s)])
    assert mine.state_dict()["buffer"] == []
    with pytest.raises(ValueError, match="asked of a buffer that holds 0"):
        mine.draw(1)


def walk(mine, first, last):
    """What a policy decides and draws over these steps."""
    seen = []
    for s in range(first, last + 1):
        if s % 10 == 0:
            mine.on_validation(1.0 + 0.1 * (s % 7) / 3)
        seen.append(mine.plan(s, 120))
        if seen[-1] == "student":
            mine.store([sequence(s * 2), sequence(s * 2 + 1)])
        elif seen[-1] == "buffer":
            seen.extend(mine.draw(s))
        random.random(), np.random.rand(), torch.rand(1)
    return [*seen, mine.threshold, mine.state_dict()]


@pytest.mark.parametrize("name", ["mixed", "off_policy"])
def test_pitfall_19_every_rank_decides_alike(name):
    """Whatever its generators hold."""
    decided = []
    for rank in (0, 1):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(rank)
        decided.append(walk(policy(name, initial_threshold=0.6, buffer_size=8), 1, 100))
    assert decided[0] == decided[1]
    assert len({str(x) for x in decided[0]}) > 2 or name == "mixed"


def test_seeds_differ():
    plans = [[policy("mixed", seed).plan(s, 100) for s in range(1, 101)] for seed in (1, 2)]
    assert plans[0] != plans[1]


def test_a_resumed_policy_continues_exactly():
    def make():
        return policy("off_policy", initial_threshold=0.3, buffer_size=10, tolerance=0.01)

    whole = make()
    walk(whole, 1, 60)
    state = json.loads(json.dumps(whole.state_dict()))
    resumed = make()
    resumed.plan(1, 120), resumed.store([sequence(1)])  # what it held before is gone
    resumed.load_state_dict(state)
    assert resumed.state_dict() == whole.state_dict() == state
    assert walk(resumed, 61, 120) == walk(whole, 61, 120)


@pytest.mark.parametrize("name", ["dataset", "student", "mixed", "off_policy"])
def test_state_is_json_before_the_first_step(name):
    fresh, other = policy(name), policy(name)
    other.load_state_dict(json.loads(json.dumps(fresh.state_dict())))
    assert other.state_dict() == fresh.state_dict()


def test_buffer_is_first_in_first_out_and_draws_evenly():
    mine = policy("off_policy", batch=5, initial_threshold=1.0, buffer_size=5)
    mine.store(sequence(i) for i in range(3))
    assert mine.plan(20, 20) == "student"  # as long as the buffer has room
    with pytest.raises(ValueError, match="5 sequences asked of a buffer that holds 3"):
        mine.draw(1)
    mine.store(sequence(i) for i in range(3, 8))
    assert mine.plan(20, 20) == "buffer"
    assert sorted(int(s.example_id[1:]) for s in mine.draw(1)) == [3, 4, 5, 6, 7]
    mine = policy("off_policy", batch=2, buffer_size=5)
    mine.store(sequence(i) for i in range(8))
    draws = [mine.draw(step) for step in range(2000)]
    assert all(len(set(drawn)) == 2 for drawn in draws)
    counts = Counter(s.example_id for drawn in draws for s in drawn)
    assert set(counts) == {f"s{i}" for i in range(3, 8)} and all(abs(count - 800) < 5 * 22 for count in counts.values())


def test_settings_that_cannot_work_are_named():
    with pytest.raises(MgsrError, match="validation loss is nan"):
        policy("off_policy").on_validation(float("nan"))
    for step in (0, 11):
        with pytest.raises(ValueError, match="is not one of"):
            policy("mixed").plan(step, 10)
