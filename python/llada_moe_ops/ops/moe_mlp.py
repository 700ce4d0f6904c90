"""The whole expert layer: gather, gate/up product, SwiGLU, down product, weighted sum (arXiv 2509.24389 section 2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _check
from ._library import differentiable, native, overload, runs_natively
from ._panels import rounded_rows
from .grouped_gemm import group_slices, grouped_gemm_reference, grouped_swiglu_reference, swiglu_backward
from .int8_experts import Int8Experts
from .packing import PackedExperts, check_format
from .permute import expert_order_reference, permute_reference, unpermute_reference


def moe_mlp_reference(
    x: Tensor,
    weights: Tensor,
    experts: Tensor,
    gate_up_proj: Tensor | PackedExperts | Int8Experts,
    down_proj: Tensor | None = None,
) -> Tensor:
    """The specification of :func:`moe_mlp` in plain PyTorch. Expert index E means "not mine" and adds nothing."""
    weights_as_given = gate_up_proj
    if not isinstance(gate_up_proj, Tensor):
        gate_up_proj, down_proj = gate_up_proj.unpack()
    assert down_proj is not None
    order, offsets = expert_order_reference(experts, gate_up_proj.shape[0])
    order = order[: int(offsets[-1])]
    rows = permute_reference(_as_multiplied(x, weights_as_given), order, experts.shape[-1])
    hidden = grouped_swiglu_reference(rows, gate_up_proj, offsets).to(x.dtype)
    down = grouped_gemm_reference(_as_multiplied(hidden, weights_as_given), down_proj, offsets)
    return unpermute_reference(down, order, weights).to(x.dtype)


def _as_multiplied(x: Tensor, weight: Tensor | PackedExperts | Int8Experts) -> Tensor:
    """Activations as a product with such weights sees them."""
    if isinstance(weight, Int8Experts):
        return x.float()
    return rounded_rows(x) if isinstance(weight, PackedExperts) and weight.quantized else x


def moe_mlp(
    x: Tensor,
    weights: Tensor,
    experts: Tensor,
    gate_up_proj: Tensor | PackedExperts | Int8Experts,
    down_proj: Tensor | None = None,
) -> Tensor:
    """y = Σ over a token's experts of weight · down(silu(gate(x)) · up(x)), in one pass over the experts' weights.

    Sums are fp32; the intermediate is rounded to x's dtype as published, the weighted sum once, at the end. A CPU adds
    a token's experts in rising order, as the published loop does, a GPU in the order of the token's slots.

    Args:
        x: [T, H] float32 or bfloat16; rows may be strided.
        weights: [T, k] routing weights, float32 or x's dtype.
        experts: [T, k] int32 or int64 in 0 .. E; E means "not mine" (expert parallelism) and adds nothing.
        gate_up_proj: [E, 2I, H] of x's dtype, gate rows first (the layout of transformers 5), or both weights packed
            by :func:`pack_experts` (inference only; int8 and int4 weights take either dtype of x), or for a GPU in
            bytes by :func:`quantize_experts` (inference only; elsewhere and for float32 x its reference runs).
        down_proj: [E, H, I] of x's dtype; absent when packed.

    Returns:
        [T, H] of x's dtype.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a wrong shape, device or layout, or an expert out of range.
    """
    if isinstance(gate_up_proj, PackedExperts) and down_proj is None:
        called = _called_at_once(x, weights, experts, gate_up_proj)
        if called is not None:
            return called
    packed = gate_up_proj if isinstance(gate_up_proj, PackedExperts | Int8Experts) else None
    num_experts = _check_weights(x, packed, gate_up_proj, down_proj)
    tokens, device = x.shape[0], x.device
    _check.tensor("moe_mlp", "weights", weights, dtypes=(torch.float32, x.dtype), shape=(tokens, "k"), device=device)
    shape = (tokens, weights.shape[1])
    _check.tensor("moe_mlp", "experts", experts, dtypes=_check.INDEX, shape=shape, device=device)
    if not _runs_natively(x, packed):
        _check.index_range("moe_mlp", "experts", experts, num_experts)
        return moe_mlp_reference(x, weights, experts, gate_up_proj, down_proj)
    weights, experts = weights.float().contiguous(), experts.contiguous()
    try:
        if isinstance(packed, Int8Experts):
            y: Tensor = overload("moe_mlp_int8")(
                x, weights, experts, packed.gate_up, packed.gate_up_scale, packed.down, packed.down_scale
            )
        elif packed is not None:
            y = overload("moe_mlp_packed")(x, weights, experts, packed.gate_up, packed.down, packed.intermediate_size)
        else:
            y = differentiable("moe_mlp", x, weights, experts, gate_up_proj, down_proj)
    except RuntimeError:
        # The op has looked at every index; doing so here as well costs 60 µs with cold caches.
        _check.index_range("moe_mlp", "experts", experts, num_experts)
        raise
    return y


def _called_at_once(x: Tensor, weights: Tensor, experts: Tensor, packed: PackedExperts) -> Tensor | None:
    """The result where the compiled op takes its arguments as they are; None where they have to be looked at.

    The op checks them itself, but for H, of which panels tell no more than how many lanes it fills. The checks in
    Python, which word the errors, would take a tenth of a call of one token: after a kernel has streamed weights
    through the caches their code has to be fetched from memory.
    """
    if type(x) is not Tensor or torch.compiler.is_compiling() or not x.is_cpu or not runs_natively(x):
        return None
    try:
        if weights.dtype != torch.float32 or not weights.is_contiguous() or not experts.is_contiguous():
            return None
        if x.size(-1) != packed.hidden_size:
            return None
        y: Tensor = overload("moe_mlp_packed")(
            x, weights, experts, packed.gate_up, packed.down, packed.intermediate_size
        )
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return None
    return y


def _runs_natively(x: Tensor, packed: PackedExperts | Int8Experts | None) -> bool:
    if isinstance(packed, Int8Experts):
        return x.device.type != "cpu" and x.dtype != torch.float32 and runs_natively(x, "moe_mlp_int8")
    return runs_natively(x, "moe_mlp" if packed is None else "moe_mlp_packed")


def _check_weights(
    x: Tensor, packed: PackedExperts | Int8Experts | None, gate_up_proj: object, down_proj: Tensor | None
) -> int:
    """Check x against the experts' weights; how many experts there are."""
    op = "moe_mlp"
    _check.tensor(op, "x", x, dtypes=_check.FLOATING, shape=("T", "H"), rows_contiguous=True)
    like: dict[str, Any] = {"dtypes": (x.dtype,), "device": x.device}
    if packed is not None:
        _check.require(op, "down_proj", down_proj is None, "absent when the experts are packed", "a tensor")
        if isinstance(packed, PackedExperts):
            check_format(op, "x", x, packed.format, packed.gate_up)
        else:
            _check.tensor(op, "gate_up", packed.gate_up, device=x.device)
        _check.require(op, "x", x.shape[1] == packed.hidden_size, f"[T, {packed.hidden_size}]", list(x.shape))
        return packed.num_experts
    _check.tensor(op, "gate_up_proj", gate_up_proj, shape=("E", "2I", x.shape[1]), rows_contiguous=True, **like)
    assert isinstance(gate_up_proj, Tensor)
    experts, rows, hidden = gate_up_proj.shape
    _check.require(op, "gate_up_proj", rows % 2 == 0, "of an even second size", list(gate_up_proj.shape))
    _check.tensor(op, "down_proj", down_proj, shape=(experts, hidden, rows // 2), rows_contiguous=True, **like)
    return experts


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, Tensor, Tensor]:
    grad_x, grad_weights, grad_gate_up_proj, grad_down_proj = moe_mlp_backward(grad, *ctx.saved_tensors)
    return grad_x, grad_weights, None, grad_gate_up_proj, grad_down_proj


# An op of its own: the number of rows of each expert is data, which a traced backward could not use.
@torch.library.custom_op("llada_moe::moe_mlp_backward", mutates_args=())
def moe_mlp_backward(
    grad: Tensor, x: Tensor, weights: Tensor, experts: Tensor, gate_up_proj: Tensor, down_proj: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weights, gate_up_proj and down_proj; the intermediate is recomputed, expert by expert."""
    tokens, slots = experts.shape
    order, offsets = expert_order_reference(experts, gate_up_proj.shape[0])
    order = order[: int(offsets[-1])].long()
    token = order // max(slots, 1)
    x_sorted, grad_sorted = x[token], grad[token]
    weight = weights.flatten()[order].unsqueeze(-1)
    rows_grad_x, rows_grad_weight = torch.empty_like(x_sorted), torch.empty_like(weight)
    grad_gate_up_proj, grad_down_proj = torch.zeros_like(gate_up_proj), torch.zeros_like(down_proj)
    for expert, rows in group_slices(offsets):
        projected = grad_sorted[rows] @ down_proj[expert]
        scale = weight[rows].to(x.dtype)
        hidden, grad_gate_up = swiglu_backward(x_sorted[rows] @ gate_up_proj[expert].T, projected * scale)
        rows_grad_weight[rows] = (hidden.float() * projected.float()).sum(-1, keepdim=True)
        rows_grad_x[rows] = grad_gate_up @ gate_up_proj[expert]
        grad_gate_up_proj[expert] = grad_gate_up.T @ x_sorted[rows]
        grad_down_proj[expert] = (grad_sorted[rows] * scale).T @ hidden
    grad_x = x.new_zeros(tokens * slots, x.shape[1]).index_copy_(0, order, rows_grad_x)
    grad_weights = torch.zeros_like(weights).flatten().index_copy_(0, order, rows_grad_weight.squeeze(-1))
    grad_x = grad_x.view(tokens, slots, x.shape[1]).sum(1)
    return grad_x, grad_weights.view(tokens, slots), grad_gate_up_proj, grad_down_proj


@moe_mlp_backward.register_fake
def _moe_mlp_backward_fake(
    grad: Tensor, x: Tensor, weights: Tensor, experts: Tensor, gate_up_proj: Tensor, down_proj: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape),
        weights.new_empty(weights.shape),
        torch.empty_like(gate_up_proj),
        torch.empty_like(down_proj),
    )


if native():

    @torch.library.register_fake("llada_moe::moe_mlp")
    def _moe_mlp_fake(x: Tensor, weights: Tensor, experts: Tensor, gate_up_proj: Tensor, down_proj: Tensor) -> Tensor:
        return x.new_empty(x.shape)

    @torch.library.register_fake("llada_moe::moe_mlp_packed")
    def _moe_mlp_packed_fake(
        x: Tensor, weights: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor, intermediate_size: int
    ) -> Tensor:
        return x.new_empty(x.shape)

    torch.library.register_autograd("llada_moe::moe_mlp", _backward, setup_context=_setup)
