"""A request's tokens and probabilities are the same bits alone, in a batch, padded, and on any number of threads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llada_moe_ops.sampling import GenerationResult, generate, infill
from llada_moe_ops.sampling.noise import CounterNoise, Draw

from .models import load, random_prompts

PROMPTS = [row[:length].tolist() for row, length in zip(random_prompts(4, 12), (3, 12, 7, 1), strict=True)]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8, "seed": 11},
    {"temperature": 2.5, "top_k": 40, "top_p": 0.8, "seed": 4},
    {"temperature": 0.5, "remasking": "random", "seed": 3},
    {"cfg_scale": 1.2},
    {"suppress_eos_confidence": True, "eot_token_id": 9, "temperature": 0.7, "seed": 5},
    {"steps": 6},
]
DTYPES = [torch.float32, torch.bfloat16]


def row_trace(result: GenerationResult, row: int) -> list[tuple[int, int, int, float]]:
    """What was committed in a row, positions counted from the end so that padding does not matter."""
    columns = result.sequences.shape[1]
    return [
        (step, position - columns, token, probability)
        for entry in map(lambda one: one.to_dict(), result.trace.steps)
        for step, where, position, token, probability in zip(
            [entry["step"]] * len(entry["rows"]),
            entry["rows"],
            entry["positions"],
            entry["tokens"],
            entry["probabilities"],
            strict=True,
        )
        if where == row
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_alone_in_a_batch_and_padded(options: dict[str, Any], dtype: torch.dtype) -> None:
    model = load("base-fp32", dtype)
    together = generate(model, PROMPTS, gen_length=12, block_length=6, **options)
    for row, prompt in enumerate(PROMPTS):
        alone = generate(model, [prompt], gen_length=12, block_length=6, **options)
        assert torch.equal(alone.completions[0], together.completions[row])
        assert row_trace(alone, 0) == row_trace(together, row)
        padded = torch.nn.functional.pad(torch.tensor([prompt]), (19, 0), value=2)
        mask = torch.nn.functional.pad(torch.ones(1, len(prompt)), (19, 0))
        left = generate(model, padded, attention_mask=mask, gen_length=12, block_length=6, **options)
        assert torch.equal(left.completions[0], together.completions[row])
        assert row_trace(left, 0) == row_trace(together, row)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_threads_change_no_bit(options: dict[str, Any]) -> None:
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(generate(load("base-fp32"), PROMPTS, gen_length=12, **options).trace.to_json())
    assert results[0] == results[1]


def test_infilled_rows_do_not_depend_on_each_other() -> None:
    """Nor does their noise, though a row that has fewer masks in a block waits there for the others."""
    model, rows = load("base-fp32"), [[5, 3, 7, 3, 3], [8, 3], [3, 9, 9, 3, 3, 3, 4]]
    options: list[dict[str, Any]] = [{}, {"steps": 2}, {"block_length": 3, "temperature": 2.0, "seed": 6}]
    for call in options:
        together = infill(model, rows, **call)
        for index, row in enumerate(rows):
            alone = infill(model, [row], **call)
            assert torch.equal(alone.sequences[0], together.sequences[index, -len(row) :])


def test_the_seed_decides() -> None:
    model = load("base-fp32")

    def tokens(seed: int | list[int] | None) -> list[list[int]]:
        prompts = [PROMPTS[1], PROMPTS[1]]
        return generate(model, prompts, gen_length=16, temperature=1.5, seed=seed).completions.tolist()

    first = tokens(4)
    assert first == tokens(4)
    assert first[0] != first[1], "copies of a prompt draw their own noise"
    assert first != tokens(5)
    assert tokens([4, 5])[0] == first[0]
    assert tokens([4, 5])[1] == tokens(5)[0]
    torch.manual_seed(8)
    free = tokens(None)
    assert free != tokens(None)
    torch.manual_seed(8)
    assert free == tokens(None)


@settings(max_examples=25, deadline=None)
@given(step=st.integers(0, 10_000), request_key=st.integers(-(2**63), 2**63 - 1))
def test_noise_is_uniform_and_its_keys_differ(step: int, request_key: int) -> None:
    noise = CounterNoise(torch.tensor([request_key, request_key ^ 1]))
    rows, positions = torch.tensor([0, 1]).repeat_interleave(2000), torch.arange(2000).repeat(2)
    draw = Draw(0, rows, positions, torch.full_like(rows, step))
    assert noise.keys(draw).unique().numel() == 4000
    uniform = noise.uniform(draw)
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1
    assert abs(float(uniform.mean()) - 0.5) < 6 / (12 * 4000) ** 0.5
    assert not torch.equal(noise.keys(draw), noise.keys(Draw(0, rows, positions, draw.row_steps + 1)))


def test_temperature_samples_the_softmax() -> None:
    """Frequencies over many seeds against the probabilities, at a position where they are spread."""
    model, prompt = load("base-fp32"), PROMPTS[1]
    logits = model(torch.tensor([[*prompt, 3]])).logits[0, -1].float()
    logits[3] = -torch.inf
    count, temperature = 3000, 0.7
    sampled = generate(
        model, [prompt] * count, gen_length=1, temperature=temperature, seed=list(range(count))
    ).completions.squeeze(1)
    expected = (logits / temperature).softmax(-1)
    observed = torch.bincount(sampled, minlength=256) / count
    assert float(expected.max()) < 0.9, "a certain token proves nothing"
    deviation = (expected * (1 - expected) / count).sqrt()
    assert bool(((observed - expected).abs() <= 5 * deviation + 2 / count).all())
