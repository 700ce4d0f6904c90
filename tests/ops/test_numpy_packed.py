"""Packing, packed weights and the fused router through the NumPy door: the torch door's bits, and its own checks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from llada_moe_ops import ops
from llada_moe_ops.machine import extension
from llada_moe_ops.ops._library import native
from torch import Tensor

from tests import cases

if not native():
    pytest.skip("the extension is not built", allow_module_level=True)

C = extension()
FORMATS = ("fp32", "bf16", "int8", "int4")
K, N, E = 70, 40, 3
OFFSETS = np.array([0, 4, 4, 17], np.int32)


def given(value: Tensor) -> Any:
    """As the door takes it: a NumPy array; bfloat16, which NumPy lacks, by DLPack."""
    return value if value.dtype == torch.bfloat16 else value.numpy()


def taken(result: Any) -> Tensor:
    """A result as a tensor."""
    return torch.from_numpy(result) if isinstance(result, np.ndarray) else torch.from_dlpack(result)


def activations(format: str) -> tuple[torch.dtype, ...]:
    return {"fp32": (torch.float32,), "bf16": (torch.bfloat16,)}.get(format, (torch.float32, torch.bfloat16))


@pytest.mark.parametrize("format", FORMATS)
def test_linear(format: str, isa: str) -> None:
    for dtype in activations(format):
        x, bias = cases.random(13, K, dtype=dtype, seed=1), cases.random(N, dtype=dtype, seed=3)
        weight = cases.random(N, 2 * K, dtype=dtype, seed=2)[:, 5 : 5 + K]
        packed, expected = C.pack_linear(given(weight), format), ops.pack_linear(weight, format)
        assert torch.equal(taken(packed), expected.panels)
        assert torch.equal(taken(C.linear_packed(given(x), packed, N)), ops.linear(x, expected))
        assert torch.equal(taken(C.linear_packed(given(x), packed, N, given(bias))), ops.linear(x, expected, bias))
        assert torch.equal(taken(C.linear_packed(given(x[4]), packed, N)), ops.linear(x[4], expected))


@pytest.mark.parametrize("format", FORMATS)
def test_grouped_gemm_and_swiglu(format: str, isa: str) -> None:
    for dtype in activations(format):
        x, weight = cases.random(19, K, dtype=dtype, seed=1), cases.random(E, N, K, dtype=dtype, seed=2)
        down, offsets = cases.random(E, K, N // 2, dtype=dtype, seed=4), torch.from_numpy(OFFSETS)
        packed, expected = C.pack_grouped(given(weight), format), ops.pack_grouped(weight, format)
        assert torch.equal(taken(packed), expected.panels)
        y = taken(C.grouped_gemm_packed(given(x), packed, N, OFFSETS))
        assert torch.equal(y, ops.grouped_gemm(x, expected, offsets))
        gate_up, _ = C.pack_experts(given(weight), given(down), format)
        y = taken(C.grouped_swiglu_packed(given(x), gate_up, N // 2, OFFSETS))
        assert torch.equal(y, ops.grouped_swiglu(x, ops.pack_experts(weight, down, format), offsets))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", cases.EXPERT_LAYERS)
def test_moe_mlp(shape: tuple[int, ...], format: str, isa: str) -> None:
    for dtype in activations(format):
        layer = cases.expert_layer(shape, "not_mine", dtype)
        gate_up, down = C.pack_experts(given(layer[3]), given(layer[4]), format)
        expected = ops.pack_experts(*layer[3:], format)
        assert torch.equal(taken(gate_up), expected.gate_up)
        assert torch.equal(taken(down), expected.down)
        y = C.moe_mlp_packed(*(given(value) for value in layer[:3]), gate_up, down, shape[4])
        assert torch.equal(taken(y), ops.moe_mlp(*layer[:3], expected))


@pytest.mark.parametrize("format", FORMATS)
def test_token_confidence(format: str) -> None:
    for dtype in activations(format):
        hidden, head = cases.random(5, K, dtype=dtype, seed=1), cases.random(300, K, dtype=dtype, seed=2)
        options: dict[str, Any] = {"temperature": 0.5, "seed": 3, "mask_token_id": 7}
        out = C.token_confidence_packed(given(hidden), C.pack_linear(given(head), format), 300, **options)
        expected = ops.token_confidence(hidden, ops.pack_linear(head, format), **options)
        for name in ("token", "logprob", "runner_up", "entropy", "logsumexp"):
            assert torch.equal(torch.from_numpy(out[name]), getattr(expected, name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_router(dtype: torch.dtype, isa: str) -> None:
    x, gate = cases.random(13, 40, dtype=dtype, seed=1), cases.random(16, 40, dtype=dtype, seed=2)
    bias = cases.random(16, dtype=torch.float32, seed=3)
    options: tuple[dict[str, Any], ...] = (
        {},
        {"score": "sigmoid", "num_groups": 4, "topk_groups": 2, "renormalize": True, "scale": 2.5},
    )
    for extra in options:
        weights, experts = C.router(given(x), given(gate), 4, bias=bias.numpy(), bias_in_weights=False, **extra)
        expected = ops.router(x, gate, 4, bias=bias, bias_in_weights=False, **extra)
        assert torch.equal(torch.from_numpy(weights), expected[0])
        assert torch.equal(torch.from_numpy(experts), expected[1])
    weights, experts = C.router(given(x[:0]), given(gate), 4)
    assert weights.shape == experts.shape == (0, 4)


def test_panels_are_aligned_and_come_back_from_a_file(tmp_path: Any) -> None:
    weight = cases.random(1100, 1200, dtype=torch.float32, seed=1).numpy()  # more than two large pages
    for format in ("fp32", "int8", "int4"):
        panels = C.pack_linear(weight, format)
        assert panels.ctypes.data % (1 << 21 if panels.nbytes >= 1 << 22 else 64) == 0
        np.save(tmp_path / "panels.npy", panels)
        mapped = np.load(tmp_path / "panels.npy", mmap_mode="r")
        x = cases.random(3, 1200, dtype=torch.float32, seed=2).numpy()
        np.testing.assert_array_equal(C.linear_packed(x, mapped, 1100), C.linear_packed(x, panels, 1100))


def test_without_torch() -> None:
    program = """
import sys
import numpy as np
from llada_moe_ops import _C
weight = np.arange(64, dtype=np.float32).reshape(2, 8, 4) / 64
gate_up, down = _C.pack_experts(weight, np.ones((2, 4, 4), np.float32), "int8")
x, experts = np.ones((3, 4), np.float32), np.array([[0], [1], [2]], np.int32)
y = _C.moe_mlp_packed(x, np.ones((3, 1), np.float32), experts, gate_up, down, 4)
hidden = _C.grouped_swiglu_packed(x, gate_up, 4, np.array([0, 1, 2], np.int32))
z = _C.grouped_gemm_packed(hidden, down, 4, np.array([0, 1, 2], np.int32))
np.testing.assert_array_equal(y, z)
large, rows = _C.pack_linear(np.sin(np.arange(700 * 900, dtype=np.float32)).reshape(700, 900), "int4"), np.eye(25, 900)
results = []
for threads in (1, 2, 3):
    _C.set_num_threads(threads)
    results.append(_C.linear_packed(rows.astype(np.float32), large, 700))
np.testing.assert_array_equal(results[0], results[1])
np.testing.assert_array_equal(results[0], results[2])
assert y[:2].min() > 0 and not y[2].any() and "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


X, WEIGHT = (
    cases.random(8, K, dtype=torch.float32, seed=1).numpy(),
    cases.random(N, K, dtype=torch.float32, seed=2).numpy(),
)
WEIGHTS, DOWN = np.stack([WEIGHT, -WEIGHT]), np.ones((2, K, N // 2), np.float32)
INT8, GROUPS = C.pack_linear(WEIGHT, "int8"), C.pack_grouped(WEIGHTS, "int4")
GATE_UP, DOWN_PANELS = C.pack_experts(WEIGHTS, DOWN)
ROUTED = (X, np.ones((8, 1), np.float32), np.zeros((8, 1), np.int32))
UNALIGNED = np.concatenate([np.zeros(1, np.int8), INT8.ravel()])[1:].reshape(INT8.shape)
TWO = np.array([0, 3, 8], np.int32)
ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: C.pack_linear("w"), TypeError, "expected a NumPy array or a DLPack tensor, got str"),
    (lambda: C.pack_linear(WEIGHT[0]), ValueError, r"pack_linear: weight must have shape \[\*, \*\], got \[70\]"),
    (lambda: C.pack_linear(WEIGHT.T), ValueError, "pack_linear: weight must have a contiguous last dimension"),
    (
        lambda: C.pack_linear(WEIGHT.astype("f8")),
        TypeError,
        "pack_linear: weight must be float32 or bfloat16, got float64",
    ),
    (
        lambda: C.pack_linear(WEIGHT, "fp8"),
        ValueError,
        "pack_linear: format must be 'fp32' .*, 'int8' or 'int4', got 'fp8'",
    ),
    (lambda: C.pack_linear(WEIGHT, "bf16"), ValueError, "pack_linear: format must be 'fp32' .*, got 'bf16'"),
    (lambda: C.pack_linear(np.zeros((1, 65537), "f4"), "int4"), ValueError, "at most 65536 inputs when quantised"),
    (lambda: C.pack_grouped(WEIGHT), ValueError, r"pack_grouped: weight must have shape \[\*, \*, \*\]"),
    (
        lambda: C.pack_grouped(WEIGHTS[..., ::2]),
        ValueError,
        "pack_grouped: weight must have a contiguous last dimension",
    ),
    (lambda: C.pack_experts(WEIGHTS[:, 1:], DOWN), ValueError, "pack_experts: gate_up_proj must be of an even second"),
    (lambda: C.pack_experts(WEIGHTS, DOWN[:1]), ValueError, r"pack_experts: down_proj must have shape \[2, 70, 20\]"),
    (lambda: C.pack_experts(WEIGHTS, DOWN.astype("f8")), TypeError, "pack_experts: down_proj must be float32, got"),
    (
        lambda: C.linear_packed(X, INT8, N + 30),
        ValueError,
        "linear: out_features must be within 0 and the 64 packed columns",
    ),
    (lambda: C.linear_packed(X, INT8, -1), ValueError, "linear: out_features must be within 0 and the 64 .*, got -1"),
    (lambda: C.linear_packed(X, INT8, 5), ValueError, r"linear: weight must have shape \[1, "),
    (lambda: C.linear_packed(X[:, :50], INT8, N), ValueError, r"linear: weight must have shape \[2, "),
    (lambda: C.linear_packed(X, INT8.ravel()[0], N), TypeError, "expected a NumPy array or a DLPack tensor, got int8"),
    (
        lambda: C.linear_packed(X, np.array(1, "i1"), N),
        ValueError,
        r"linear: packed must be packed weights, got shape \[\]",
    ),
    (
        lambda: C.linear_packed(X, INT8.astype("i4"), N),
        TypeError,
        "linear: packed must be float32 or .* or uint8, got int32",
    ),
    (lambda: C.linear_packed(X, INT8[:, ::2], N), ValueError, "linear: weight must be contiguous"),
    (
        lambda: C.linear_packed(X, UNALIGNED, N),
        ValueError,
        "linear: weight must be aligned to 4 bytes, got an address 1",
    ),
    (lambda: C.linear_packed(X.astype("f8"), INT8, N), TypeError, "linear: x must be float32 or bfloat16, got float64"),
    (
        lambda: C.linear_packed(X, INT8, N, np.ones(3, "f4")),
        ValueError,
        r"linear: bias must have shape \[40\], got \[3\]",
    ),
    (lambda: C.grouped_gemm_packed(X, GROUPS, N, TWO[:2]), ValueError, r"grouped_gemm: offsets must have shape \[3\]"),
    (lambda: C.grouped_gemm_packed(X, GROUPS, N, TWO + 1), ValueError, "grouped_gemm: offsets must be rising from 0"),
    (lambda: C.grouped_gemm_packed(X, GROUPS[0], N, TWO), ValueError, "grouped_gemm: "),
    (lambda: C.grouped_gemm_packed(X, GROUPS[:, 0], N, TWO), ValueError, "grouped_gemm: "),
    (
        lambda: C.grouped_gemm_packed(X[0], GROUPS, N, TWO),
        ValueError,
        r"grouped_gemm: x_sorted must have shape \[\*, \*\]",
    ),
    (
        lambda: C.grouped_gemm_packed(X, GROUPS, 99, TWO),
        ValueError,
        "grouped_gemm: out_features must be within 0 and the 64",
    ),
    (
        lambda: C.grouped_swiglu_packed(X, GATE_UP, 99, TWO),
        ValueError,
        "grouped_swiglu: intermediate_size must be within",
    ),
    (
        lambda: C.grouped_swiglu_packed(X, GATE_UP, 7, TWO),
        ValueError,
        r"grouped_swiglu: gate_up_proj must have shape \[2, 1",
    ),
    (
        lambda: C.moe_mlp_packed(*ROUTED, GATE_UP, DOWN_PANELS, 33),
        ValueError,
        "moe_mlp: intermediate_size must be within",
    ),
    (lambda: C.moe_mlp_packed(*ROUTED, GATE_UP, DOWN_PANELS[:1], 20), ValueError, "moe_mlp: down_proj must have shape"),
    (
        lambda: C.moe_mlp_packed(*ROUTED, GATE_UP, DOWN_PANELS[0, 0, 0, 0], 20),
        ValueError,
        "moe_mlp: down must be packed",
    ),
    (
        lambda: C.moe_mlp_packed(*ROUTED[:2], ROUTED[2] + 3, GATE_UP, DOWN_PANELS, 20),
        ValueError,
        "moe_mlp: experts must be",
    ),
    (
        lambda: C.token_confidence_packed(X, INT8, 99),
        ValueError,
        "token_confidence: vocabulary must be within 0 and the 64",
    ),
    (lambda: C.router(X, WEIGHT, 41), ValueError, "router: k must be within 1 and the number of experts, got 41"),
    (lambda: C.router(X, WEIGHT[:, :9], 4), ValueError, r"router: gate_weight must have shape \[\*, 70\]"),
    (lambda: C.router(X[0], WEIGHT, 4), ValueError, r"router: x must have shape \[\*, \*\]"),
    (lambda: C.router(X.astype("f8"), WEIGHT, 4), TypeError, "router: x must be float32 or bfloat16, got float64"),
    (
        lambda: C.router(X, WEIGHT, 4, score="tanh"),
        ValueError,
        "router: score must be 'softmax' or 'sigmoid', got tanh",
    ),
    (
        lambda: C.router(X, WEIGHT, 4, bias=np.ones(3, "f4")),
        ValueError,
        r"router: bias must have shape \[40\], got \[3\]",
    ),
    (lambda: C.router(X, WEIGHT, 4, num_groups=7), ValueError, "router: num_groups must be a divisor of 40, got 7"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
