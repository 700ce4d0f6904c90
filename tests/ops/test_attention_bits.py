"""What must leave attention's bits alone: other rows, padding, threads, cuts of the keys, a mask that hides nothing."""

from __future__ import annotations

import pytest
import torch
from llada_moe_ops.ops.attention import attention
from torch.nn import functional

from .budget import DTYPES, ISAS, forced_isa, threads
from .test_attention import inputs


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_alone_gives_the_same_bits(dtype: torch.dtype, isa: str) -> None:
    q, k, v = inputs((1, 300, 300, 2, 1, 40), dtype)
    with forced_isa(isa):
        whole = attention(q, k, v)
        for row in (0, 1, 11, 12, 299):
            assert torch.equal(attention(q[:, row : row + 1], k, v), whole[:, row : row + 1])
        causal = attention(q, k, v, block_size=32)
        part = attention(q[:, 40:64], k[:, :64], v[:, :64], block_size=32)
        assert torch.equal(part, causal[:, 40:64])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 31, 257])
def test_padding_and_packing_do_not_change_bits(length: int, dtype: torch.dtype, isa: str) -> None:
    q, k, v = inputs((1, length, length, 2, 2, 24), dtype)
    padding = 45
    with forced_isa(isa):
        alone = attention(q, k, v)
        left = [functional.pad(x, (0, 0, 0, 0, padding, 0), value=3.0) for x in (q, k, v)]
        right = [functional.pad(x, (0, 0, 0, 0, 0, padding), value=torch.nan) for x in (q, k, v)]
        both = [torch.cat(pair) for pair in zip(left, right, strict=True)]
        key_range = torch.tensor([[padding, padding + length], [0, length]])
        padded = attention(*both, key_range=key_range)
        assert torch.equal(padded[0, padding:], alone[0])
        assert torch.equal(padded[1, :length], alone[0])
        packed = [torch.cat([other[:, :7], x], 1) for other, x in zip(left, (q, k, v), strict=True)]
        lengths = torch.tensor([0, 7, 7, 7 + length], dtype=torch.int32)
        assert torch.equal(attention(*packed, cu_seqlens=lengths)[:, 7:], alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "block_size", "many"), [((2, 100, 130, 3, 3, 64), 16, 2), ((1, 530, 530, 1, 1, 64), 64, 3)]
)
def test_threads_do_not_change_bits(
    shape: tuple[int, int, int, int, int, int], block_size: int, many: int, dtype: torch.dtype
) -> None:
    """Nor does it how many of the last queries there are; many threads share one head."""
    q, k, v = inputs(shape, dtype)
    with threads(1):
        one = attention(q, k, v, block_size=block_size)
    with threads(many):
        for _ in range(3):
            assert torch.equal(attention(q, k, v, block_size=block_size), one)
        assert torch.equal(attention(q[:, -40:], k, v, block_size=block_size), one[:, -40:])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keys", [1, 31, 600, 4096])
@pytest.mark.parametrize("queries", [1, 6, 8])
def test_cutting_over_keys_does_not_change_bits(queries: int, keys: int, dtype: torch.dtype, isa: str) -> None:
    # 40 queries are not cut over keys on one thread; up to 12 rows of a key head are, one head or all heads at a time.
    q, k, v = inputs((1, 40, keys, 4, 2, 32), dtype)
    mask = torch.rand(40, keys, generator=torch.Generator().manual_seed(2)) < 0.7
    mask[:2, 256:] = False
    few = q[:, :queries]
    heads_first = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v)]
    with forced_isa(isa):
        with threads(1):
            whole, masked = attention(q, k, v), attention(q, k, v, mask=mask)
        for count in (1, 2, 3):
            with threads(count):
                assert torch.equal(attention(few, k, v), whole[:, :queries])
                assert torch.equal(attention(few, *heads_first), whole[:, :queries])
                assert torch.equal(attention(few, k, v, mask=mask[:queries]), masked[:, :queries])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "depth"), [(16, 128), (3, 160), (1, 256)])
def test_few_queries_give_the_bits_of_many(heads: int, depth: int, dtype: torch.dtype, isa: str) -> None:
    # Up to 12 rows read keys and values as they lie; more of them pack.
    q, k, v = inputs((1, 13, 781, heads, heads, depth), dtype)
    mask = torch.rand(heads, 13, 781, generator=torch.Generator().manual_seed(4)) < 0.5
    mask[:, :, 300:350] = False
    v[0, 100, 0, :] = -0.0
    ranges = torch.tensor([[5, 780]])
    with forced_isa(isa), threads(2):
        whole, masked = attention(q, k, v, key_range=ranges), attention(q, k, v, mask=mask)
        for rows in (1, 2, 3, 4, 7, 8, 11, 12):
            assert torch.equal(attention(q[:, :rows], k, v, key_range=ranges), whole[:, :rows])
            assert torch.equal(attention(q[:, :rows], k, v, mask=mask[:, :rows]), masked[:, :rows])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_does_not_change_the_bits_of_its_rows(dtype: torch.dtype, isa: str) -> None:
    q, k, v = inputs((4, 2, 2500, 2, 2, 32), dtype)
    ranges = torch.tensor([[0, 2500], [700, 701], [3, 2200], [9, 9]])
    with forced_isa(isa), threads(2):
        together = attention(q, k, v, key_range=ranges)
        for row, (first, end) in enumerate(ranges.tolist()):
            alone = attention(q[row : row + 1], k[row : row + 1, first:end], v[row : row + 1, first:end])
            assert torch.equal(together[row : row + 1], alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("queries", [3, 61])
@pytest.mark.parametrize("keys", [37, 256, 300])
def test_a_mask_that_hides_nothing_leaves_the_bits(keys: int, queries: int, isa: str, dtype: torch.dtype) -> None:
    q, k, v = inputs((1, queries, keys, 2, 1, 64), dtype)
    mask = torch.ones(queries, keys, dtype=torch.bool)
    with forced_isa(isa):
        assert torch.equal(attention(q, k, v, mask=mask), attention(q, k, v))
        mask[queries - 1, keys - 1] = False  # one key of one row: the others' bits stay
        masked = attention(q, k, v, mask=mask)
        assert torch.equal(masked[:, :-1], attention(q, k, v)[:, :-1])
        assert not torch.equal(masked[:, -1], attention(q, k, v)[:, -1])
