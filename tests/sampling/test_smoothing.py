"""Iteration smoothing: against the loop written out, in any batch, under every policy, on any number of threads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llada_moe_ops import LLaDAMoEModel, generate
from llada_moe_ops.sampling import CACHES, Distributions, IterationSmoothing
from torch import Tensor

from .models import load, random_prompts

CALLS: list[dict[str, Any]] = [
    {},
    {"unmasker": "threshold:0.1,decay=0.2", "temperature": 0.4},
    {"unmasker": "threshold:0.1+editing:0.02"},
    {"unmasker": "fixed+remask:cap,0.3", "suppress_eos": True},
    {"unmasker": "factor:3", "cfg_scale": 0.6},
    {"unmasker": "random", "stop_at_eos": True, "eos_token_id": 136},
]


def prompts(lengths: list[int], seed: int = 0) -> list[list[int]]:
    return [random_prompts(1, length, seed + index)[0].tolist() for index, length in enumerate(lengths)]


def slow_generate(
    model: LLaDAMoEModel, prompt: Tensor, threshold: float, smoothing: IterationSmoothing
) -> tuple[Tensor, list[list[float]]]:
    """12 tokens in blocks of 6, dInfer's threshold rule on the mixed embeddings; and the probabilities of each step."""
    mask_token, embedding = model.config.mask_token_id, model.embed_tokens
    tokens = torch.cat([prompt, torch.full((12,), mask_token)])
    step, seen = 0, []
    for start in range(len(prompt), len(tokens), 6):
        here, inputs = slice(start, start + 6), embedding[tokens].clone()
        masked = torch.ones(6, dtype=torch.bool)
        while bool(masked.any()):
            added = (inputs - embedding[tokens])[None]
            logits = model.head(model.hidden(tokens[None], added=added)[0, here])
            choosable = logits.index_fill(1, torch.tensor([mask_token]), -torch.inf)
            token = choosable.argmax(-1)
            p = logits.softmax(-1)
            best = p[torch.arange(6), token].masked_fill(~masked, 0)
            needed = min(max(1 - 0.02 * step, threshold), float(best.max()) - 1e-5)
            commit = masked & (best >= needed)
            seen.append(best[commit].tolist())
            tokens[here] = torch.where(commit, token, tokens[here])
            masked &= ~commit
            weight = min(smoothing.start + smoothing.growth * step, smoothing.limit)
            inputs = embedding[tokens].clone()
            inputs[here][masked] += weight * (p @ embedding)[masked]
            step += 1
    return tokens, seen


@pytest.mark.parametrize("smoothing", [IterationSmoothing(), IterationSmoothing(0.3, 0.2, 0.6)], ids=str)
@torch.no_grad()
def test_against_the_loop_written_out(smoothing: IterationSmoothing) -> None:
    model, prompt = load("base-fp32"), random_prompts(1, 6, seed=3)
    expected, seen = slow_generate(model, prompt[0], 0.3, smoothing)
    call: dict[str, Any] = {"gen_length": 12, "block_length": 6, "unmasker": "threshold:0.3,decay=0.02"}
    ours = generate(model, prompt, smoothing=smoothing, **call)
    assert torch.equal(ours.sequences[0], expected)
    for step, probabilities in zip(ours.trace.steps, seen, strict=True):
        torch.testing.assert_close(step.probabilities, torch.tensor(probabilities), rtol=1e-4, atol=1e-6)
    plain = generate(model, prompt, **call)
    assert plain.trace.steps[0].probabilities.equal(ours.trace.steps[0].probabilities)
    assert plain.trace.to_dict() != ours.trace.to_dict()


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 15), min_size=2, max_size=4),
    cache=st.sampled_from([*CACHES, "interval:5,2"]),
    call=st.sampled_from(CALLS),
    bf16=st.booleans(),
    seed=st.integers(0, 100),
)
def test_a_row_does_not_depend_on_its_batch(
    lengths: list[int], cache: str, call: dict[str, Any], bf16: bool, seed: int
) -> None:
    model = load("base-fp32", torch.bfloat16 if bf16 else torch.float32)
    call = {"gen_length": 12, "block_length": 4, "seed": seed, "cache": cache, "smoothing": "iteration:1,1,9", **call}
    ids = prompts(lengths, seed)
    together = generate(model, ids, **call)
    for row, prompt in enumerate(ids):
        assert torch.equal(together.completions[row], generate(model, [prompt], **call).completions[0])


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_threads_change_no_bit_and_weight_zero_nothing(call: dict[str, Any]) -> None:
    model, ids, traces = load("base-fp32"), prompts([3, 9, 6]), []
    call = {"gen_length": 12, "block_length": 6, "seed": 1, **call}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        traces.append(generate(model, ids, smoothing="iteration", **call).trace.to_json())
    assert traces[0] == traces[1]
    plain = generate(model, ids, **call).trace.to_json()
    assert traces[0] != plain
    assert generate(model, ids, smoothing="iteration:0,0", **call).trace.to_json() == plain


def test_added_embeddings() -> None:
    model, (a, b) = load("base-fp32"), random_prompts(2, 9)
    difference = (model.embed_tokens[b] - model.embed_tokens[a])[None]
    torch.testing.assert_close(model.hidden(a[None], added=difference), model.hidden(b[None]), rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="added must be float32, got bfloat16"):
        model.hidden(a[None], added=difference.bfloat16())
    with pytest.raises(ValueError, match=r"added must have shape \[1, 9, 64\]"):
        model.hidden(a[None], added=difference[:, 1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_expected_embeddings(dtype: torch.dtype) -> None:
    """Within twice the error of the same product in PyTorch; also once the embedding is another, or is trained."""
    make = torch.Generator().manual_seed(0)
    model = LLaDAMoEModel(load("base-fp32").config).to(dtype).requires_grad_(False)
    shape, kept = model.embed_tokens.shape, []  # so that no tensor has the address of an earlier one
    for trained in (False, False, True):
        kept.append(torch.randn(shape, generator=make).to(dtype))
        if trained:
            model.requires_grad_(True)
            model.expected_embedding(torch.zeros(1, shape[0], dtype=dtype))
            model.embed_tokens.copy_(kept[-1])
        else:
            model.embed_tokens.data = kept[-1]
        p = torch.randn(5, shape[0], generator=make).softmax(-1).to(dtype)
        exact = p.double() @ kept[-1].double()
        found = model.expected_embedding(p)
        assert (found.double() - exact).norm() <= 2 * ((p @ kept[-1]).double() - exact).norm()
        assert torch.equal(model.expected_embedding(p[3:4])[0], found[3])


def test_expectation_without_forbidden_tokens() -> None:
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    row, index = torch.arange(20), torch.tensor([3, 0, 19, *range(1, 18)])
    allowed = logits.clone()
    allowed[:, [2, 5]] = -torch.inf
    whole = Distributions(logits, allowed.logsumexp(-1), torch.eye(7), [2, 5], row, row, 0 * row, 1)
    torch.testing.assert_close(whole.expected(index, lambda p: p), allowed.softmax(-1)[index])


@pytest.mark.parametrize(
    ("smoothing", "error", "message"),
    [
        ("iteraton", ValueError, "smoothing must be one of 'none', 'iteration', .* did you mean 'iteration'"),
        ("iteration:limit=-1", ValueError, "limit must be finite and not negative, got -1"),
        ("iteration:a", TypeError, "start must be a number, got str"),
        ("none:1", ValueError, "smoothing 'none' must have no parameters"),
        (0.3, TypeError, "smoothing must be a name or an IterationSmoothing, got float"),
    ],
)
def test_errors(smoothing: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        generate(load("base-fp32"), [[5, 6]], gen_length=4, smoothing=smoothing)
