"""Requests with settings of their own in one batch: each as if alone, and ended by what it names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from llada_moe_ops import Tokenizer
from llada_moe_ops.cli.checkpoint import EMBEDDED
from llada_moe_ops.sampling import Request, RequestResult, Trace, TraceStep, generate, generate_requests
from llada_moe_ops.sampling.unmaskers import EditingUnmasker, FixedUnmasker, ThresholdUnmasker, put_together

from .models import load, random_prompts

PROMPTS = [row[:length].tolist() for row, length in zip(random_prompts(4, 12), (3, 12, 7, 1), strict=True)]
MIXED = [
    Request(PROMPTS[0], 20, temperature=0.8, seed=4),
    Request(PROMPTS[1], 3, unmasker="threshold:0.3", temperature=0.8, seed=4),
    Request(PROMPTS[2], 16, steps=4),
    Request(PROMPTS[3], 11, unmasker="threshold:0.3+editing:0.2"),
    Request(PROMPTS[0], 0),
    Request(PROMPTS[1], 9, unmasker="credit:0.4", temperature=0.1, seed=1),
]


def answer(*requests: Request, **options: Any) -> list[RequestResult]:
    return generate_requests(load("base-fp32"), requests, **options)


def test_each_as_generate_answers_it_alone() -> None:
    results = answer(*MIXED, block_length=4)
    for request, result in zip(MIXED, results, strict=True):
        length = request.gen_length or 0
        whole = -(-length // 4) * 4
        if whole != length:
            continue
        alone = generate(
            load("base-fp32"),
            [request.prompt_ids],
            gen_length=length,
            block_length=4,
            steps=request.steps,
            unmasker=request.unmasker,
            temperature=request.temperature,
            seed=request.seed,
            stop_at_eos=True,
        )
        assert result.tokens == alone.completions[0].tolist()
        assert result.steps == alone.forward_passes
        place = slice(len(request.prompt_ids), None)
        assert result.probabilities == alone.trace.probabilities()[0, place].tolist()
        assert result.commit_steps == alone.trace.commit_steps()[0, place].tolist()
    assert [len(result.tokens) for result in results] == [20, 3, 16, 11, 0, 9]
    assert {result.finish_reason for result in results} == {"length"}


def test_alone_and_in_any_order() -> None:
    together = answer(*MIXED)
    assert together == [answer(request)[0] for request in MIXED]
    assert answer(*MIXED[:2], MIXED[0]) == [*together[:2], together[0]], "nor does a copy differ"
    assert answer(replace(MIXED[0], seed=5)) != together[:1]
    assert together == answer(*MIXED[::-1])[::-1]
    assert len({tuple(result.commit_steps) for result in together}) == len(MIXED)


def test_what_ends_a_reply() -> None:
    (full,) = answer(Request(PROMPTS[0], 24), block_length=8)
    ids = full.tokens
    pair = next(ids[at : at + 2] for at in range(7, 22) if ids.index(ids[at]) == at and ids[at] != ids[at + 1])
    at = ids.index(pair[0])
    results = answer(
        Request(PROMPTS[0], 24, stop=[pair]),
        Request(PROMPTS[0], 24, stop=[[255, 255], pair, ids[at : at + 3]]),
        Request(PROMPTS[0], 24, stop=[[pair[0]]]),
        Request(PROMPTS[0], 24, stop=[pair[::-1]]),
        Request(PROMPTS[1], 24),
        block_length=8,
    )
    assert [result.finish_reason for result in results[:4]] == ["stop", "stop", "stop", "length"]
    assert results[0].tokens == results[1].tokens == ids[: at + 2]
    assert results[2].tokens == ids[: at + 1]
    assert results[3].tokens == ids
    assert len(results[0].probabilities) == len(results[0].commit_steps) == at + 2
    assert results[0].steps == 8 * ((at + 1) // 8 + 1), "blocks after the stop are not filled"
    end = ids[at]
    ended, kept = answer(
        Request(PROMPTS[0], 24), Request(PROMPTS[0], 24, stop_at_eos=False), block_length=8, eos_token_id=end
    )
    assert (ended.tokens, ended.finish_reason) == (ids[:at], "end")
    assert (kept.tokens, kept.finish_reason) == (ids, "length")
    both = answer(Request(PROMPTS[0], 24, stop=[pair]), block_length=8, eos_token_id=end)[0]
    assert (both.tokens, both.finish_reason) == (ids[:at], "end")


def test_a_stop_across_the_border_of_two_blocks() -> None:
    request = Request(PROMPTS[2], 12, temperature=1.5, seed=1)
    (full,) = answer(request, block_length=4)
    steps: list[TraceStep] = []
    (result,) = answer(replace(request, stop=[full.tokens[2:6]]), block_length=4, on_step=steps.append)
    assert (result.tokens, result.steps) == (full.tokens[:6], 8)
    canvas = Trace(torch.tensor([[*request.prompt_ids, *[3] * 12]]), steps).states()[-1, 0, len(request.prompt_ids) :]
    assert canvas.tolist() == [*full.tokens[:6], *[load("base-fp32").config.eos_token_id] * 6]
    assert steps[-1].tokens.tolist()[1:] == canvas.tolist()[6:], "what is ended is told by the step that ended it"


def test_stop_strings_and_text() -> None:
    tokenizer = Tokenizer.from_pretrained(EMBEDDED)
    model = load("base-fp32")
    size = tokenizer.backend.get_vocab_size()

    class Letters:
        """Ids of the model, which has more of them than the tokenizer, as its letters; some of several letters."""

        def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
            return "".join(tokenizer.decode([token % (size - 10)], skip_special_tokens=False) + "xy" for token in ids)

    letters: Any = Letters()
    (full,) = generate_requests(model, [Request(PROMPTS[0], 12)], tokenizer=letters)
    assert full.text == letters.decode(full.tokens)
    text = full.text
    begin = text.index("x", 13)
    stop = text[begin : begin + 4]
    begin = text.index(stop)
    cut, other = generate_requests(
        model, [Request(PROMPTS[0], 12, stop=["never", stop]), Request(PROMPTS[0], 12)], tokenizer=letters
    )
    assert (cut.text, cut.finish_reason) == (text[:begin], "stop")
    assert letters.decode(cut.tokens[:-1]).count(stop) == 0
    assert stop in letters.decode(cut.tokens)
    assert other == full


def test_rules_are_put_together_by_equality() -> None:
    cpu = torch.device("cpu")
    assert isinstance(put_together([FixedUnmasker(), FixedUnmasker()], cpu), FixedUnmasker)
    rules: list[Any] = [ThresholdUnmasker(0.5), FixedUnmasker(), ThresholdUnmasker(0.5), EditingUnmasker()]
    together: Any = put_together(rules, cpu)
    assert len(together.rules) == 3
    assert together.adaptive
    assert together.revises.tolist() == [False, False, False, True]


def test_nothing_to_do() -> None:
    assert answer() == []
    (result,) = answer(Request([5], 0))
    assert (result.tokens, result.steps, result.finish_reason) == ([], 0, "length")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"gen_length": -1}, ValueError, "gen_length must be at least 0, got -1"),
        ({"temperature": -1.0}, ValueError, "temperature must be finite and not negative"),
        ({"unmasker": "fixd"}, ValueError, "unmasker must be one of .*; did you mean 'fixed'"),
        ({"seed": 0.5}, TypeError, "seed must be an int, got float"),
        ({"stop": "end"}, TypeError, "stop must be a list of strings and of lists of token ids, got str"),
        ({"stop": [5]}, TypeError, "stop must hold strings and lists of token ids, got int"),
        ({"stop": [""]}, ValueError, "stop must be without empty ones, got ''"),
        ({"stop": [[256]]}, ValueError, r"requests\[1\]: stop must be a token id below vocab_size 256, got 256"),
        ({"stop": ["a"]}, ValueError, r"requests\[1\]: tokenizer must be given for stop strings, got None"),
        ({"prompt_ids": []}, ValueError, r"requests\[1\]: prompt_ids must be at least one token"),
        ({"prompt_ids": [999]}, ValueError, r"requests\[1\]: prompt_ids must be token ids in \[0, 256\), got 999"),
        (
            {"gen_length": 512},
            ValueError,
            r"requests\[1\]: prompt and gen_length must be at most .* 512 .* got 513",
        ),
        ({"steps": 3}, ValueError, r"requests\[1\]: steps must be a multiple of the number of blocks 2, got 3"),
    ],
)
def test_errors_name_the_request(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        answer(Request([5], 8), Request(**{"prompt_ids": [5], "gen_length": 8, **settings}), block_length=4)
