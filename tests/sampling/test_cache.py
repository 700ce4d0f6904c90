"""Cache policies: the windows they ask for, agreement with recomputing everything, and independence of the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llada_moe_ops import KeyValueCache, LLaDAMoEModel, generate, infill
from llada_moe_ops.sampling import CACHES, UNMASKERS
from llada_moe_ops.sampling.cache import DualCache, IntervalCache, PrefixCache, VicinityCache, Window
from torch import Tensor

from .models import load, random_prompts

KEEPING = [name for name in CACHES if name != "none"]
WINDOWS = ["prefix", "dual", "vicinity"]


class EverythingInAWindow:
    """Recomputes all positions through the cache."""

    def window(self, index: int, block: Tensor, lengths: Tensor) -> Window:
        return Window(torch.zeros_like(lengths), int(lengths.max()))


def test_windows() -> None:
    block, lengths = torch.tensor([[8, 9, 10, 11], [4, 5, 6, 7]]), torch.tensor([20, 16])
    prefix, dual = PrefixCache().window(1, block, lengths), DualCache().window(1, block, lengths)
    assert prefix is not None
    assert (prefix.start.tolist(), prefix.size) == ([8, 4], 12)
    assert dual is not None
    assert (dual.start.tolist(), dual.size) == ([8, 4], 4)
    vicinity = VicinityCache(neighbours=6, whole_steps=2)
    assert vicinity.window(1, block, lengths) is None
    around = vicinity.window(2, block, lengths)
    assert around is not None
    assert (around.start.tolist(), around.size) == ([2, 0], 16)


@pytest.mark.parametrize("options", [{}, {"cfg_scale": 0.7}, {"temperature": 0.6, "seed": 3}])
def test_recomputing_all_through_the_cache_changes_nothing(options: dict[str, Any]) -> None:
    model = load("base-fp32")
    prompts = [[5, 6, 7], [9, 10, 11, 12, 13, 14, 15], [8]]
    call: dict[str, Any] = {"gen_length": 16, "block_length": 8, **options}
    exact = generate(model, prompts, **call)
    kept = generate(model, prompts, cache=EverythingInAWindow(), **call)
    assert torch.equal(exact.sequences, kept.sequences)
    assert exact.forward_passes == kept.forward_passes


@pytest.mark.parametrize("cache", WINDOWS)
def test_one_step_a_block_is_exact(cache: str) -> None:
    model = load("base-fp32")
    call: dict[str, Any] = {"gen_length": 24, "block_length": 4, "steps": 6}
    prompts = random_prompts(2, 9)
    assert torch.equal(
        generate(model, prompts, cache=cache, **call).sequences, generate(model, prompts, **call).sequences
    )


def slow_generate(model: LLaDAMoEModel, prompt: Tensor, policy: str, gen_length: int, block_length: int) -> Tensor:
    """One row, one token a step, under "prefix" or "dual", written out plainly."""
    mask_token = model.config.mask_token_id
    tokens = torch.cat([prompt, torch.full((gen_length,), mask_token)])
    total = len(tokens)
    for start in range(len(prompt), total, block_length):
        end = start + block_length
        stop = total if policy == "prefix" else end
        cache = KeyValueCache(model, 1, total)
        hidden = model.hidden(tokens[None], cache=cache)[0, start:end]
        for _ in range(block_length):
            logits = model.head(hidden)
            logits[:, mask_token] = -torch.inf
            probability, token = logits.softmax(-1).max(-1)
            surest = int(probability.masked_fill(tokens[start:end] != mask_token, -1).argmax())
            tokens[start + surest] = token[surest]
            places = torch.arange(start, stop)[None]
            hidden = model.hidden(tokens[None, start:stop], None, places, cache)[0, :block_length]
    return tokens


@pytest.mark.parametrize("policy", ["prefix", "dual"])
def test_against_the_policy_written_out(policy: str) -> None:
    model = load("base-fp32")
    prompt = random_prompts(1, 7, seed=5)
    ours = generate(model, prompt, gen_length=24, block_length=8, cache=policy)
    assert torch.equal(ours.sequences[0], slow_generate(model, prompt[0], policy, 24, 8))


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    cache=st.sampled_from(KEEPING),
    block_length=st.sampled_from([4, 12]),
    unmasker=st.sampled_from(["fixed", "threshold:0.1", "prophet:early=1", "factor:2+editing:0.02+remask:cap,0.3"]),
    cfg_scale=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 1000),
)
def test_a_row_does_not_depend_on_its_batch(
    lengths: list[int], cache: str, block_length: int, unmasker: str, cfg_scale: float, seed: int
) -> None:
    model = load("base-fp32")
    prompts = [random_prompts(1, length, seed + index)[0].tolist() for index, length in enumerate(lengths)]
    call: dict[str, Any] = {
        "gen_length": 12, "block_length": block_length, "cfg_scale": cfg_scale, "temperature": 0.3, "cache": cache,
        "seed": seed, "unmasker": unmasker, "stop_at_eos": True, "eos_token_id": 17,
    }  # fmt: skip
    together = generate(model, prompts, **call).sequences
    for index, prompt in enumerate(prompts):
        alone = generate(model, [prompt], **call).sequences[0]
        assert torch.equal(together[index, -len(alone) :], alone)


@pytest.mark.parametrize("cache", KEEPING)
def test_infill_rows_that_leave_early(cache: str) -> None:
    model = load("base-fp32")
    mask_token = model.config.mask_token_id
    rows = random_prompts(3, 22, seed=2)
    rows[0, 3:9] = rows[1, 10:12] = rows[2, 1:21] = mask_token
    call: dict[str, Any] = {"block_length": 8, "cache": cache}
    together = infill(model, rows, **call).sequences
    for index, row in enumerate(rows):
        assert torch.equal(together[index], infill(model, row[None], **call).sequences[0])
        assert torch.equal(together[index][row != mask_token], row[row != mask_token])


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("rule", UNMASKERS)
def test_every_rule_runs_under_every_policy_or_is_refused(rule: str, cache: str) -> None:
    model = load("base-fp32")
    call: dict[str, Any] = {"gen_length": 8, "block_length": 4, "unmasker": rule, "cache": cache}
    if (rule, cache) in {("klass", "interval"), ("credit", "interval")}:
        with pytest.raises(ValueError, match="compares a step's predictions"):
            generate(model, [[5, 6], [7]], **call)
        return
    result = generate(model, [[5, 6], [7]], **call)
    assert not bool((result.completions == model.config.mask_token_id).any())


def test_bad_parameters() -> None:
    with pytest.raises(ValueError, match="neighbours must be at least 0, got -1"):
        VicinityCache(neighbours=-1)
    with pytest.raises(TypeError, match=r"an object with window\(\), got the class DualCache"):
        generate(load("base-fp32"), [[5]], gen_length=4, cache=DualCache)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="whole_steps must be at least 1, got 0"):
        VicinityCache(whole_steps=0)
    with pytest.raises(ValueError, match="prompt_interval must be at least 1, got 0"):
        IntervalCache(prompt_interval=0)
    with pytest.raises(TypeError, match="response_interval must be an int, got float"):
        IntervalCache(response_interval=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"share must be from 0 to 1, got 1\.5"):
        IntervalCache(share=1.5)
