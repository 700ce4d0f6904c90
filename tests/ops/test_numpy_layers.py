"""The two halves of a layer through the NumPy door: the torch door's bits, and its own checks."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from llada_moe_ops import ops
from llada_moe_ops.machine import extension
from llada_moe_ops.ops._library import native
from llada_moe_ops.ops.norm_rope import rope_frequencies
from torch import Tensor

from .test_attention_layer import FORMATS, VARIANTS, with_own_cache
from .test_attention_layer import SHAPES as ATTENTION_SHAPES
from .test_attention_layer import arguments as attention_arguments
from .test_expert_layer import SHAPES as EXPERT_SHAPES
from .test_expert_layer import VARIANTS as CHOICES
from .test_expert_layer import arguments as expert_arguments

if not native():
    pytest.skip("the extension is not built", allow_module_level=True)

C = extension()
SMALL = (2, 3, 24, 2, 1, 8)


def given(value: Any) -> Any:
    """As the door takes it: a NumPy array; bfloat16, which NumPy lacks, by DLPack."""
    return value.numpy() if isinstance(value, Tensor) and value.dtype != torch.bfloat16 else value


def taken(result: Any) -> Tensor:
    """A result as a tensor."""
    return torch.from_numpy(result) if isinstance(result, np.ndarray) else torch.from_dlpack(result)


def attention_call(values: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``ops.attention_layer`` as this door's."""
    call = {name: given(value) for name, value in values.items() if name not in ("qkv", "out", "theta", "rotary_dim")}
    frequencies = rope_frequencies(values["theta"], values["rotary_dim"], torch.device("cpu"))
    size = values["qkv"].out_features // (values["heads"] + 2 * values["key_heads"])
    weights = {"qkv_weight": given(values["qkv"].panels), "out_weight": given(values["out"].panels)}
    return {**call, **weights, "frequencies": frequencies.numpy(), "head_size": size}


def expert_call(values: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``ops.expert_layer`` as this door's."""
    call, experts = {name: given(value) for name, value in values.items() if name != "experts"}, values["experts"]
    weights = {"gate_up": given(experts.gate_up), "down": given(experts.down)}
    return {**call, **weights, "intermediate_size": experts.intermediate_size}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("format", "dtype"), FORMATS)
@pytest.mark.parametrize("shape", ATTENTION_SHAPES)
def test_attention_layer(shape: tuple[int, ...], format: str, dtype: torch.dtype, variant: str) -> None:
    values = attention_arguments(shape, format, dtype, **VARIANTS[variant])
    mine, others = with_own_cache(values), with_own_cache(values)
    results, expected = C.attention_layer(**attention_call(mine)), ops.attention_layer(**others)
    for result, other in zip(results, expected, strict=True):
        assert torch.equal(taken(result), other)
    if "cache" in values:
        assert torch.equal(mine["cache"], others["cache"])


@pytest.mark.parametrize("variant", CHOICES)
@pytest.mark.parametrize(("format", "dtype"), FORMATS)
@pytest.mark.parametrize("shape", EXPERT_SHAPES)
def test_expert_layer(
    shape: tuple[tuple[int, ...], int, int, int], format: str, dtype: torch.dtype, variant: str
) -> None:
    values = expert_arguments(shape, format, dtype, **CHOICES[variant])
    for result, other in zip(C.expert_layer(**expert_call(values)), ops.expert_layer(**values), strict=True):
        assert torch.equal(taken(result), other)


def test_instruction_sets(isa: str) -> None:
    values = attention_arguments(ATTENTION_SHAPES[1], "int8", torch.float32)
    assert torch.equal(taken(C.attention_layer(**attention_call(values))[0]), ops.attention_layer(**values)[0])
    experts = expert_arguments(EXPERT_SHAPES[1], "int4", torch.float32)
    assert torch.equal(taken(C.expert_layer(**expert_call(experts))[0]), ops.expert_layer(**experts)[0])


def test_without_torch() -> None:
    program = """
import sys
import numpy as np
from llada_moe_ops import _C
x = np.sin(np.arange(2 * 9 * 32, dtype=np.float32)).reshape(2, 9, 32)
ones, gate = np.ones(32, np.float32), np.cos(np.arange(4 * 32, dtype=np.float32)).reshape(4, 32)
qkv, out = (_C.pack_linear(np.sin(np.arange(n * 32, dtype=np.float32)).reshape(n, 32), "int8") for n in (96, 32))
gate_up_proj = np.cos(np.arange(4 * 32 * 32, dtype=np.float32)).reshape(4, 32, 32)
experts = _C.pack_experts(gate_up_proj, np.ones((4, 32, 16), np.float32))
positions = np.arange(9, dtype=np.int32)[None].repeat(2, 0)
results = []
for threads in (1, 2, 3):
    _C.set_num_threads(threads)
    sizes = dict(heads=4, key_heads=4, head_size=8, eps=1e-5)
    attended, total = _C.attention_layer(None, x, ones, qkv, out, positions, np.ones(4, np.float32), **sizes)
    results.append(_C.expert_layer(attended, total, ones, gate, *experts, 16, 2, eps=1e-5)[0])
assert total is x and np.abs(results[0]).min() > 0 and "torch" not in sys.modules
np.testing.assert_array_equal(results[0], results[1])
np.testing.assert_array_equal(results[0], results[2])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def read_only(array: Any) -> Any:
    array = array.copy()
    array.flags.writeable = False
    return array


def shifted(array: Any) -> Any:
    """The same bytes at an odd address."""
    return np.concatenate([np.zeros(1, array.dtype), array.ravel()])[1:].reshape(array.shape)


ATTENTION = attention_call(attention_arguments(SMALL, "int8", torch.float32, cached=True, ragged=True, bias=True))
EXPERTS = expert_call(expert_arguments(EXPERT_SHAPES[1], "int8", torch.float32, biased=True))
ATTENTION_ERRORS: list[tuple[str, Any, type[Exception], str]] = [
    ("residual", "x", TypeError, "expected a NumPy array or a DLPack tensor, got str"),
    ("residual", ATTENTION["residual"][0], ValueError, r"attention_layer: residual must have shape \[\*, \*, \*\]"),
    ("residual", ATTENTION["residual"].astype("f8"), TypeError, "attention_layer: residual must be float32 or bfl"),
    ("residual", ATTENTION["residual"].swapaxes(0, 1), ValueError, "attention_layer: residual must be contiguous"),
    ("update", ATTENTION["update"][:1], ValueError, "rms_norm: "),
    ("norm_weight", ATTENTION["norm_weight"][:5], ValueError, r"rms_norm: weight must have shape \[24\]"),
    ("qkv_weight", ATTENTION["qkv_weight"][:0], ValueError, r"attention_layer: qkv_weight must have shape \[1, "),
    ("qkv_weight", np.array(1, "i1"), ValueError, r"attention_layer: qkv_weight must have shape .* got \[\]"),
    ("qkv_weight", ATTENTION["qkv_weight"].astype("i4"), TypeError, "attention_layer: qkv_weight must be float32 or"),
    ("qkv_weight", shifted(ATTENTION["qkv_weight"]), ValueError, "qkv_weight must be aligned to 4 bytes, got an addr"),
    ("out_weight", shifted(ATTENTION["out_weight"]), ValueError, "out_weight must be aligned to 4 bytes, got an addr"),
    ("heads", 0, ValueError, "attention_layer: heads must be within 1 and 65536, got 0"),
    ("key_heads", 2**62, ValueError, "attention_layer: key_heads must be within 1 and 65536"),
    ("head_size", 2**40, ValueError, "attention_layer: head_size must be within 1 and 256"),
    ("positions", ATTENTION["positions"].astype("f4"), TypeError, "attention_layer: positions must be int32 or int64"),
    ("positions", ATTENTION["positions"] - 99, ValueError, "attention_layer: positions must not be negative, got -"),
    ("frequencies", np.zeros(9, "f4"), ValueError, "qk_norm_rope: frequencies must be at most half of the head size"),
    ("qkv_bias", ATTENTION["qkv_bias"][:3], ValueError, "linear: bias must have shape"),
    ("cache", ATTENTION["cache"][:, :1], ValueError, r"attention_layer: cache must have shape \[2, 2, \*, 1, 8\]"),
    ("cache", read_only(ATTENTION["cache"]), ValueError, "attention_layer: cache must be writeable, got a read-only"),
    ("key_range", ATTENTION["key_range"] + 99, ValueError, "attention: key_range must be"),
    ("eps", -1.0, ValueError, "rms_norm: eps must be not negative"),
]
EXPERT_ERRORS: list[tuple[str, Any, type[Exception], str]] = [
    ("update", None, TypeError, "expected a NumPy array or a DLPack tensor, got NoneType"),
    ("update", EXPERTS["update"].astype("f8"), TypeError, "expert_layer: update must be float32 or bfloat16"),
    ("update", np.array(1, "f4"), ValueError, r"expert_layer: update must be of a last dimension of at least 1"),
    ("residual", EXPERTS["residual"][:1], ValueError, "expert_layer: residual must have shape"),
    ("residual", EXPERTS["residual"].reshape(-1, 40), ValueError, "expert_layer: residual must have shape"),
    ("gate_weight", EXPERTS["gate_weight"][:, :3], ValueError, r"expert_layer: gate_weight must have shape \[\*, 40\]"),
    ("gate_up", EXPERTS["gate_up"][:3], ValueError, "expert_layer: gate_up must be of the router's 5 experts"),
    ("gate_up", np.array(1, "i1"), ValueError, "expert_layer: gate_up must be of the router's 5 experts"),
    ("gate_up", shifted(EXPERTS["gate_up"]), ValueError, "moe_mlp: gate_up_proj must be aligned to 4 bytes, got an ad"),
    ("down", EXPERTS["down"][:3], ValueError, "moe_mlp: down_proj must have shape"),
    ("down", shifted(EXPERTS["down"]), ValueError, "moe_mlp: down_proj must be aligned to 4 bytes, got an address"),
    ("intermediate_size", 33, ValueError, "moe_mlp: gate_up_proj must have shape"),
    ("intermediate_size", -1, ValueError, "moe_mlp: gate_up_proj must be of non-negative sizes, got -1"),
    ("k", 6, ValueError, "expert_layer: k must be within 1 and 5, got 6"),
    ("bias", EXPERTS["bias"][:2], ValueError, r"router: bias must have shape \[5\]"),
    ("eps", -1.0, ValueError, "rms_norm: eps must be not negative"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), ATTENTION_ERRORS)
def test_attention_layer_errors(name: str, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        C.attention_layer(**{**ATTENTION, name: value})


@pytest.mark.parametrize(("name", "value", "error", "message"), EXPERT_ERRORS)
def test_expert_layer_errors(name: str, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        C.expert_layer(**{**EXPERTS, name: value})
