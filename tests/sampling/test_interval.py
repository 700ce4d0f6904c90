"""The interval cache: against the policy written out, at intervals and shares that leave nothing out, in any batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llada_moe_ops import LLaDAMoEModel, generate, infill, ops
from llada_moe_ops.model.model import Layer
from llada_moe_ops.sampling.cache import IntervalCache
from llada_moe_ops.sampling.forward import Canvases
from llada_moe_ops.sampling.interval import IntervalForward
from torch import Tensor

from .models import load, random_prompts

CALLS: list[dict[str, Any]] = [
    {},
    {"unmasker": "threshold:0.1", "temperature": 0.4},
    {"unmasker": "threshold:0.1+editing:0.02"},
    {"unmasker": "factor:3", "cfg_scale": 0.6},
    {"unmasker": "random", "stop_at_eos": True, "eos_token_id": 136},
]


def prompts(lengths: list[int], seed: int = 0) -> list[list[int]]:
    return [random_prompts(1, length, seed + index)[0].tolist() for index, length in enumerate(lengths)]


class Slow:
    """One canvas, token by token in Python: what each layer keeps of each position."""

    def __init__(self, model: LLaDAMoEModel, to_fill: Tensor, policy: IntervalCache) -> None:
        self.model, self.policy, self.steps = model, policy, 0
        self.response = to_fill.nonzero().flatten().tolist()
        self.given = (~to_fill).nonzero().flatten().tolist()
        self.k, self.v, self.attended, self.experts = ([{} for _ in model.layers] for _ in range(4))

    def step(self, tokens: Tensor) -> dict[int, Tensor]:
        """Final hidden states of the response."""
        whole = self.steps % self.policy.response_interval == 0
        prompt = self.steps % self.policy.prompt_interval == 0
        self.steps += 1
        x = {place: self.model.embed_tokens[tokens[place]][None, None] for place in range(len(tokens))}
        flowing = self.response + (self.given if prompt else [])
        for index, layer in enumerate(self.model.layers):
            made = {}
            for place in flowing:
                made[place] = layer.self_attn.project(layer.input_layernorm(x[place]), torch.tensor([[place]]))
            chosen = set(self.response)
            if not whole and index:
                turned = [
                    (float(torch.cosine_similarity(made[place][2].flatten(), self.v[index][place].flatten(), 0)), place)
                    for place in self.response
                ]
                count = math.floor(self.policy.share * len(self.response))
                chosen = {place for _, place in sorted(turned)[:count]}
            chosen |= set(flowing) - set(self.response)
            for place in flowing:
                self.v[index][place] = made[place][2]
                if place in chosen:
                    self.k[index][place] = made[place][1]
            keys, values = (torch.cat([kept[place] for place in range(len(tokens))], 1) for kept in self.kept(index))
            for place in flowing:
                if place in chosen:
                    out = ops.attention(made[place][0], keys, values)
                    self.attended[index][place] = layer.self_attn.o_proj(out.flatten(2))
                middle = x[place] + self.attended[index][place]
                if place in chosen:
                    h = layer.post_attention_layernorm(middle)
                    self.experts[index][place] = layer.feed_forward(h)
                x[place] = middle + self.experts[index][place]
        return {place: self.model.norm(x[place])[0, 0] for place in self.response}

    def kept(self, index: int) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        return self.k[index], self.v[index]


@pytest.mark.parametrize(
    "policy",
    [
        IntervalCache(share=0.5),
        IntervalCache(prompt_interval=3, response_interval=4, share=0.3),
        IntervalCache(prompt_interval=2, response_interval=5, share=0.0),
        IntervalCache(prompt_interval=5, response_interval=100, share=0.75),
    ],
    ids=str,
)
@torch.no_grad()
def test_against_the_policy_written_out(monkeypatch: pytest.MonkeyPatch, policy: IntervalCache) -> None:
    """Hidden states, bit for bit, of rows that wait for each other and leave."""
    model, ids = load("base-fp32"), prompts([5, 7, 3])
    call, seen = IntervalForward.__call__, []

    def checked(passes: IntervalForward, canvases: Canvases, row: Tensor, position: Tensor) -> Tensor:
        hidden = call(passes, canvases, row, position)
        for index, number in enumerate(canvases.rows.tolist()):
            found = slow[number].step(canvases.tokens[index, : canvases.lengths[index]])
            for place, one in zip(position[row == index].tolist(), hidden[row == index], strict=True):
                assert torch.equal(one, found[place])
                seen.append(float(one.norm()))
        return hidden

    slow = [Slow(model, torch.arange(len(row) + 12) >= len(row), policy) for row in ids]
    monkeypatch.setattr(IntervalForward, "__call__", checked)
    generate(model, ids, gen_length=12, block_length=4, cache=policy, unmasker="threshold:0.12")
    assert len(seen) > 40
    assert min(seen) > 0


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 15), min_size=1, max_size=4),
    cache=st.sampled_from(["interval:1,1,0", "interval:1,7,1", "interval:prompt_interval=1,share=1"]),
    call=st.sampled_from(CALLS),
    bf16=st.booleans(),
    seed=st.integers(0, 100),
)
def test_recomputing_all_changes_nothing(
    lengths: list[int], cache: str, call: dict[str, Any], bf16: bool, seed: int
) -> None:
    model = load("base-fp32", torch.bfloat16 if bf16 else torch.float32)
    call = {"gen_length": 12, "block_length": 6, "seed": seed, **call}
    exact, kept = (generate(model, prompts(lengths, seed), cache=name, **call) for name in ("none", cache))
    assert kept.trace.to_dict() == exact.trace.to_dict()
    assert kept.forward_passes == exact.forward_passes


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 15), min_size=2, max_size=4),
    policy=st.builds(IntervalCache, st.integers(1, 9), st.integers(2, 5), st.sampled_from([0.0, 0.2, 0.5])),
    call=st.sampled_from(CALLS),
    bf16=st.booleans(),
    seed=st.integers(0, 100),
)
def test_a_row_does_not_depend_on_its_batch(
    lengths: list[int], policy: IntervalCache, call: dict[str, Any], bf16: bool, seed: int
) -> None:
    """Also where rows have waited for others, so that they are at different steps."""
    model = load("base-fp32", torch.bfloat16 if bf16 else torch.float32)
    call = {"gen_length": 12, "block_length": 4, "seed": seed, "cache": policy, **call}
    ids = prompts(lengths, seed)
    together = generate(model, ids, **call)
    for row, prompt in enumerate(ids):
        alone = generate(model, [prompt], **call)
        assert torch.equal(together.completions[row], alone.completions[0])
        assert together.row_steps[row] == alone.row_steps[0]


def test_infilled_rows() -> None:
    model = load("base-fp32")
    mask_token = model.config.mask_token_id
    rows = random_prompts(3, 30, seed=2)
    for row, start, stop in ((0, 3, 9), (0, 26, 29), (1, 10, 12), (2, 1, 30)):
        rows[row, start:stop] = mask_token
    ids = [rows[0].tolist(), rows[1, :27].tolist(), rows[2].tolist()]
    call: dict[str, Any] = {"block_length": 8, "cache": "interval:5,3", "unmasker": "threshold:0.1"}
    kept = infill(model, ids, **call)
    for index, row in enumerate(ids):
        found = kept.sequences[index, -len(row) :]
        assert torch.equal(found, infill(model, [row], **call).sequences[0])
        given_tokens = torch.tensor(row) != mask_token
        assert torch.equal(found[given_tokens], torch.tensor(row)[given_tokens])


def test_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    feed_forward, tokens = Layer.feed_forward, []

    def watched(layer: Layer, h: Tensor, *rest: Any) -> Tensor:
        tokens.append(h.shape[1])
        return feed_forward(layer, h, *rest)

    monkeypatch.setattr(Layer, "feed_forward", watched)
    generate(load("base-fp32"), prompts([9]), gen_length=8, cache="interval:4,3")
    # Of two layers: all; the response and a quarter; the same; the response; prompt and a quarter; ...
    assert tokens == [17, 17, 8, 2, 8, 2, 8, 8, 17, 11, 8, 2, 8, 8, 8, 2]


@pytest.mark.parametrize("rule", ["klass", "credit", "credit+editing", "klass+remask:cap+editing"])
def test_rules_that_compare_steps_are_refused(rule: str) -> None:
    call: dict[str, Any] = {"gen_length": 6, "unmasker": rule}
    with pytest.raises(ValueError, match=r"unmasker (Klass|Credit)Unmasker compares .* cache 'interval' repeats"):
        generate(load("base-fp32"), [[5, 6]], cache="interval", **call)
    for cache in ("interval:share=1", "interval:response_interval=1"):
        generate(load("base-fp32"), [[5, 6]], cache=cache, **call)
