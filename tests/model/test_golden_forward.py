"""The model against recorded forward passes of the published code, in fp32 and bf16."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from llada_moe_ops import LLaDAMoEModel
from torch import Tensor

from tests.golden import GOLDEN, facts, forward_cases, tensors

FP32_TOLERANCE = 1e-4
BF16_CASES = [(name, case) for name, case in forward_cases() if name.endswith("bf16")]


@cache
def load(name: str, dtype: torch.dtype, pack: bool = True) -> LLaDAMoEModel:
    return LLaDAMoEModel.from_pretrained(GOLDEN / name, dtype=dtype, pack=pack).requires_grad_(False)


def largest_difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    assert bool(b.abs().amax() > 0), "a reference of zeros proves nothing"
    return (a.float() - b.float()).abs().max().item()


@pytest.mark.parametrize("pack", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize(("name", "case"), forward_cases())
def test_fp32_logits(name: str, case: str, pack: bool) -> None:
    recorded = tensors(f"{name}/forward")
    model = load(name, torch.float32, pack)
    logits = model(recorded[f"{case}/input_ids"].long()).logits
    assert largest_difference(logits, recorded[f"{case}/fp32/logits"]) < FP32_TOLERANCE


@pytest.mark.parametrize(("name", "case"), BF16_CASES)
def test_bf16_error_is_within_twice_the_published_code(name: str, case: str) -> None:
    recorded, context = tensors(f"{name}/forward"), facts(f"{name}/forward")[case]
    logits = load(name, torch.bfloat16)(recorded[f"{case}/input_ids"].long()).logits
    assert logits.dtype == torch.bfloat16
    error = (logits.float() - recorded[f"{case}/fp32/logits"]).square().mean().sqrt().item()
    assert error <= 2 * max(context["bf16_rms"], context["bf16_eager_rms"])


@pytest.mark.parametrize("name", sorted({name for name, case in forward_cases() if case == "leftpad"}))
def test_key_padding(name: str) -> None:
    """Padded keys are attended to by nobody; real positions equal the row run alone, bit for bit."""
    recorded = tensors(f"{name}/forward")
    model = load(name, torch.float32)
    ids, mask = recorded["leftpad/input_ids"].long(), recorded["leftpad/attention_mask"]
    logits = model(ids, mask).logits
    for row in range(ids.shape[0]):
        real = mask[row].bool()
        expected = recorded["leftpad/fp32_key_padding/logits"][row, real]
        assert largest_difference(logits[row, real], expected) < FP32_TOLERANCE


@pytest.mark.parametrize(("name", "case"), [pair for pair in forward_cases() if pair[1] in ("b1_len7", "leftpad")])
def test_every_intermediate(name: str, case: str) -> None:
    """Residual stream, attention and expert outputs, router logits, choices and weights, layer by layer."""
    recorded = {
        key.removeprefix(f"{case}/fp32/"): value
        for key, value in tensors(f"{name}/forward").items()
        if key.startswith(f"{case}/fp32/")
    }
    model = load(name, torch.float32, False)
    seen: dict[str, Any] = {}
    hooks = []
    for index, layer in enumerate(model.layers):
        for kind, module in (("hidden", layer), ("attn_out", layer.self_attn), ("mlp_out", layer.mlp)):
            key = f"{kind}.layer{index}"
            hooks.append(module.register_forward_hook(lambda _m, _i, out, key=key: seen.update({key: out})))
    router_logits: list[Tensor] = []
    ids = tensors(f"{name}/forward")[f"{case}/input_ids"].long()
    seen["hidden.final_norm"] = model.hidden(ids, router_logits=router_logits)
    for hook in hooks:
        hook.remove()
    for index in range(len(model.layers)):
        update, residual = seen[f"hidden.layer{index}"]
        seen[f"hidden.layer{index}"] = update + residual
    expert_layers = [index for index in range(len(model.layers)) if model.config.is_expert_layer(index)]
    for index, logits in zip(expert_layers, router_logits, strict=True):
        seen[f"router_logits.layer{index}"] = logits.view(*ids.shape, -1)
        weights, experts = model.layers[index].mlp.choose(logits)
        seen[f"topk_weight.layer{index}"] = weights.view(*ids.shape, -1)
        assert torch.equal(experts.view(*ids.shape, -1).int(), recorded[f"topk_index.layer{index}"])
    compared = seen.keys() & recorded.keys()
    assert len(compared) >= 1 + 3 * len(model.layers)
    for key in compared:
        assert largest_difference(seen[key], recorded[key]) < FP32_TOLERANCE, key
