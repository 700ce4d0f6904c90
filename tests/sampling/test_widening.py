"""Masks inserted while a reply is written: the rule written out, the trace, independence of other rows, errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from llada_moe_ops.sampling import Growth, Request, generate, generate_requests
from llada_moe_ops.sampling.trace import repeat

from .models import load, random_prompts

END, MASK = 167, 3
GROWTH = Growth(initial=3, most=17, stride=2, threshold=0.0, window=2, widen=3, unsure=0.25, sure_end=0.9)


def slow_reply(
    prompt: Sequence[int], growth: Growth, end: int, threshold: float, width: int
) -> tuple[list[int], int, int]:
    """The reply, its steps and the passes of widening; one prompt, whole distributions, one position after another."""
    model = load("base-fp32")
    (length,), _ = growth.lengths(model, [torch.tensor(prompt)], MASK, end)
    tokens, masked = [*prompt, *[MASK] * length], [False] * len(prompt) + [True] * length
    steps = passes = 0
    start = len(prompt)
    while start < len(tokens):
        block = range(start, min(start + width, len(tokens)))
        if not any(masked[place] for place in block):
            start += width
            continue
        probabilities = model(torch.tensor([tokens])).logits[0].float().softmax(-1)
        probabilities[:, MASK] = 0
        sure, best = (each.tolist() for each in probabilities.max(-1))
        steps += 1
        left = [place for place in block if masked[place]]
        needed = min(threshold, max(sure[place] for place in left) - 1e-5)
        commit = [place for place in left if sure[place] >= needed]
        unsure = [place for place in left if place not in commit and sure[place] < growth.unsure]
        wide = None
        if unsure and len(tokens) - len(prompt) + growth.widen - 1 <= growth.most:
            passes += 1
            ends = [sure[place] for place in reversed(range(len(prompt), len(tokens))) if best[place] == end]
            if sum(ends[: growth.window]) / growth.window < growth.sure_end:
                wide = min(unsure, key=lambda place: (sure[place], place))
        for place in commit:
            tokens[place], masked[place] = best[place], False
        if wide is not None:
            tokens[wide:wide] = [MASK] * (growth.widen - 1)
            masked[wide:wide] = [True] * (growth.widen - 1)
    return tokens[len(prompt) :], steps, passes


def test_against_the_rule_written_out() -> None:
    """With an end that is sometimes seen: replies that stop growing, and some that grow as far as they may."""
    model, grown_by = load("base-fp32"), []
    assert model.config.mask_token_id == MASK
    for seed in range(8):
        prompt = random_prompts(1, 3 + seed, seed)[0].tolist()
        end = int(model(torch.tensor([prompt + [MASK] * 6])).logits[0, -1].argmax())
        growth = replace(GROWTH, sure_end=(0.9, 0.04)[seed % 2])
        (length,), grown = growth.lengths(model, [torch.tensor(prompt)], MASK, end)
        call: dict[str, Any] = {"unmasker": "threshold:0.4", "block_length": 5, "eos_token_id": end}
        reply, steps, passes = slow_reply(prompt, growth, end, 0.4, 5)
        result = generate(model, [prompt], grow=growth, **call)
        assert result.completions.tolist() == [reply]
        assert result.steps == steps
        assert result.forward_passes == grown + steps + passes
        assert torch.equal(result.trace.states()[-1], result.sequences)
        assert bool((result.trace.commit_steps()[0, len(prompt) :] >= 0).all())
        told = [step.to_dict()["widened"] for step in result.trace.steps if step.widened is not None]
        assert len(told) == (len(reply) - length) // 2
        assert all(one["more"] == 2 and one["rows"] == [0] for one in told)
        grown_by.append(len(reply) - length)
    assert max(grown_by) == 14
    assert len(set(grown_by)) > 2


@pytest.mark.parametrize(
    "rule", ["threshold:0.4", "factor:1.5", "entropy_bound:4", "hierarchical:0.4,0.2", "localleap"]
)
def test_a_reply_depends_on_its_request_alone(rule: str) -> None:
    model = load("base-fp32")
    prompts = [random_prompts(1, length, length)[0].tolist() for length in (9, 4, 12)]
    requests = [
        Request(prompts[0], unmasker=rule, temperature=0.7, seed=1),
        Request(prompts[1], 11, unmasker="margin"),
        Request(prompts[2], unmasker=rule, stop=[[5, 6]]),
        Request(prompts[1], unmasker="threshold:0.3", stop_at_eos=False),
    ]
    call: dict[str, Any] = {"grow": GROWTH, "eos_token_id": END}
    together = generate_requests(model, requests, **call)
    assert together == [generate_requests(model, [request], **call)[0] for request in requests]
    assert len(together[1].tokens) == 11
    assert len(together[3].tokens) > 3
    assert all(step >= 0 for result in together for step in result.commit_steps)
    rows = generate(model, prompts, **call, unmasker=rule)
    for row, prompt in enumerate(prompts):
        alone = generate(model, [prompt], **call, unmasker=rule).completions[0].tolist()
        found = rows.completions[row].tolist()
        assert found == alone + [END] * (len(found) - len(alone))


def test_a_reply_that_may_not_be_longer_is_not_widened() -> None:
    model = load("base-fp32")
    growth = Growth(initial=9, most=9, widen=2, unsure=1.0, sure_end=1.0)
    result = generate(model, [[5, 6]], grow=growth, unmasker="threshold:0.9", eos_token_id=END)
    assert result.completions.shape == (1, 9)
    assert all(step.widened is None for step in result.trace.steps)


def test_repeat() -> None:
    values = torch.arange(12).view(2, 6)
    assert repeat(values, torch.tensor([1]), torch.tensor([2]), 2).tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 8, 8, 9]]
    assert torch.equal(
        repeat(values, torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64), 3), values
    )
    assert repeat(values, torch.tensor([0, 1]), torch.tensor([5, 0]), 1).tolist() == [
        [0, 1, 2, 3, 4, 5],
        [6, 6, 7, 8, 9, 10],
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unmasker": "fixed"}, "unmasker must decide the count itself and keep no state"),
        ({"unmasker": "klass"}, "unmasker must decide the count itself and keep no state"),
        ({"unmasker": "threshold", "cache": "dual"}, "cache and smoothing must be 'none'"),
        ({"unmasker": "threshold", "smoothing": "iteration"}, "cache and smoothing must be 'none'"),
    ],
)
def test_what_does_not_go_with_it(options: dict[str, Any], message: str) -> None:
    model = load("base-fp32")
    with pytest.raises(ValueError, match=message):
        generate(model, [[5]], grow=GROWTH, **options)
    request = Request([5], unmasker=options.pop("unmasker"))
    with pytest.raises(ValueError, match=r"requests\[0\]: " + message):
        generate_requests(model, [request], grow=GROWTH, **options)
    for settings in ({"widen": 0}, {"unsure": 1.5}, {"sure_end": -1.0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            Growth(**settings)  # type: ignore[arg-type]
