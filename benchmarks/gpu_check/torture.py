"""Shapes that break kernels: more than 2^31 elements, 16384 tokens, all of them on one expert.

``python -m benchmarks.gpu_check.torture NAME``. Of a large result some rows are looked at, at both ends and around
element 2^31: they must agree with the reference; whether the op gives those rows alone the same bits is said.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from llada_moe_ops import ops
from llada_moe_ops.machine import extension
from llada_moe_ops.ops._library import has_cuda_kernel
from llada_moe_ops.ops.confidence_of_logits import confidence_of_logits
from torch import Tensor

HIDDEN, INTERMEDIATE, EXPERTS, SLOTS, VOCABULARY = 2048, 1024, 64, 8, 157184
HEADS, HEAD_SIZE = 16, 128
PAST_INT32 = 2**31
TOLERANCE = 1e-2  # relative, of bfloat16 results whose sums are fp32


def random(*shape: int, scale: float = 1.0) -> Tensor:
    """Normal values in bfloat16 on the GPU."""
    return torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_(0.0, scale)


def rows_to_see(count: int, row_size: int) -> Tensor:
    """Both ends, and around element 2^31."""
    crossing = PAST_INT32 // row_size
    rows = [0, 1, count // 2, crossing - 1, crossing, crossing + 1, count - 2, count - 1]
    return torch.tensor(sorted({row for row in rows if 0 <= row < count}), device="cuda")


def compare(whole: Tensor, alone: Tensor, exact: Tensor) -> str:
    """Raise unless the rows seen are right; what to say if they are."""
    error = float((whole.double() - exact.double()).norm() / exact.double().norm())
    assert error < TOLERANCE, f"relative error {error:.3g}"
    same = (
        "the same bits" if torch.equal(whole, alone) else f"other bits in {float((whole != alone).float().mean()):.1%}"
    )
    return f"relative error {error:.2e}, {same} as for the rows alone"


def rms_norm() -> str:
    x, weight = random(PAST_INT32 // HIDDEN + 3, HIDDEN), random(HIDDEN)
    rows = rows_to_see(len(x), HIDDEN)
    exact = ops.rms_norm_reference(x[rows].double(), weight.double(), 1e-5)
    return compare(ops.rms_norm(x, weight, 1e-5)[rows], ops.rms_norm(x[rows], weight, 1e-5), exact)


def qk_norm_rope() -> str:
    tokens = PAST_INT32 // (HEADS * HEAD_SIZE) + 3
    q, k, weight = random(1, tokens, HEADS, HEAD_SIZE), random(1, tokens, 1, HEAD_SIZE), random(HEAD_SIZE)
    positions = (torch.arange(tokens, device="cuda") % 8192)[None]
    rows = rows_to_see(tokens, HEADS * HEAD_SIZE)
    options = {"theta": 50000.0, "rotary_dim": HEAD_SIZE, "eps": 1e-5}
    seen = q[:, rows], k[:, rows], weight, weight, positions[:, rows]
    exact = ops.qk_norm_rope_reference(*(value.double() for value in seen[:4]), seen[4], **options)[0]
    return compare(
        ops.qk_norm_rope(q, k, weight, weight, positions, **options)[0][:, rows],
        ops.qk_norm_rope(*seen, **options)[0],
        exact,
    )


def linear() -> str:
    x, weight = random(16384, HIDDEN), random(VOCABULARY, HIDDEN, scale=HIDDEN**-0.5)
    rows = rows_to_see(len(x), VOCABULARY)
    exact = x[rows].double() @ weight.double().T
    return compare(ops.linear(x, weight)[rows], ops.linear(x[rows], weight), exact)


def permute() -> str:
    tokens = PAST_INT32 // (HIDDEN * SLOTS) + 3
    x = random(tokens, HIDDEN)
    order = torch.arange(tokens * SLOTS, dtype=torch.int32, device="cuda").flip(0)
    moved = ops.permute(x, order, SLOTS)
    rows = rows_to_see(len(moved), HIDDEN)
    assert torch.equal(moved[rows], x[order[rows].long() // SLOTS]), "rows went elsewhere"
    weights = torch.full((tokens, SLOTS), 1 / SLOTS, device="cuda")
    back = ops.unpermute(moved, order, weights)
    assert torch.equal(back, x), "rows did not come back"
    return "every row came back"


def expert_order() -> str:
    experts = torch.randint(0, EXPERTS + 1, (1 << 24, SLOTS), dtype=torch.int32, device="cuda")
    order, offsets = ops.expert_order(experts, EXPERTS)
    kept = int(offsets[-1])
    counts = torch.bincount(experts.flatten(), minlength=EXPERTS + 1)[:EXPERTS].cumsum(0)
    assert torch.equal(offsets[1:].long(), counts), "offsets differ"
    sorted_experts = experts.flatten()[order[:kept].long()]
    rising = (sorted_experts.diff() > 0) | ((sorted_experts.diff() == 0) & (order[:kept].diff() > 0))
    assert bool(rising.all()), "not sorted, or not in the order of the tokens"
    return f"{kept} assignments"


def router_topk() -> str:
    logits = random(PAST_INT32 // EXPERTS + 3, EXPERTS)
    rows = rows_to_see(len(logits), EXPERTS)
    weights, experts = ops.router_topk(logits, SLOTS)
    exact, chosen = ops.router_topk_reference(logits[rows], SLOTS)
    assert torch.equal(experts[rows], chosen), "other experts"
    return compare(weights[rows], ops.router_topk(logits[rows], SLOTS)[0], exact)


def _experts(count: int) -> tuple[Tensor, Tensor]:
    gate_up = random(count, 2 * INTERMEDIATE, HIDDEN, scale=HIDDEN**-0.5)
    return gate_up, random(count, HIDDEN, INTERMEDIATE, scale=INTERMEDIATE**-0.5)


def _moe(tokens: int, experts: Tensor, gate_up: Tensor, down: Tensor) -> str:
    x, weights = random(tokens, HIDDEN), torch.rand(tokens, experts.shape[1], device="cuda")
    rows = rows_to_see(tokens, HIDDEN)
    exact = ops.moe_mlp_reference(x[rows].float(), weights[rows], experts[rows], gate_up.float(), down.float())
    y = ops.moe_mlp(x, weights, experts, gate_up, down)
    assert bool(y.isfinite().all()), "not finite"
    return compare(y[rows], ops.moe_mlp(x[rows], weights[rows], experts[rows], gate_up, down), exact)


def moe_mlp_of_16384_tokens() -> str:
    chosen = torch.rand(16384, EXPERTS, device="cuda").argsort(1)[:, :SLOTS].int()
    return _moe(16384, chosen, *_experts(EXPERTS))


def moe_mlp_all_on_the_last_expert() -> str:
    chosen = torch.full((16384, SLOTS), EXPERTS - 1, dtype=torch.int32, device="cuda")
    return _moe(16384, chosen, *_experts(EXPERTS))


def moe_mlp_of_large_weights() -> str:
    count = PAST_INT32 // (2 * INTERMEDIATE * HIDDEN) + 2
    chosen = torch.full((70, 2), count - 1, dtype=torch.int32, device="cuda")
    chosen[:, 1] = torch.arange(70, device="cuda") % 2
    gate_up, down = _experts(count)
    used = torch.tensor([0, 1, count - 1], device="cuda")
    renamed = torch.searchsorted(used, chosen.long()).int()
    x, weights = random(70, HIDDEN), torch.rand(70, 2, device="cuda")
    exact = ops.moe_mlp_reference(x.float(), weights, renamed, gate_up[used].float(), down[used].float())
    y = ops.moe_mlp(x, weights, chosen, gate_up, down)
    return compare(y, ops.moe_mlp(x, weights, renamed, gate_up[used], down[used]), exact)


def _attention(batch: int, queries: int, keys: int) -> str:
    q = random(batch, queries, HEADS, HEAD_SIZE)
    k, v = random(batch, keys, HEADS, HEAD_SIZE), random(batch, keys, HEADS, HEAD_SIZE)
    out = ops.attention(q, k, v)
    last, some = slice(batch - 1, batch), [0, queries // 2, queries - 1]
    exact = ops.attention_reference(q[last][:, some].float(), k[last].float(), v[last].float())
    return compare(out[last][:, some], ops.attention(q[last], k[last], v[last])[:, some], exact)


def attention_of_16384_keys() -> str:
    return _attention(1, 16384, 16384)


def attention_of_a_large_batch() -> str:
    return _attention(PAST_INT32 // (256 * HEADS * HEAD_SIZE) + 1, 256, 256)


def token_confidence() -> str:
    hidden, head = random(16384, HIDDEN), random(VOCABULARY, HIDDEN, scale=HIDDEN**-0.5)
    rows = rows_to_see(len(hidden), VOCABULARY)
    whole, alone = ops.token_confidence(hidden, head), ops.token_confidence(hidden[rows], head)
    exact = ops.token_confidence_reference(hidden[rows], head)
    return compare(whole.logprob[rows], alone.logprob, exact.logprob)


def token_confidence_draws() -> str:
    hidden, head = random(16384, HIDDEN), random(VOCABULARY, HIDDEN, scale=HIDDEN**-0.5)
    keys, temperature = torch.arange(16384, device="cuda"), torch.linspace(0, 1.5, 16384, device="cuda")
    bias = torch.randint(VOCABULARY, (16384, 8), device="cuda"), torch.randn(16384, 8, device="cuda")
    rows = rows_to_see(len(hidden), VOCABULARY)
    extension().force_isa("sm80")  # the head's product is of that path
    logits = ops.linear(hidden[rows], head)
    extension().force_isa("")
    by_row = {"noise_keys": keys[rows], "temperature": temperature[rows], "bias": tuple(part[rows] for part in bias)}
    for cut in ({}, {"top_k": 50}, {"top_p": 0.9}, {"top_k": 256, "top_p": 0.5}):
        whole = ops.token_confidence(hidden, head, noise_keys=keys, temperature=temperature, bias=bias, seed=1, **cut)
        alone = ops.token_confidence(hidden[rows], head, seed=1, **by_row, **cut)
        exact = confidence_of_logits(logits, seed=1, **by_row, **cut)
        assert torch.equal(whole.token[rows], exact.token), f"other tokens with {cut}"
    return compare(whole.logprob[rows], alone.logprob, exact.logprob)


SHAPES: dict[str, tuple[str, Callable[[], str]]] = {
    "rms_norm": ("rms_norm", rms_norm),
    "qk_norm_rope": ("qk_norm_rope", qk_norm_rope),
    "linear": ("linear", linear),
    "permute": ("permute", permute),
    "expert_order": ("expert_order", expert_order),
    "router_topk": ("router_topk", router_topk),
    "moe_mlp_of_16384_tokens": ("moe_mlp", moe_mlp_of_16384_tokens),
    "moe_mlp_all_on_the_last_expert": ("moe_mlp", moe_mlp_all_on_the_last_expert),
    "moe_mlp_of_large_weights": ("moe_mlp", moe_mlp_of_large_weights),
    "attention_of_16384_keys": ("attention", attention_of_16384_keys),
    "attention_of_a_large_batch": ("attention", attention_of_a_large_batch),
    "token_confidence": ("token_confidence", token_confidence),
    "token_confidence_draws": ("token_confidence", token_confidence_draws),
}


def main() -> None:
    """Run the shape named on the command line; the last line says what came out."""
    op, shape = SHAPES[sys.argv[1]]
    if not has_cuda_kernel(op):
        print(f"left out: {op} has no CUDA kernel yet")
        return
    torch.manual_seed(0)
    text = shape()
    torch.cuda.synchronize()
    print(f"{text}, {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
