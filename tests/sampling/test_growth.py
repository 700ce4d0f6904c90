"""A reply's length found by adding masks: the rule written out, the lengths of checked answers, and errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from llada_moe_ops import LLaDAMoEModel, Tokenizer
from llada_moe_ops.cli.checkpoint import EMBEDDED
from llada_moe_ops.sampling import Growth, Request, generate, generate_requests
from llada_moe_ops.training.evaluate import REPLY_LENGTH

from .models import load, random_prompts

ANSWERS = {"12+34=": "46", "sort hcabe": "abceh", "reverse abcdef": "fedcba", "123+456=": "579"}


def slow_length(model: LLaDAMoEModel, prompt: list[int], growth: Growth, end: int) -> tuple[int, int]:
    """The length and the passes it took, one prompt, every position looked at in turn."""
    mask, length, passes = model.config.mask_token_id, growth.initial, 0
    while length < growth.most:
        probabilities = model(torch.tensor([prompt + [mask] * length])).logits[0].softmax(-1)
        probabilities[:, mask] = 0
        found: list[float] = []
        for row in probabilities.flip(0)[:length]:
            if len(found) < growth.window and int(row.argmax()) == end:
                found.append(float(row[end]))
        passes += 1
        if sum(found) / growth.window >= growth.threshold:
            break
        length = min(length + growth.stride, growth.most)
    return length, passes


def test_against_the_rule_written_out() -> None:
    model, seen = load("base-fp32"), set()
    for seed in range(12):
        prompt = random_prompts(1, 2 + seed, seed)[0].tolist()
        logits = model(torch.tensor([prompt + [3] * 6])).logits[0, -1]
        end = int(logits.argmax())
        growth = Growth(initial=2, most=15, stride=1 + seed % 3, threshold=0.1, window=1 + seed % 4)
        lengths, passes = growth.lengths(model, [torch.tensor(prompt)], 3, end)
        assert (lengths[0], passes) == slow_length(model, prompt, growth, end)
        seen.add(lengths[0])
    assert len(seen) > 3


@pytest.mark.parametrize("growth", [Growth(2, 32, 1, 0.5, 2), Growth(8, 32, 4, 0.5, 4)], ids=str)
def test_the_embedded_model_sees_how_long_its_answers_are(growth: Growth) -> None:
    model, tokenizer = LLaDAMoEModel.from_pretrained(EMBEDDED), Tokenizer.from_pretrained(EMBEDDED)
    prompts = [tokenizer.encode(tokenizer.chat([{"role": "user", "content": question}])) for question in ANSWERS]
    requests = [Request(prompt, unmasker="threshold:0.99") for prompt in prompts]
    results = generate_requests(model, requests, grow=growth, tokenizer=tokenizer)
    assert [result.text for result in results] == list(ANSWERS.values())
    ids = [torch.tensor(prompt) for prompt in prompts]
    special = (model.config.mask_token_id, model.config.eos_token_id)
    lengths, passes = growth.lengths(model, ids, *special)
    together = growth._confidence(model, ids, lengths, *special)
    alone = [growth._confidence(model, [row], [length], *special)[0] for row, length in zip(ids, lengths, strict=True)]
    assert together == alone, "bit for bit"
    assert min(together) >= growth.threshold
    assert all(len(answer) < length < len(answer) + 8 for answer, length in zip(ANSWERS.values(), lengths, strict=True))
    whole = generate(model, prompts, grow=growth, unmasker="threshold:0.99")
    assert whole.completions.shape[1] == max(lengths)
    assert [tokenizer.decode(row) for row in whole.completions.tolist()] == list(ANSWERS.values())
    assert not bool((whole.completions == model.config.mask_token_id).any())
    assert torch.equal(whole.trace.states()[-1], whole.sequences)
    fixed = generate(model, prompts, gen_length=max(lengths), unmasker="threshold:0.99")
    assert whole.forward_passes <= passes + fixed.forward_passes + 1
    assert whole.forward_passes > passes
    assert REPLY_LENGTH == 12


def test_lengths_end_at_the_model_s_positions_and_at_the_request_s() -> None:
    model = load("base-fp32")
    growth = Growth(initial=8, most=64, stride=8)
    lengths, passes = growth.lengths(model, [torch.full((490,), 5), torch.tensor([5])], 3, 0)
    assert lengths == [22, 64]
    assert passes == 7
    results = generate_requests(model, [Request([5, 6], 3), Request([5, 6])], grow=growth, eos_token_id=0)
    assert [len(result.tokens) for result in results] == [3, 64]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"initial": 0}, "initial must be at least 1, got 0"),
        ({"most": 8}, "most must be at least initial 64, got 8"),
        ({"threshold": 1.5}, "threshold must be from 0 to 1, got 1.5"),
    ],
)
def test_bad_parameters(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Growth(**settings)


def test_what_growing_does_not_go_with() -> None:
    model, growth = load("base-fp32"), Growth()
    for name, value in {"gen_length": 8, "steps": 4, "suppress_eos": True}.items():
        with pytest.raises(ValueError, match=f"{name} must be left out where grow finds the length, got {value}"):
            generate(model, [[5]], grow=growth, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"requests\[0\]: steps must be None where the length is found by growing"):
        generate_requests(model, [Request([5], steps=4)], grow=growth)
    assert growth.lengths(model, [], 3, 2) == ([], 0)
    with pytest.raises(ValueError, match="prompt_ids must be at most max_position_embeddings 512 tokens, got 513"):
        generate(model, [[5] * 513], grow=growth)
    assert generate(model, [[5] * 512], grow=growth).completions.shape == (1, 0)
