"""token_confidence's CUDA kernels in the emulator: the reference's tokens and statistics, noise, bits, bounds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from llada_moe_ops.ops import TokenConfidence, gumbel_noise, linear, token_confidence
from llada_moe_ops.ops.confidence_of_logits import confidence_of_logits
from torch import Tensor

from tests.emulated import SEEDS, emulated, emulated_ops, needs_emulator

from .budget import DTYPES, forced_isa
from .test_token_confidence import OPTIONS, assert_same, assert_statistics_within_budget, inputs

pytestmark = needs_emulator
WITH_FLOAT16 = (*DTYPES, torch.float16)

# (R, H, V) around tiles of 32 rows, or 128 from more than 32 rows on, and 128 tokens; parts for more threads than 128.
SHAPES = [(1, 1, 2), (31, 16, 127), (32, 64, 128), (33, 72, 129), (129, 8, 257), (5, 130, 1000), (2, 8, 17000)]


def emulated_confidence(order: int, hidden: Tensor, head: Tensor, **options: Any) -> TokenConfidence:
    """The CUDA op itself, under an order of threads: the package's function takes no float16 on the CPU."""
    forbidden = options.get("forbidden")
    ids = torch.as_tensor(forbidden, dtype=torch.int64) if forbidden is not None else None
    mask_token, temperature = options.get("mask_token_id"), options.get("temperature", 0.0)
    several = isinstance(temperature, Tensor)
    return TokenConfidence(
        *emulated_ops(order).token_confidence(
            hidden,
            head,
            False,
            len(head),
            0.0 if several else temperature,
            options.get("seed", 0),
            options.get("noise_keys"),
            ids,
            -1 if mask_token is None else mask_token,
            temperature if several else None,
            *options.get("bias", (None, None)),
            options.get("top_k") or 0,
            options.get("top_p") or 1.0,
        )
    )


def emulated_logits(order: int, hidden: Tensor, head: Tensor) -> Tensor:
    """By the product that the kernel has inside."""
    with forced_isa("sm80"):
        logits: Tensor = emulated_ops(order).linear(hidden, head)
    return logits


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_chooses_what_the_reference_chooses(shape: tuple[int, int, int], seed: int) -> None:
    hidden, head = inputs(shape, WITH_FLOAT16[(seed + shape[0]) % 3])
    logits = emulated_logits(seed, hidden, head)
    for options in OPTIONS[seed % 4 :: 4]:
        ours = emulated_confidence(seed, hidden, head, **options)
        assert_same(ours, confidence_of_logits(logits, **options))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", SHAPES[1:-1:2])
def test_bias_and_temperatures_by_row(shape: tuple[int, int, int], seed: int) -> None:
    rows, _, vocabulary = shape
    hidden, head = inputs(shape, WITH_FLOAT16[(seed + rows) % 3])
    make = torch.Generator().manual_seed(seed)
    tokens = torch.randint(vocabulary, (rows, 37 * seed % 71), generator=make)
    tokens[:, tokens.shape[1] // 2 :] = tokens[:, : -(tokens.shape[1] // 2) or None]  # repeated ones add up
    values = torch.randn(tokens.shape, generator=make) * 2
    temperature = torch.linspace(0, 1.5, rows) * (torch.arange(rows) % 3 > 0)
    options: dict[str, Any] = {"seed": seed, "forbidden": [1], "mask_token_id": 0}
    options["temperature"] = temperature.to((torch.float32, torch.float64)[seed % 2])
    for bias in ((tokens, values), (tokens.T.contiguous().T, values.repeat(1, 2)[:, : values.shape[1]])):
        ours = emulated_confidence(seed, hidden, head, bias=bias, **options)
        assert_same(ours, confidence_of_logits(emulated_logits(seed, hidden, head), bias=bias, **options))


def test_a_gpu_s_numbers_out_of_range_do_nothing() -> None:
    hidden, head = inputs((5, 8, 140), torch.bfloat16)
    plain = emulated_confidence(0, hidden, head)
    temperature = torch.tensor([-1.0, math.nan, math.inf, 2e30, 0.0])
    tokens = torch.tensor([-1, 140, 1 << 40, 255, -(1 << 40)]).expand(5, 5)
    bias = (tokens, torch.full((5, 5), 1e9))
    out = emulated_confidence(1, hidden, head, temperature=temperature, bias=bias)
    assert all(torch.equal(mine, other) for mine, other in zip(out, plain, strict=True))


@pytest.mark.parametrize("dtype", WITH_FLOAT16)
def test_stays_within_the_budget(dtype: torch.dtype) -> None:
    hidden, head = inputs((40, 96, 700), dtype)
    assert_statistics_within_budget(emulated_confidence(1, hidden, head), hidden, head)


@pytest.mark.parametrize("dtype", WITH_FLOAT16)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_alone_gives_the_same_bits(temperature: float, dtype: torch.dtype) -> None:
    hidden, head = inputs((140, 70, 300), dtype)
    keys = torch.arange(140) * 11 - 7
    temperatures = torch.linspace(0, temperature, 140)
    bias = (torch.randint(300, (140, 3)), torch.randn(140, 3))
    whole = emulated_confidence(0, hidden, head, noise_keys=keys, temperature=temperatures, bias=bias, seed=1)
    for seed, rows in zip(SEEDS[1:], ((0, 1), (1, 33), (100, 140), (139, 140), (0, 129), (3, 20), (7, 8)), strict=True):
        part = slice(*rows)
        own: dict[str, Any] = {"noise_keys": keys[part], "temperature": temperatures[part]}
        own["bias"] = (bias[0][part], bias[1][part])
        alone = emulated_confidence(seed, hidden[part], head, seed=1, **own)
        for mine, other in zip(alone, whole, strict=True):
            assert torch.equal(mine, other[part])


@pytest.mark.parametrize("temperature", [1e-6, 0.1, 1.0, 30.0, 1e30])
def test_noise_is_the_cpu_s(temperature: float) -> None:
    """Of logits that the CPU and the GPU sum alike: the same tokens, and those of the noise itself."""
    hidden, head = inputs((37, 1, 1500), torch.bfloat16)
    keys = torch.arange(37) * -(1 << 57)
    options: dict[str, Any] = {"temperature": temperature, "seed": -(1 << 62), "noise_keys": keys, "mask_token_id": 3}
    ours, native = emulated_confidence(2, hidden, head, **options), token_confidence(hidden, head, **options)
    assert torch.equal(ours.token, native.token)
    assert torch.equal(ours.runner_up, native.runner_up)
    scores = linear(hidden, head).double() + temperature * gumbel_noise(options["seed"], keys, 1500)
    scores[:, 3] = -torch.inf
    assert torch.equal(ours.token.long(), scores.argmax(-1))


@pytest.mark.parametrize("dtype", WITH_FLOAT16)
def test_equal_logits_go_to_the_lower_token(dtype: torch.dtype) -> None:
    hidden = torch.ones(2, 4, dtype=dtype)
    out = emulated_confidence(3, hidden, torch.ones(300, 4, dtype=dtype))
    assert out.token.tolist() == [0, 0]
    assert out.runner_up.tolist() == [1, 1]
    assert torch.allclose(out.entropy, torch.full((2,), math.log(300)), atol=1e-6)
    head = torch.zeros(300, 4, dtype=dtype)
    head[[133, 270]] = 1.0
    head[::2] = -head[::2]  # zeros of both signs
    out = emulated_confidence(4, hidden, head, forbidden=[133, 0])
    assert out.token.tolist() == [1, 1]
    assert out.runner_up.tolist() == [2, 2]


@pytest.mark.parametrize("dtype", WITH_FLOAT16)
def test_rows_that_are_not_finite(dtype: torch.dtype) -> None:
    hidden, head = inputs((5, 8, 300), dtype)
    clean = emulated_confidence(5, hidden, head)
    hidden[1, 2], hidden[3, 0] = torch.nan, torch.inf
    for options in ({}, {"temperature": 0.5, "seed": 0}):
        out = emulated_confidence(6, hidden, head, **options)
        assert (out.token < 0).tolist() == [False, True, False, True, False]
        for field in out[1:]:
            assert (field[[1, 3]] == -1).all() or field[[1, 3]].isnan().all()
        if not options:
            assert all(torch.equal(mine[::2], other[::2]) for mine, other in zip(out, clean, strict=True))


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "seed": 5}])
def test_few_choosable_tokens(options: dict[str, Any]) -> None:
    hidden, head = inputs((3, 4, 260), torch.float32)
    logits = emulated_logits(0, hidden, head)
    others = [token for token in range(260) if token not in (130, 259)]
    one: dict[str, Any] = {**options, "forbidden": others, "mask_token_id": 259}
    out = emulated_confidence(7, hidden, head, **one)
    assert out.token.tolist() == [130] * 3
    assert out.runner_up.tolist() == [-1] * 3
    assert_same(out, confidence_of_logits(logits, **one))
    none = emulated_confidence(7, hidden, head, **{**options, "forbidden": [*others, 130], "mask_token_id": 259})
    assert none.token.tolist() == [-1] * 3
    assert none.logsumexp.isnan().all()


@pytest.mark.parametrize("dtype", WITH_FLOAT16)
def test_strided_and_unaligned(dtype: torch.dtype) -> None:
    wide, tall = torch.randn(12, 40).to(dtype), torch.randn(150, 40).to(dtype)
    for columns in (slice(8, 32), slice(3, 36)):
        hidden, head = wide[::2, columns], tall[:, columns]
        options: dict[str, Any] = {"temperature": 0.7, "seed": 2}
        keys, ids = torch.arange(12), torch.tensor([3, 149, 149, 5], dtype=torch.int32)
        expected = emulated_confidence(
            0, hidden.contiguous(), head.contiguous(), noise_keys=keys[::2].contiguous(), forbidden=[3, 149], **options
        )
        strided = emulated_ops(1).token_confidence(hidden, head, False, 150, 0.7, 2, keys[::2], ids[:3], -1)
        for mine, other in zip(strided, expected, strict=True):
            assert torch.equal(mine, other)


def test_forbidden_tokens_out_of_range_forbid_nothing() -> None:
    hidden, head = inputs((4, 8, 140), torch.bfloat16)
    clean = emulated_confidence(0, hidden, head)
    out = emulated_confidence(1, hidden, head, forbidden=[-1, 140, 255, 256, 1 << 40, -(1 << 40)])
    assert all(torch.equal(mine, other) for mine, other in zip(out, clean, strict=True))


def test_the_package_s_function_runs_it() -> None:
    hidden, head = inputs((6, 8, 140), torch.bfloat16)
    options: dict[str, Any] = {"temperature": 0.5, "seed": 2**64 - 3, "forbidden": [2, 7], "mask_token_id": 9}
    with emulated(2):
        ours = token_confidence(hidden, head, **options)
        assert token_confidence(hidden[:0], head, **options).token.shape == (0,)
    other = emulated_confidence(3, hidden, head, **{**options, "seed": -3})
    assert all(torch.equal(mine, also) for mine, also in zip(ours, other, strict=True))


def test_checks() -> None:
    hidden, head, op = torch.zeros(3, 8), torch.zeros(10, 8), emulated_ops().token_confidence
    plain = (0.0, 0, None, None, -1, None, None, None)
    bad: list[tuple[tuple[Any, ...], str]] = [
        ((hidden.double(), head.double(), False, 10), "hidden must be float32 or bfloat16 or float16, got float64"),
        ((hidden, head.half(), False, 10), "lm_head must be float32, got float16"),
        ((hidden, head, False, 11), "lm_head must have shape"),
        ((hidden, head, True, 10), "lm_head must be a plain tensor on a GPU, got a packed one"),
        ((hidden, head, False, 0), "lm_head must be of at least one token"),
        ((hidden[0], head, False, 10), "hidden must have shape"),
        ((hidden, head, False, 10, -1.0), "temperature must be finite and at least 0"),
        ((hidden, head, False, 10, 0.0, 0, torch.zeros(2, dtype=torch.int64)), "noise_keys must have shape"),
        ((hidden, head, False, 10, 0.0, 0, None, torch.zeros(2)), "forbidden must be int32 or int64, got float32"),
        ((hidden, head, False, 10, 0.0, 0, None, None, 10), "mask_token_id must be a token id below 10"),
        ((hidden, head, False, 10, 0.0, 0, None, None, -1, torch.ones(2)), "temperature must have shape"),
        ((hidden, head, False, 10, 0.0, 0, None, None, -1, None, None, None, -1), "top_k must be at least 1, or 0"),
        ((hidden, head, False, 10, 0.0, 0, None, None, -1, None, None, None, 0, 0.0), "top_p must be above 0"),
        ((hidden, torch.zeros(258, 8), False, 258, *plain, 257), "top_k must be at most 256 on a GPU, or the whole"),
    ]
    for arguments, message in bad:
        with pytest.raises(RuntimeError, match=f"token_confidence: .*{message}"):
            op(*arguments)
