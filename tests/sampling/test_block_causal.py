"""The cache for block-causal models: the bits and passes of recomputing everything, and how little it computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llada_moe_ops import LLaDAMoEModel, generate, infill
from llada_moe_ops.model.inputs import KeyMask, Place
from llada_moe_ops.sampling import (
    GenerationResult,
    Growth,
    NonFiniteLogitsError,
    Request,
    generate_requests,
    predictor,
)
from llada_moe_ops.sampling.cache import BlockCausalCache
from llada_moe_ops.sampling.forward import Canvases
from torch import Tensor

from tests.golden import GOLDEN

from .models import load, random_prompts

CALLS: list[dict[str, Any]] = [
    {},
    {"unmasker": "threshold:0.1"},
    {"unmasker": "threshold:0.1+editing:0.02", "temperature": 0.4},
    {"unmasker": "factor:3", "cfg_scale": 0.6, "temperature": 0.3},
    {"unmasker": "random", "stop_at_eos": True, "eos_token_id": 136},
    {"steps": 6, "unmasker": "entropy_bound:1"},
]


class Uncached:
    """Recomputes the whole canvas at every step under the same mask."""

    def __init__(self, model: LLaDAMoEModel, policy: Any, *_: Any) -> None:
        self.model, self.policy = model, policy

    def __call__(self, canvases: Canvases, row: Tensor, position: Tensor) -> Tensor:
        size = canvases.block.shape[1]
        return self.model.hidden(canvases.tokens, canvases.mask, block_size=size)[row, position]


def uncached(monkeypatch: pytest.MonkeyPatch, call: Any) -> GenerationResult:
    with monkeypatch.context() as patch:
        patch.setattr(predictor, "build_forward", Uncached)
        result: GenerationResult = call()
    return result


def prompts(lengths: list[int], seed: int = 0) -> list[list[int]]:
    return [random_prompts(1, length, seed + index)[0].tolist() for index, length in enumerate(lengths)]


def slow_generate(model: LLaDAMoEModel, prompt: Tensor, gen_length: int, width: int) -> Tensor:
    """One row, one token a step, no cache; blocks begin at multiples of ``width``."""
    mask_token = model.config.mask_token_id
    tokens = torch.cat([prompt, torch.full((gen_length,), mask_token)])
    to_fill = torch.arange(len(tokens)) >= len(prompt)
    for end in range(width, len(tokens) + width, width):
        end = min(end, len(tokens))
        here = torch.arange(len(tokens)) // width == (end - 1) // width
        while bool((to_fill & here).any()):
            block = torch.arange(end)[None] // width
            seen = KeyMask(mask=block[:, :, None] >= block[:, None, :])
            logits = model.head(model.run(tokens[None, :end], Place(torch.arange(end)[None], seen, None))[0])
            logits[:, mask_token] = -torch.inf
            probability, token = logits.softmax(-1).max(-1)
            surest = int(probability.masked_fill(~(to_fill & here)[:end], -1).argmax())
            tokens[surest], to_fill[surest] = token[surest], False
    return tokens


@pytest.mark.parametrize(("length", "width"), [(1, 4), (7, 8), (8, 8), (9, 4), (13, 24)])
def test_against_the_policy_written_out(length: int, width: int) -> None:
    model, prompt = load("base-fp32"), random_prompts(1, length, seed=length)
    ours = generate(model, prompt, gen_length=24, block_length=width, cache="block_causal")
    assert torch.equal(ours.sequences[0], slow_generate(model, prompt[0], 24, width))


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 19), min_size=1, max_size=4),
    width=st.sampled_from([2, 4, 12]),
    call=st.sampled_from(CALLS),
    bf16=st.booleans(),
    seed=st.integers(0, 100),
)
def test_the_uncached_run_bit_for_bit(
    lengths: list[int], width: int, call: dict[str, Any], bf16: bool, seed: int
) -> None:
    model = load("base-fp32", torch.bfloat16 if bf16 else torch.float32)
    ids = prompts(lengths, seed)
    call = {"gen_length": 12, "block_length": width, "cache": "block_causal", "seed": seed, **call}
    kept = generate(model, ids, **call)
    with pytest.MonkeyPatch.context() as patch:
        expected = uncached(patch, lambda: generate(model, ids, **call))
    assert kept.trace.to_dict() == expected.trace.to_dict()
    assert kept.forward_passes == expected.forward_passes
    for index, prompt in enumerate(ids):
        alone = generate(model, [prompt], **call).completions[0]
        assert torch.equal(kept.completions[index], alone)


def test_infilled_rows_that_skip_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("base-fp32")
    rows = random_prompts(4, 30, seed=2)
    mask_token = model.config.mask_token_id
    for row, start, stop in ((0, 3, 9), (0, 26, 29), (1, 10, 12), (2, 1, 30), (3, 20, 22)):
        rows[row, start:stop] = mask_token
    ids = [rows[0].tolist(), rows[1, :27].tolist(), rows[2].tolist(), rows[3, :23].tolist()]
    call: dict[str, Any] = {"block_length": 8, "cache": BlockCausalCache(), "unmasker": "threshold:0.05"}
    kept = infill(model, ids, **call)
    expected = uncached(monkeypatch, lambda: infill(model, ids, **call))
    assert kept.trace.to_dict() == expected.trace.to_dict()
    for index, row in enumerate(ids):
        assert torch.equal(kept.sequences[index, -len(row) :], infill(model, [row], **call).sequences[0])


def test_whole_passes_have_the_mask_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that find a reply's length, and the one that finds where numbers stopped being finite."""
    hidden, sizes = LLaDAMoEModel.hidden, []

    def watched(model: LLaDAMoEModel, *arguments: Any, block_size: int | None = None, **named: Any) -> Tensor:
        sizes.append(block_size)
        return hidden(model, *arguments, block_size=block_size, **named)

    model, grow = load("base-fp32"), Growth(initial=4, most=12, stride=4)
    call: dict[str, Any] = {"block_length": 4, "cache": "block_causal", "grow": grow, "eos_token_id": 17}
    with monkeypatch.context() as patch:
        patch.setattr(LLaDAMoEModel, "hidden", watched)
        patch.setattr(predictor, "build_forward", Uncached)
        generate(model, prompts([5, 9]), **call)
        generate_requests(model, [Request(row) for row in prompts([5, 9])], **call)
        grown = len(sizes)
        broken = LLaDAMoEModel.from_pretrained(GOLDEN / "base-fp32", dtype=torch.float32)
        broken.norm.weight.data.fill_(torch.nan)
        with pytest.raises(NonFiniteLogitsError):
            generate(broken, prompts([5]), gen_length=8, block_length=4, cache="block_causal")
    assert set(sizes) == {4}
    assert len(sizes) == grown + 2  # the step's and the search's


def test_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt once, each block at its steps, and once more beside the next block."""
    run, widths = LLaDAMoEModel.run, []

    def watched(model: LLaDAMoEModel, input_ids: Tensor, *rest: Any) -> Tensor:
        widths.append(input_ids.shape[1])
        return run(model, input_ids, *rest)

    monkeypatch.setattr(LLaDAMoEModel, "run", watched)
    generate(load("base-fp32"), prompts([18]), gen_length=12, block_length=4, cache="block_causal")
    assert widths == [20, 4, 8, 4, 4, 4, 8, 4, 4, 4, 8, 4]
