"""Span consistency: Eq. 9-10 by hand."""

import math
from typing import Literal

import pytest
import torch

from mgsr.errors import MgsrError
from mgsr.objectives.span_consistency import span_consistency, span_pair_weights
from tests.objectives_support import assert_gradient, draw

Norm = Literal["l2", "l2_squared"]
WEIGHT = torch.tensor([0.5, 0, 1, 2, 0, 0], dtype=torch.float64)
each_norm = pytest.mark.parametrize("norm", ["l2", "l2_squared"])


def test_equals_the_formula() -> None:
    """Two sequences with spans of 3, 1 and 2 tokens, and one without any, as printed in Eq. 9-10."""
    s, t = draw(1, 9, 9), draw(2, 9, 9)
    spans: list[list[tuple[int, int]]] = [[(0, 3), (3, 4)], [(1, 3)], []]
    lengths, starts = [4, 3, 2], [0, 4, 7]
    per_sequence = []
    for first, own in zip(starts, spans, strict=True):
        values = []
        for start, end in own:
            pairs = range(first + start, first + end - 1)
            terms = [(s[a].exp() * s[a + 1].exp() - t[a].exp() * t[a + 1].exp()).square().sum().sqrt() for a in pairs]
            values.append(sum(terms, torch.zeros(())) / (end - start))
        if own:
            per_sequence.append(sum(values) / len(own))
    weights = torch.cat(span_pair_weights(lengths, spans, 2)).double()
    torch.testing.assert_close(span_consistency(s, t, weights), sum(per_sequence) / 2, rtol=1e-6, atol=0)


def test_weights() -> None:
    (weight,) = span_pair_weights([5], [[(0, 2), (2, 5), (4, 5)]], 4)
    torch.testing.assert_close(weight, torch.tensor([1 / 2, 0, 1 / 3, 1 / 3, 0]) / 3 / 4)
    for span in ((-1, 2), (2, 6), (3, 3)):
        with pytest.raises(MgsrError, match="outside its 5 response tokens"):
            span_pair_weights([5], [[span]], 1)


def test_divisor_pairs_differs_from_tokens_by_n_over_n_minus_1() -> None:
    spans: list[list[tuple[int, int]]] = [[(0, 2), (2, 5), (5, 6)]]
    (tokens,), (pairs,) = (span_pair_weights([6], spans, 4, divisor) for divisor in ("tokens", "pairs"))
    torch.testing.assert_close(pairs, torch.tensor([1, 0, 1 / 2, 1 / 2, 0, 0]) / 3 / 4)
    torch.testing.assert_close(pairs[:5], tokens[:5] * torch.tensor([2, 1, 3 / 2, 3 / 2, 1]))
    assert torch.equal(span_pair_weights([2], [[(0, 1)]], 1, "pairs")[0], torch.zeros(2))  # one token: no pair, value 0


@pytest.mark.parametrize(("norm", "power"), [("l2", 0.5), ("l2_squared", 1.0)])
def test_norms(norm: Norm, power: float) -> None:
    s, t = draw(1, 6, 9), draw(2, 6, 9)
    p, q = t.exp().numpy(), s.exp().numpy()
    norms = [float(((q[a] * q[a + 1] - p[a] * p[a + 1]) ** 2).sum()) ** power for a in range(5)]
    expected = sum(w * x for w, x in zip(WEIGHT.tolist(), norms, strict=False))
    assert span_consistency(s, t, WEIGHT, norm).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_norm
def test_pitfall_08_extreme_logits(norm: Norm, dtype: torch.dtype) -> None:
    for low in (-1e4, -math.inf):
        s = torch.tensor([[1e4, 0.0, low], [0.0, 1e4, low], [0.0, 0.0, low]], dtype=dtype, requires_grad=True)
        t = torch.tensor([[0.0, 1e4, low], [0.0, 1e4, low], [1.0, 2.0, low]], dtype=dtype)
        value = span_consistency(s.log_softmax(-1), t.log_softmax(-1), torch.tensor([1.0, 1, 0], dtype=dtype), norm)
        value.backward()
        assert value > 0 and value.isfinite() and s.grad is not None and s.grad.isfinite().all()


@each_norm
def test_zero_value_and_gradient_at_equality(norm: Norm) -> None:
    s = draw(1, 6, 9).requires_grad_()
    value = span_consistency(s, s.detach(), torch.tensor([1.0, 1, 1, 1, 1, 0], dtype=torch.float64), norm)
    value.backward()
    assert value == 0 and s.grad is not None and (s.grad == 0).all()


@each_norm
def test_gradient(norm: Norm) -> None:
    assert_gradient(lambda s, t: span_consistency(s, t, WEIGHT, norm), draw(1, 6, 9), draw(2, 6, 9))
