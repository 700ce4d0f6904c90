"""The micro-kernels of micro_kernels_sm*.cu: their input, and what the PTX manual says comes out.

The layouts are written here from the manual's formulas, apart from the emulator's own code. Values are small whole
numbers, so that every sum is exact in any order: a GPU gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
LANES = np.arange(32)
ROWS = (5 * LANES + 3) % 32  # whose row each lane of a matrix load gives the address of
DEPTH = 64  # k of a wgmma micro-kernel: four instructions of 16
COLUMNS = (8, 16, 32, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class Case:
    """One call of a micro-kernel: ``kernel(input, output, *arguments)``."""

    kernel: str
    arguments: tuple[int, ...]
    input: Array
    expected: Array
    initial: Array | None = None  # what the output holds before, if it matters

    def __str__(self) -> str:
        return "-".join([self.kernel, *map(str, self.arguments)])


def bfloat16(values: Array) -> Array:
    """Bits of values that bfloat16 holds exactly."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def half(values: Array) -> Array:
    return values.astype(np.float16).view(np.uint16)


def small(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(-4, 5, shape).astype(np.float32)


def pairs(low: Array, high: Array) -> Array:
    """Two 16-bit elements in a register, the first in its lower half."""
    return low.astype(np.uint32) | high.astype(np.uint32) << 16


def copies(rng: np.random.Generator) -> Iterator[Case]:
    for size in (4, 8, 16):
        source = rng.integers(1, 256, (32, size), dtype=np.uint8)
        valid = np.arange(size) < (LANES % (size + 1))[:, None]
        yield Case(f"cp_async_{size}", (), source, np.where(valid, source, 0).astype(np.uint8))
    source = rng.integers(0, 2**32, (96, 4), dtype=np.uint32)
    yield Case("cp_async_groups", (), source, source)
    yield Case("load_streaming", (), source[:32], source[:32])


def matrix_loads(rng: np.random.Generator) -> Iterator[Case]:
    for matrices in (1, 2, 4):
        stored = rng.integers(0, 2**16, (32, 8), dtype=np.uint16)
        addressed = stored[ROWS].reshape(4, 8, 8)[:matrices]
        row, column = LANES // 4, LANES % 4 * 2
        plain = pairs(addressed[:, row, column], addressed[:, row, column + 1]).T
        transposed = pairs(addressed[:, column, row], addressed[:, column + 1, row]).T
        yield Case(f"ldmatrix_{matrices}", (), stored, np.ascontiguousarray(plain))
        yield Case(f"ldmatrix_trans_{matrices}", (), stored, np.ascontiguousarray(transposed))


def matrix_stores(rng: np.random.Generator) -> Iterator[Case]:
    for matrices in (1, 2, 4):
        registers = rng.integers(0, 2**32, (32, matrices), dtype=np.uint32)
        for name in ("stmatrix", "stmatrix_trans"):
            tiles = np.zeros((4, 8, 8), np.uint16)
            for lane in LANES:
                for matrix in range(matrices):
                    row, column = lane // 4, lane % 4 * 2
                    low, high = registers[lane, matrix] & 0xFFFF, registers[lane, matrix] >> 16
                    tile = tiles[matrix] if name == "stmatrix" else tiles[matrix].T
                    tile[row, column], tile[row, column + 1] = low, high
            expected = np.zeros((32, 8), np.uint16)
            written = 8 * matrices > LANES
            expected[ROWS[written]] = tiles.reshape(32, 8)[written]
            yield Case(f"{name}_{matrices}", (), registers, expected)


def left_fragment(a: Array) -> Array:
    """16 x 16 elements -> per lane the 4 registers of the manual's Figure "m16n8k16 matrix A"."""
    group, thread = LANES >> 2, LANES % 4
    registers = []
    for i in range(0, 8, 2):
        row = np.where((0 <= i < 2) or (4 <= i < 6), group, group + 8)
        column = thread * 2 + (i & 1) + (8 if i >= 4 else 0)
        registers.append(pairs(a[row, column], a[row, column + 1]))
    return np.stack(registers, axis=1)


def products(rng: np.random.Generator) -> Iterator[Case]:
    group, thread = LANES >> 2, LANES % 4
    for name, encode in (("mma_bf16", bfloat16), ("mma_f16", half)):
        a, b, c = small(rng, 16, 16), small(rng, 16, 8), small(rng, 16, 8)
        right = encode(b)
        b_registers = [pairs(right[thread * 2 + k, group], right[thread * 2 + k + 1, group]) for k in (0, 8)]
        where = [(group + 8 * (i >= 2), thread * 2 + (i & 1)) for i in range(4)]
        c_registers = [c[at].view(np.uint32) for at in where]
        source = np.column_stack([left_fragment(encode(a)), *b_registers, *c_registers]).astype(np.uint32)
        result = a @ b + c
        yield Case(name, (), source, np.stack([result[at] for at in where], axis=1))


def barriers(rng: np.random.Generator) -> Iterator[Case]:
    words = rng.integers(0, 1000, 32, dtype=np.uint32)
    yield Case("named_barrier", (), words, np.concatenate([words[::-1], words + 1]))
    yield Case(
        "release_acquire",
        (),
        words,
        np.concatenate([words + 1, [1, words.sum()]]).astype(np.uint32),
        initial=np.zeros(34, np.uint32),
    )
    yield Case("mbarrier", (), words, np.array([0, 1, 1, 0, 1, 0, 0, 1] * 2, np.uint32))
    votes = rng.integers(0, 1001, 96, dtype=np.uint32)
    result = [np.sum(votes & 1), np.all(votes < 1000), np.any(votes == 1000)]
    yield Case("block_vote", (), votes, np.tile(np.array(result, np.int32), (96, 1)))
    exchanged = rng.integers(0, 2**32, 384, dtype=np.uint32)
    yield Case("hints", (), exchanged, exchanged)


def warp_intrinsics(rng: np.random.Generator) -> Iterator[Case]:
    values = rng.integers(0, 2**31, 32, dtype=np.uint32)
    same = (values[:, None] & 3) == (values[None, :] & 3)
    bits = np.uint32(1) << LANES.astype(np.uint32)
    lane8, lane16 = LANES & 7, LANES & 15
    columns = [
        values[(LANES * 3 + 1) & 31],
        values[(LANES & ~7) + ((LANES + 5) & 7)],
        values[np.where(LANES >= 3, LANES - 3, LANES)],
        values[np.where(lane16 >= 2, LANES - 2, LANES)],
        values[np.where(LANES + 7 < 32, LANES + 7, LANES)],
        values[LANES ^ 9],
        values[(LANES & ~7) + (lane8 ^ 5)],
        np.full(32, (bits * (values & 1)).sum()),
        (same * bits[None, :]).sum(1),
        np.full(32, values.sum()),
        np.full(32, values.astype(np.int32).min()),
        np.full(32, values.max()),
        np.full(32, np.bitwise_or.reduce(values)),
        np.full(32, 3),
    ]
    yield Case("warp_intrinsics", (), values, np.stack([c.astype(np.uint32) for c in columns], axis=1))


def swizzled(rows: Array) -> Array:
    """Rows of 128 bytes as they lie in shared memory: 16-byte chunk c of row r stands at chunk c ^ (r % 8)."""
    r, c = np.meshgrid(np.arange(len(rows)), np.arange(8), indexing="ij")
    chunks = rows.view(np.uint8).reshape(len(rows), 8, 16)
    image = np.empty_like(chunks)
    image[r, c ^ (r % 8)] = chunks
    return image.reshape(len(rows), 128)


def bulk_copies(rng: np.random.Generator) -> Iterator[Case]:
    words = rng.integers(0, 2**32, 1024, dtype=np.uint32)
    yield Case("bulk_copy", (), words, words)
    chunks = words[:128].reshape(32, 4)
    yield Case("copy_arrival", (), chunks, np.ascontiguousarray(chunks[::-1]))
    for element, columns, rows, planes, column, row, plane in (
        (2, 128, 100, 0, 64, 0, 0),
        (2, 128, 100, 0, 0, 60, 0),  # 24 rows beyond the end
        (2, 104, 70, 0, 64, 6, 0),  # 24 columns beyond the end
        (2, 72, 70, 0, -8, -5, 0),  # before the beginning
        (1, 256, 64, 0, 128, 0, 0),
        (4, 48, 64, 0, 32, 1, 0),
        (2, 64, 40, 3, 0, 8, 1),  # ends with its plane
        (2, 64, 40, 3, 0, 8, 2),
    ):
        dtype = {1: np.uint8, 2: np.uint16, 4: np.uint32}[element]
        source = rng.integers(1, 2 ** (8 * element), (max(planes, 1), rows, columns)).astype(dtype)
        width = 128 // element
        padded = np.zeros((rows + 200, columns + 2 * width), dtype)
        padded[100 : 100 + rows, width : width + columns] = source[plane]
        tile = np.ascontiguousarray(padded[100 + row : 164 + row, width + column : 2 * width + column])
        yield Case("tile_copy", (element, columns, rows, planes, column, row, plane), source, swizzled(tile))


def left_image(a: Array, major: int) -> Array:
    """64 x 64 elements as a tile: rows are m (K-major) or k (MN-major)."""
    return swizzled(np.ascontiguousarray(a if major == 0 else a.T))


def right_image(b: Array, major: int) -> Array:
    """k x n elements: rows are n (K-major); or rows are k, in a tile per 64 columns (MN-major)."""
    columns = -(-b.shape[1] // 64) * 64
    padded = np.zeros((DEPTH, columns), b.dtype)
    padded[:, : b.shape[1]] = b
    if major == 0:
        return swizzled(np.ascontiguousarray(padded.T))
    return np.concatenate(
        [swizzled(np.ascontiguousarray(padded[:, first : first + 64])) for first in range(0, columns, 64)]
    )


def accumulators(d: Array) -> Array:
    """64 x N -> what each of 128 threads holds (the manual's "Register Fragments for D", wgmma.m64nNk16)."""
    thread = np.arange(128)[:, None]
    i = np.arange(d.shape[1] // 2)[None, :]
    row = 16 * (thread // 32) + (thread % 32) // 4 + 8 * ((i % 4) // 2)
    column = 8 * (i // 4) + 2 * (thread % 4) + (i & 1)
    return d[row, column]


def group_products(rng: np.random.Generator) -> Iterator[Case]:
    for columns in COLUMNS:
        a, b = small(rng, 64, DEPTH), small(rng, DEPTH, columns)
        expected = accumulators((a @ b).astype(np.float32))
        for encode, name, majors in (
            (bfloat16, "wgmma_bf16", [(0, 0), (0, 1), (1, 0), (1, 1)]),
            (half, "wgmma_f16", [(0, 1)]),
        ):
            for major_a, major_b in majors:
                image = np.concatenate([left_image(encode(a), major_a), right_image(encode(b), major_b)])
                yield Case(name, (columns, major_a, major_b) if "bf16" in name else (columns,), image, expected)
        for encode, name, rights in (
            (bfloat16, "wgmma_registers_bf16", [0, 1]),
            (half, "wgmma_registers_f16", [1]),
        ):
            registers = np.concatenate(
                [
                    np.stack(
                        [left_fragment(encode(a)[16 * w : 16 * w + 16, k : k + 16]) for k in range(0, DEPTH, 16)], 1
                    )
                    for w in range(4)
                ]
            )
            for major_b in rights:
                image = right_image(encode(b), major_b)
                source = np.concatenate([np.ascontiguousarray(registers).view(np.uint8).ravel(), image.ravel()])
                yield Case(name, (columns, major_b) if "bf16" in name else (columns,), source, expected)


FAMILIES: tuple[Callable[[np.random.Generator], Iterator[Case]], ...] = (
    copies,
    matrix_loads,
    matrix_stores,
    products,
    barriers,
    warp_intrinsics,
    bulk_copies,
    group_products,
)


def cases(seed: int = 0) -> list[Case]:
    rng = np.random.default_rng(seed)
    return [case for family in FAMILIES for case in family(rng)]
