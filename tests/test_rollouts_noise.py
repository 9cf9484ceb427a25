import math

import numpy as np
import pytest
import torch
from scipy import stats

from mgsr.rollouts.noise import _exponential, coupled_scores, exponential_noise, key_tensor, row_key, uniform

MASK = 0xFFFFFFFF


def mix(x):
    x ^= x >> 16
    x = x * 0x7FEB352D & MASK
    x ^= x >> 15
    x = x * 0x846CA68B & MASK
    return x ^ x >> 16


def oracle(key, position, token):
    """The hash in Python integers, after the module's text."""
    place = position * 0x9E3779B9 & MASK
    first = mix((key >> 32) + place & MASK)
    second = mix(mix((key & MASK) ^ place) + first & MASK)
    bits = mix(mix(token ^ first) + second & MASK)
    return -math.log1p(-min((bits + 0.5) / 2**32, 1 - 2.0**-24))


def draw(logits, keys, positions):
    logp = logits.log_softmax(-1).expand(len(positions), -1)
    return coupled_scores(logp, key_tensor(keys), positions).argmax(-1)


def test_axes_do_not_run_into_each_other():
    axes = [("a", "b"), ("ab",), ("a", "b", ""), (1, "b"), ("1", "b"), ("b", "a"), ("a,b",)]
    assert len({row_key(*each) for each in axes}) == len(axes)
    assert all(0 <= uniform(*each) < 1 for each in axes)


def test_key_is_pinned():
    """Results published with one version must be drawn again by the next."""
    assert row_key(10, "rollout", 0, 0, "dolly-train-17") == 14906311935166361871


def test_noise_equals_the_hash_in_python_integers():
    keys = [row_key("k", i) for i in range(6)]
    positions = [0, 1, 2, 255, 511, 70000]
    noise = exponential_noise(key_tensor(keys), torch.tensor(positions), 300)
    expected = [[oracle(k, p, token) for token in range(300)] for k, p in zip(keys, positions, strict=True)]
    torch.testing.assert_close(noise, torch.tensor(expected), rtol=3e-6, atol=0)


def test_extreme_bits_stay_positive_and_finite():
    noise = _exponential(torch.tensor([0, 1, -1, -2, 2**31 - 1, -(2**31)], dtype=torch.int32))
    assert noise.isfinite().all() and (noise > 0).all()
    assert noise[0] == pytest.approx(0.5 / 2**32)  # a small u keeps its bits
    assert noise[2] == pytest.approx(24 * math.log(2))


def test_noise_depends_on_neither_batch_nor_order_nor_vocabulary():
    keys = key_tensor([row_key(i) for i in range(8)])
    positions = torch.arange(8) * 3
    whole = exponential_noise(keys, positions, 100)
    order = torch.tensor([5, 2, 7])
    assert torch.equal(exponential_noise(keys[order], positions[order], 60), whole[order, :60])
    assert torch.equal(exponential_noise(keys[4:5], positions[4:5], 100), whole[4:5])


def test_noise_is_exponential():
    noise = exponential_noise(key_tensor([row_key(i) for i in range(8)]), torch.arange(8), 49152)
    for row in noise:
        assert stats.kstest(row.numpy(), "expon").pvalue > 1e-3
    assert stats.kstest(noise.amin(-1).numpy() * 49152, "expon").pvalue > 1e-3  # the tail that wins


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_draws_follow_the_softmax(scale):
    logits = torch.randn(50, generator=torch.Generator().manual_seed(1)) * scale
    count = 20000
    for keys, positions in (
        ([row_key("chi")] * count, torch.arange(count)),
        ([row_key("chi", i) for i in range(count)], torch.full((count,), 7)),
    ):
        observed = np.bincount(draw(logits, keys, positions), minlength=50)
        assert stats.chisquare(observed, logits.double().softmax(-1).numpy() * count).pvalue > 1e-3


def test_draws_are_independent_across_positions_keys_passes_and_purposes():
    logits, count = torch.zeros(6), 20000

    def drawn(purpose="rollout", pass_=0, example="a", shift=0):
        return draw(logits, [row_key(1, purpose, 0, pass_, example)] * count, torch.arange(count) + shift).numpy()

    for change in ({"shift": 1}, {"example": "b"}, {"pass_": 1}, {"purpose": "teacher_token"}):
        table = np.zeros((6, 6))
        np.add.at(table, (drawn(), drawn(**change)), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3, change


def test_neighbouring_tokens_positions_and_keys_are_uncorrelated():
    keys = (0, 1, 1 << 32, row_key(1))
    noise = np.stack([exponential_noise(key_tensor([key] * 64), torch.arange(64), 4096) for key in keys])
    bound = 5 / math.sqrt(noise[0].size)  # five standard deviations
    pairs = [(noise[..., 1:], noise[..., :-1]), (noise[:, 1:], noise[:, :-1])]
    pairs += [(noise[a], noise[b]) for a in range(4) for b in range(a)]
    for a, b in pairs:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < bound


def test_shared_keys_couple_two_models():
    generator = torch.Generator().manual_seed(2)
    one = torch.randn(50, generator=generator) * 2
    other = one + torch.randn(50, generator=generator) * 0.1
    keys, positions = [row_key(i) for i in range(2000)], torch.zeros(2000)
    agree = (draw(one, keys, positions) == draw(other, keys, positions)).float().mean()
    apart = (draw(one, keys, positions) == draw(other, [k ^ 1 for k in keys], positions)).float().mean()
    assert agree > 0.9 > 0.4 > apart
