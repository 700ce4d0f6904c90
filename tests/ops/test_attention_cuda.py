"""attention's CUDA kernels in the emulator: budget, bits, masks, views, bounds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from llada_moe_ops.ops.attention import attention, attention_mask
from torch import Tensor
from torch.nn import functional

from tests.emulated import SEEDS, emulated, emulated_ops, needs_emulator

from .budget import DTYPES, assert_within_budget_or_zero, forced_isa
from .test_attention import OPTIONS, eager, in_float64, inputs, mask_options

pytestmark = needs_emulator
WITH_FLOAT16 = (*DTYPES, torch.float16)
PATHS = [("sm80", dtype) for dtype in WITH_FLOAT16] + [("sm90a", dtype) for dtype in WITH_FLOAT16[1:]]

# (B, S, L, Hq, Hkv, D) around a block's 64 rows of all heads of a group, tiles of 64 keys (32 from D = 129 on), splits
# of 128 keys or more, at most 16 of them, and the three sizes of head that there are kernels for.
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 31, 65, 2, 2, 16),
    (1, 64, 64, 2, 1, 64),
    (1, 65, 129, 2, 1, 33),
    (2, 7, 127, 2, 2, 128),
    (1, 33, 63, 1, 1, 130),
    (1, 3, 300, 2, 1, 256),
    (1, 22, 257, 3, 1, 40),
    (2, 1, 2200, 2, 1, 72),
    (1, 130, 193, 1, 1, 96),
]
# Around the 128 queries and 128 keys of Hopper's tiles, 64 to a consumer, and its two sizes of head. Its kernel serves
# calls with no more keys than queries, and those of more than 256 queries.
HOPPER_SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 65, 64, 2, 1, 16),
    (1, 127, 129, 2, 2, 64),
    (1, 128, 128, 2, 2, 65),
    (2, 129, 127, 2, 1, 128),
    (1, 257, 400, 2, 2, 72),
    (1, 258, 1, 1, 1, 128),
    (1, 385, 385, 1, 1, 8),
]


@pytest.fixture(params=PATHS, ids=lambda path: f"{path[0]}-{str(path[1])[6:]}")
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """An element type, on one of the paths that there are for it."""
    path, dtype = request.param
    with forced_isa(path):
        yield dtype


def emulated_attention(seed: int, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """The CUDA op itself: the package's function takes no float16 on the CPU."""
    mask = options.get("mask")
    whole = None if mask is None else mask.expand(q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    arguments = (options.get(name) for name in ("key_range", "cu_seqlens"))
    out: Tensor = emulated_ops(seed).attention(
        q, k, v, whole, *arguments, options.get("block_size") or 0, options.get("scale")
    )
    return out


def assert_good(q: Tensor, k: Tensor, v: Tensor, seed: int, **options: Any) -> None:
    masks = {name: options.get(name) for name in ("mask", "key_range", "cu_seqlens", "block_size")}
    allowed, scale = attention_mask(q, k, **masks), options.get("scale")
    out, exact = emulated_attention(seed, q, k, v, **options), in_float64(q, k, v, allowed, scale)
    assert_within_budget_or_zero(out, eager(q, k, v, allowed, scale), exact)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_stays_within_the_budget(shape: tuple[int, ...], seed: int) -> None:
    q, k, v = inputs(shape, WITH_FLOAT16[(seed + shape[-1]) % 3])
    with forced_isa("sm80"):
        for name in OPTIONS[seed::8]:
            assert_good(q, k, v, seed, **mask_options(name, shape))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", HOPPER_SHAPES)
def test_stays_within_the_budget_on_hopper(shape: tuple[int, ...], seed: int) -> None:
    q, k, v = inputs(shape, WITH_FLOAT16[1 + (seed + shape[1]) % 2])
    with forced_isa("sm90a"):
        for name in OPTIONS[seed::8]:
            assert_good(q, k, v, seed, **mask_options(name, shape))


@pytest.mark.parametrize("seed", SEEDS)
def test_leaves_out_the_tiles_that_a_mask_hides(seed: int) -> None:
    """NaN in their values does not show. The last rows see the first tile alone, some of the others none."""
    path, dtype = PATHS[1 + seed % 4]
    q, k, v = inputs((1, 300, 520, 2, 1, 40), dtype)
    mask = torch.rand(300, 520, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[:, 128:256] = mask[:128, :128] = mask[128:256] = mask[256:, 256:] = False
    with forced_isa(path):
        assert_good(q, k, v, seed, mask=mask)
        out = emulated_attention(seed, q, k, v, mask=mask)
        v[:, 128:256] = torch.nan
        assert torch.equal(emulated_attention(seed, q, k, v, mask=mask), out)


@pytest.mark.parametrize("scale", [0.0, -1.5, 1.0])
def test_any_scale(scale: float, dtype: torch.dtype) -> None:
    q, k, v = inputs((1, 14, 40, 2, 1, 128), dtype)
    mask = torch.rand(14, 40, generator=torch.Generator().manual_seed(3)) < 0.5
    assert_good(q, k, v, 4, mask=mask, scale=scale)


@pytest.mark.parametrize(("dtype", "depth"), [(torch.bfloat16, 128), (torch.float16, 40)])
def test_blocks_of_64_and_of_128_rows_give_the_same_bits(dtype: torch.dtype, depth: int) -> None:
    """There are enough heads for the larger ones."""
    q, k, v = inputs((1, 65, 65, 256, 128, depth), dtype)
    with forced_isa("sm80"):
        whole = emulated_attention(0, q, k, v, block_size=20)
        for head in (0, 101):
            heads, key_head = slice(2 * head, 2 * head + 2), slice(head, head + 1)
            part = emulated_attention(1, q[:, :, heads], k[:, :, key_head], v[:, :, key_head], block_size=20)
            assert torch.equal(part, whole[:, :, heads])


def test_a_batch_does_not_change_the_bits_of_its_rows(dtype: torch.dtype) -> None:
    q, k, v = inputs((4, 3, 2500, 1, 1, 32), dtype)
    ranges = torch.tensor([[0, 2500], [700, 701], [3, 2200], [9, 9]])
    together = emulated_attention(0, q, k, v, key_range=ranges)
    for seed in SEEDS[1 + WITH_FLOAT16.index(dtype) :: 3]:
        assert torch.equal(emulated_attention(seed, q, k, v, key_range=ranges.int()), together)
    for row, (first, end) in enumerate(ranges.tolist()):
        alone = (q[row : row + 1], k[row : row + 1, first:end], v[row : row + 1, first:end])
        assert torch.equal(emulated_attention(row, *alone), together[row : row + 1])


def test_a_row_alone_gives_the_same_bits(dtype: torch.dtype) -> None:
    q, k, v = inputs((1, 70, 330, 4, 2, 40), dtype)
    mask = torch.rand(70, 330, generator=torch.Generator().manual_seed(2)) < 0.7
    mask[:9, 64:192] = False
    whole = emulated_attention(2, q, k, v, mask=mask)
    for rows in (slice(0, 1), slice(3, 68), slice(69, 70)):
        assert torch.equal(emulated_attention(3, q[:, rows], k, v, mask=mask[rows]), whole[:, rows])


@pytest.mark.parametrize("length", [1, 31, 129])
def test_padding_and_packing_do_not_change_bits(length: int, dtype: torch.dtype) -> None:
    q, k, v = inputs((1, length, length, 2, 1, 24), dtype)
    padding = 45
    alone = emulated_attention(0, q, k, v)
    left = [functional.pad(x, (0, 0, 0, 0, padding, 0), value=3.0) for x in (q, k, v)]
    right = [functional.pad(x, (0, 0, 0, 0, 0, padding), value=torch.nan) for x in (q, k, v)]
    both = [torch.cat(pair) for pair in zip(left, right, strict=True)]
    padded = emulated_attention(5, *both, key_range=torch.tensor([[padding, padding + length], [0, length]]))
    assert torch.equal(padded[0, padding:], alone[0])
    assert torch.equal(padded[1, :length], alone[0])
    packed = [torch.cat([other[:, :7], x, other[:, :3]], 1) for other, x in zip(left, (q, k, v), strict=True)]
    ends = torch.tensor([0, 7, 7, 7 + length, 10 + length])
    assert torch.equal(emulated_attention(6, *packed, cu_seqlens=ends)[:, 7 : 7 + length], alone)


@pytest.mark.parametrize("seed", SEEDS)
def test_packed_sequences_equal_each_alone(seed: int) -> None:
    path, dtype = PATHS[seed % 5]
    q, k, v = inputs((1, 211, 211, 4, 2, 16), dtype)
    ends = torch.tensor([0, 0, 1, 1, 33, 64, 193, 211], dtype=torch.int32)
    with forced_isa(path):
        packed = emulated_attention(seed, q, k, v, cu_seqlens=ends)
        for first, end in pairwise(ends.tolist()):
            if first < end:
                alone = emulated_attention(seed, *(x[:, first:end].contiguous() for x in (q, k, v)))
                assert torch.equal(packed[:, first:end], alone)
        assert_good(q, k, v, seed, cu_seqlens=ends, block_size=50, key_range=torch.tensor([[20, 200]]))


def test_reads_views_in_place(dtype: torch.dtype) -> None:
    """Heads of a fused buffer, or of one that has them first, whose rows lie at 16 bytes; masks of any stride."""
    fused, heads_first = torch.randn(2, 20, 3, 4, 48).to(dtype), torch.randn(3, 2, 4, 20, 40).to(dtype)
    capacity = torch.randn(3, 2, 30, 4, 40).to(dtype)
    for views in (fused[..., 8:40].unbind(2), heads_first.transpose(2, 3)[..., :33], capacity[:, :, 5:25]):
        q, k, v = views
        expected = emulated_attention(0, *(x.contiguous() for x in (q, k, v)))
        if q.shape[-1] % 8 == 0 or dtype == torch.float32:
            assert torch.equal(emulated_attention(1, q, k, v), expected)
        assert_good(q, k, v, 2)
    q, k, v = fused[..., :32].unbind(2)
    square = torch.rand(20, 40, generator=torch.Generator().manual_seed(1)) < 0.5
    for mask in (square[:, 1:21], square[:, ::2], square[:, :20].T, square[:, :1], square[:1, :20]):
        whole = mask.expand(20, 20)
        expected = emulated_attention(0, q, k, v, mask=whole.contiguous())
        assert torch.equal(emulated_attention(3, q, k, v, mask=whole), expected)


@pytest.mark.parametrize("dtype", WITH_FLOAT16)
def test_reads_unaligned_views_in_place(dtype: torch.dtype) -> None:
    fused = torch.randn(2, 20, 3, 4, 45).to(dtype)
    with forced_isa("sm80"):
        for columns in (slice(3, 36), slice(0, 45)):
            q, k, v = fused[..., columns].unbind(2)
            expected = emulated_attention(0, *(x.contiguous() for x in (q, k, v)))
            assert torch.equal(emulated_attention(1, q, k, v), expected)
    with forced_isa("sm90a"):  # which leaves them to the other path
        assert torch.equal(emulated_attention(2, q, k, v), expected)


def test_queries_before_the_first_key(dtype: torch.dtype) -> None:
    q, k, v = inputs((1, 90, 70, 2, 2, 16), dtype)
    assert_good(q, k, v, 5, block_size=8)
    assert emulated_attention(5, q, k, v, block_size=8)[:, :20].count_nonzero() == 0


def test_nan_and_infinity_stay_in_their_row(dtype: torch.dtype) -> None:
    q, k, v = inputs((1, 14, 300, 1, 1, 16), dtype)
    clean = emulated_attention(0, q, k, v)
    q[0, 5, 0, 3], q[0, 9, 0, 0] = torch.nan, torch.inf
    out = emulated_attention(7, q, k, v)
    assert out.isnan().any(-1).flatten().nonzero().flatten().tolist() == [5, 9]
    others = [row for row in range(14) if row not in (5, 9)]
    assert torch.equal(out[:, others], clean[:, others])


@pytest.mark.parametrize("shape", [(0, 3, 4, 2, 2, 8), (2, 0, 4, 2, 2, 8), (1, 3, 4, 0, 0, 8), (1, 3, 0, 2, 2, 8)])
def test_empty(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    q, k, v = inputs(shape, dtype)
    assert torch.equal(emulated_attention(0, q, k, v), torch.zeros_like(q))
    assert emulated_attention(0, q[:0], k[:0], v[:0], key_range=torch.zeros(0, 2, dtype=torch.int32)).numel() == 0


def test_is_safe_with_ranges_out_of_order(dtype: torch.dtype) -> None:
    """They are not read by the host; the emulator reports what is read or written outside."""
    q, k, v = inputs((1, 40, 40, 2, 1, 16), dtype)
    for ends in ((-5, 20, 1000), (30, 10, 40), (50, 60, 70), (-9, -8, -7)):
        assert emulated_attention(6, q, k, v, cu_seqlens=torch.tensor(ends)).shape == q.shape
    wrong = emulated_attention(6, q, k, v, key_range=torch.tensor([[-7, 99]]))
    assert torch.equal(wrong, emulated_attention(6, q, k, v))
    assert emulated_attention(6, q, k, v, key_range=torch.tensor([[30, 20]])).count_nonzero() == 0


def test_the_package_s_function_runs_it() -> None:
    q, k, v = inputs((2, 9, 40, 2, 1, 16), torch.bfloat16)
    options: dict[str, Any] = {"key_range": torch.tensor([[0, 40], [3, 30]]), "block_size": 4, "scale": 0.5}
    with emulated(2):
        assert torch.equal(attention(q, k, v, **options), emulated_attention(0, q, k, v, **options))


def test_checks() -> None:
    q, k, v = inputs((1, 4, 6, 2, 1, 8), torch.float32)
    op = emulated_ops().attention
    bad: list[tuple[tuple[Any, ...], str]] = [
        ((q.double(), k.double(), v.double()), "q must be float32 or bfloat16 or float16, got float64"),
        ((q, k.bfloat16(), v), "k must be float32, got bfloat16"),
        ((q, k, v[:, :3]), "v must have shape"),
        ((q[0], k, v), "q and k must have four dimensions"),
        ((q, k, v, torch.ones(4, 6, dtype=torch.bool)), "mask must have shape"),
        ((q, k, v, None, torch.tensor([0, 6])), r"key_range must have shape \[1, 2\]"),
        ((q, k, v, None, None, torch.tensor([0, 4])), "k must be as long as q"),
        ((q, k, v, None, None, None, -1), "block_size must be positive"),
    ]
    for arguments, message in bad:
        with pytest.raises(RuntimeError, match=f"attention: .*{message}"):
            op(*arguments)
