"""Random numbers that depend on named axes and on nothing else.

A row of a batch has a 64-bit key, made of (seed, purpose, visit, pass, example id); a token's variable is a counter hash of
(key, response position, token id). The batch that a row is in, its place there, the process and the device have no part in it.
So methods are compared on common random numbers, and texts do not depend on the batch size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from mgsr.storage import canonical_json

_GOLDEN = 0x9E3779B9 - (1 << 32)
_BLOCK = 1 << 17  # numbers made at a time: the thirty passes over them stay within a core's cache


def row_key(*axes: str | int) -> int:
    """64-bit key of a tuple of axes. Axes cannot run into each other: ("a", "b") and ("ab",) differ, and so do 1 and "1"."""
    return int.from_bytes(hashlib.blake2b(canonical_json(axes).encode(), digest_size=8).digest(), "big")


def uniform(*axes: str | int) -> float:
    """A number in [0, 1) that belongs to the axes; the same in every process."""
    return (row_key(*axes) >> 11) * 2.0**-53


def key_tensor(keys: Iterable[int], device: torch.device | str = "cpu") -> Tensor:
    """Keys as int32 halves (high, low), [rows, 2]."""
    halves = [[_signed(key >> 32), _signed(key & 0xFFFFFFFF)] for key in keys]
    return torch.tensor(halves, dtype=torch.int32, device=device).reshape(-1, 2)


def _signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word


def _shift_xor(x: Tensor, bits: int, scratch: Tensor) -> None:
    # int32 shifts right arithmetically; the mask makes the shift logical
    torch.bitwise_right_shift(x, bits, out=scratch)
    x.bitwise_xor_(scratch.bitwise_and_((1 << (32 - bits)) - 1))


def _mix(x: Tensor) -> Tensor:
    """A 32-bit finaliser (Wellons' lowbias32), in place; int32 products wrap around. It is a bijection."""
    scratch = torch.empty_like(x)
    _shift_xor(x, 16, scratch)
    x.mul_(0x7FEB352D)
    _shift_xor(x, 15, scratch)
    x.mul_(0x846CA68B - (1 << 32))
    _shift_xor(x, 16, scratch)
    return x


def exponential_noise(keys: Tensor, positions: Tensor, vocabulary: int) -> Tensor:
    """Independent Exp(1) variables, one for each token of the vocabulary, on the keys' device.

    Args:
        keys: [rows, 2] int32, from `key_tensor`.
        positions: [rows] integers: response positions.

    Returns:
        [rows, vocabulary] float32, positive and finite.
    """
    place = positions.to(torch.int32).mul(_GOLDEN)
    first = _mix(keys[:, 0] + place)[:, None]
    second = _mix(_mix(keys[:, 1] ^ place).add_(first[:, 0]))[:, None]
    tokens = torch.arange(vocabulary, dtype=torch.int32, device=keys.device)
    rows = max(1, _BLOCK // vocabulary)
    blocks = zip(torch.split(first, rows), torch.split(second, rows), strict=True)
    return torch.cat([_exponential(_mix(_mix(tokens ^ one).add_(two))) for one, two in blocks])


def _exponential(bits: Tensor) -> Tensor:
    # read as unsigned: a small u keeps all its bits, and it is the small ones that win
    u = bits.view(torch.uint32).to(torch.float32).add_(0.5).mul_(2.0**-32)
    return u.clamp_(max=1 - 2.0**-24).neg_().log1p_().neg_()


def coupled_scores(log_probs: Tensor, keys: Tensor, positions: Tensor) -> Tensor:
    """The Gumbel trick, log p - log E: its argmax over tokens is a draw from p, and draws that share keys are coupled.

    Args:
        log_probs: [rows, vocabulary] float32.
        keys, positions: as for `exponential_noise`.

    Returns:
        [rows, vocabulary] float32.
    """
    noise = exponential_noise(keys, positions, log_probs.shape[-1])
    return torch.sub(log_probs, noise.log_(), out=noise)
