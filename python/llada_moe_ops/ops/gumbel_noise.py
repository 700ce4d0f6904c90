"""Counter-based Gumbel noise, a pure function of numbers: the bits that the kernels draw."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _check

# splitmix64 (Steele, Lea, Flood 2014) and the steps of its two counters, as signed 64-bit integers.
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_TOKEN_STEP = 0xD1B54A32D192ED03 - (1 << 64)


def gumbel_noise(seed: int, noise_keys: Tensor, num_tokens: int) -> Tensor:
    """Standard Gumbel noise, float64 [R, V]: a pure function of (seed, noise_keys[row], token).

    53 bits of splitmix64 give a uniform number u in (0, 1); the noise is -log(-log(1 - u)), so that its long tail comes
    from small u, where float64 is dense.

    Args:
        seed: any integer, taken modulo 2^64.
        noise_keys: int64 [R].
        num_tokens: V.
    """
    _check.tensor("gumbel_noise", "noise_keys", noise_keys, dtypes=(torch.int64,), shape=("R",))
    start = mix(mix(torch.full_like(noise_keys, wrap_to_int64(seed + _GOLDEN))) ^ (noise_keys * _GOLDEN))
    counters = (torch.arange(num_tokens, device=noise_keys.device) + 1) * _TOKEN_STEP
    bits = shift_right(mix(start[:, None] + counters), 11)
    uniform = ((bits.double() + 0.5) * 2.0**-53).clamp(max=1.0 - 2.0**-53)
    return -(-(-uniform).log1p()).log()


def wrap_to_int64(value: int) -> int:
    """Modulo 2^64, as a signed number."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def shift_right(x: Tensor, count: int) -> Tensor:
    """The logical shift of signed 64-bit integers."""
    return (x >> count) & ((1 << (64 - count)) - 1)


def mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64: a bijection of 64-bit integers that spreads every input bit."""
    x = (x ^ shift_right(x, 30)) * _FIRST
    x = (x ^ shift_right(x, 27)) * _SECOND
    return x ^ shift_right(x, 31)
