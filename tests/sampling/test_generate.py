"""Options, extension points, traces and errors of generate and infill."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from llada_moe_ops import LLaDAMoEModel
from llada_moe_ops.sampling import (
    UNMASKERS,
    NonFiniteLogitsError,
    RecordedNoise,
    Statistics,
    Trace,
    TraceStep,
    generate,
    infill,
)
from llada_moe_ops.sampling.canvas import Canvas
from torch import Tensor

from tests.golden import GOLDEN

from .models import load, random_prompts

PROMPTS = random_prompts(2, 9, seed=3)
MASK = 3


class Threshold:
    """Everything above a probability, and always the surest: a rule that decides its own count."""

    adaptive = True

    def __init__(self, threshold: float = 0.2) -> None:
        self.threshold = threshold

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
        confidence = statistics.logprob.exp().masked_fill(~masked, -1.0)
        surest = confidence.amax(1, keepdim=True)
        return masked & (confidence >= surest.clamp(max=self.threshold))


class Nothing:
    """A broken rule."""

    adaptive = True

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
        return torch.zeros_like(masked)


def test_generate_is_infill_behind_the_prompt() -> None:
    model = load("base-fp32")
    canvas = torch.nn.functional.pad(PROMPTS, (0, 8), value=MASK)
    for options in ({}, {"cfg_scale": 0.7}, {"temperature": 0.9, "seed": 2}):
        generated = generate(model, PROMPTS, gen_length=8, **options)
        assert torch.equal(infill(model, canvas, **options).sequences, generated.sequences)


def test_cuts_bound_what_noise_chooses() -> None:
    model, ids = load("base-fp32"), torch.full((1, 6), MASK)
    ids[0, 0] = 40

    def tokens(**options: Any) -> list[int]:
        filled: list[int] = infill(model, ids, seed=5, **options).sequences[0].tolist()
        return filled

    surest, hot = tokens(), tokens(temperature=3.0)
    assert hot != surest
    for cut in ({"top_k": 1}, {"top_p": 1e-6}, {"top_k": 200, "top_p": 1e-6}):
        assert tokens(temperature=3.0, **cut) == surest
        assert tokens(**cut) == surest
        assert generate(model, PROMPTS, gen_length=4, temperature=3.0, **cut).sequences.equal(
            generate(model, PROMPTS, gen_length=4).sequences
        )
    assert tokens(temperature=3.0, top_k=256, top_p=1.0) == hot
    first = set()
    for seed in range(200):
        step = infill(model, ids, seed=seed, temperature=9.0, top_k=3, steps=1).sequences[0, 1:]
        first.add(int(step[0]))
    assert len(first) == 3


def test_recorded_noise_under_cuts() -> None:
    model, ids = load("base-fp32"), torch.full((1, 6), MASK)
    uniform = torch.rand(5, 1, 6, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def tokens(**options: Any) -> Tensor:
        return infill(model, ids, steps=1, noise=RecordedNoise(uniform), temperature=2.0, **options).sequences[0]

    logits = model(ids).logits[0].double()
    logits[:, MASK] = -torch.inf
    left = logits.masked_fill(logits < logits.topk(4).values[:, 3:], -torch.inf)
    drawn = (left / 2 - (-uniform[0, 0].log()).log()).argmax(-1)
    assert torch.equal(tokens(top_k=4), drawn)
    assert not torch.equal(tokens(), drawn)
    assert torch.equal(tokens(top_p=1e-9), logits.argmax(-1))


def test_infill_fills_what_is_asked_and_nothing_else() -> None:
    model, ids = load("base-fp32"), PROMPTS.clone()
    fill = torch.zeros_like(ids, dtype=torch.bool)
    fill[0, [1, 4]] = fill[1, 8] = True
    result = infill(model, ids, fill_mask=fill)
    assert torch.equal(result.sequences[~fill], ids[~fill])
    assert result.steps == 2
    assert result.forward_passes == 2
    assert sorted(step.tokens.numel() for step in result.trace.steps) == [1, 2]
    literal = ids.masked_fill(fill, MASK)
    assert torch.equal(infill(model, literal).sequences, result.sequences)
    untouched = infill(model, literal, fill_mask=torch.zeros_like(fill))
    assert torch.equal(untouched.sequences, literal)
    assert untouched.steps == 0


def test_infill_block_by_block() -> None:
    model, ids = load("base-fp32"), torch.full((1, 11), MASK)
    ids[0, 5] = 40
    result = infill(model, ids, block_length=4)
    blocks = [(step.block, int(step.positions[0]) // 4) for step in result.trace.steps]
    assert all(block == position for block, position in blocks)
    assert [block for block, _ in blocks] == sorted(block for block, _ in blocks)
    assert result.steps == 10


def test_an_attention_mask_may_pad_infilled_rows_on_either_side() -> None:
    model = load("base-fp32")
    alone = infill(model, [[5, MASK, 9, MASK]]).sequences
    for left, right in ((3, 0), (0, 3), (2, 1)):
        ids = torch.nn.functional.pad(torch.tensor([[5, MASK, 9, MASK]]), (left, right), value=MASK)
        mask = torch.nn.functional.pad(torch.ones(1, 4, dtype=torch.int64), (left, right))
        filled = infill(model, ids, attention_mask=mask).sequences
        assert torch.equal(filled[:, left : left + 4], alone)
        assert bool((filled[:, :left] == MASK).all() & (filled[:, left + 4 :] == MASK).all())


def test_a_new_rule_needs_no_change_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("base-fp32")
    monkeypatch.setitem(UNMASKERS, "threshold", Threshold)
    quick = generate(model, PROMPTS, gen_length=16, block_length=8, unmasker="threshold")
    assert not bool((quick.completions == MASK).any())
    assert quick.steps == quick.forward_passes < 16
    assert torch.equal(
        generate(model, PROMPTS, gen_length=16, block_length=8, unmasker=Threshold()).sequences, quick.sequences
    )
    one_at_a_time = generate(model, PROMPTS, gen_length=16, block_length=8, unmasker=Threshold(2.0), steps=2)
    assert one_at_a_time.steps == 16
    with pytest.raises(ValueError, match="unmasker must commit at least one position"):
        generate(model, PROMPTS, gen_length=4, unmasker=Nothing())
    too_few = Threshold(2.0)
    too_few.adaptive = False
    with pytest.raises(ValueError, match="unmasker must commit the schedule's count unless it is adaptive"):
        generate(model, PROMPTS, gen_length=4, steps=2, unmasker=too_few)


def test_suppressed_end_of_text_is_never_predicted() -> None:
    model = load("base-fp32")
    plain = generate(model, PROMPTS, gen_length=16)
    end = int(plain.completions[0, 0])
    without = generate(model, PROMPTS, gen_length=16, suppress_eos=True, eos_token_id=end)
    assert bool((plain.completions == end).any())
    assert not bool((without.completions == end).any())


@pytest.mark.parametrize("temperature", [0.0, 0.6])
@pytest.mark.parametrize("which", ["eos_token_id", "eot_token_id"])
def test_suppressed_confidence_commits_both_ids_last_at_any_temperature(temperature: float, which: str) -> None:
    """Defect (b) of the published script: above temperature 0 it suppresses end-of-turn only."""
    model = load("base-fp32")
    options: dict[str, Any] = {"gen_length": 12, "temperature": temperature, "seed": 1}
    plain = generate(model, PROMPTS[:1], **options)
    early = int(plain.trace.steps[0].tokens[0])
    ids = {"eos_token_id": 254, "eot_token_id": 255, which: early}
    late = generate(model, PROMPTS[:1], suppress_eos_confidence=True, **ids, **options)
    assert int(late.trace.steps[0].tokens[0]) != early
    kinds = [int(step.tokens[0]) == early for step in late.trace.steps]
    assert not kinds[0]


def test_stop_at_end_of_text() -> None:
    model = load("base-fp32")
    full = generate(model, PROMPTS, gen_length=24, block_length=8)
    end = int(full.completions[0, 5])
    stopped = generate(model, PROMPTS, gen_length=24, block_length=8, eos_token_id=end, stop_at_eos=True)
    first = full.completions[0].tolist().index(end)
    assert stopped.completions[0, :first].tolist() == full.completions[0, :first].tolist()
    assert bool((stopped.completions[0, first:] == end).all())
    assert torch.equal(stopped.trace.states()[-1], stopped.sequences)
    if end not in full.completions[1].tolist():
        assert torch.equal(stopped.completions[1], full.completions[1])
    alone = generate(model, PROMPTS[:1], gen_length=24, block_length=8, eos_token_id=end, stop_at_eos=True)
    assert alone.forward_passes == 8
    assert torch.equal(alone.completions[0], stopped.completions[0])
    assert alone.tokens == first


def test_trace_callback_and_figures() -> None:
    seen: list[TraceStep] = []
    result = generate(load("base-fp32"), PROMPTS, gen_length=8, block_length=4, steps=4, on_step=seen.append)
    assert seen == result.trace.steps
    assert [step.block for step in seen] == [0, 0, 1, 1]
    states = result.trace.states()
    assert torch.equal(states[0, :, 9:], torch.full((2, 8), MASK))
    assert torch.equal(states[-1], result.sequences)
    steps = result.trace.commit_steps()
    assert bool((steps[:, :9] == -1).all())
    assert steps[:, 9:].unique().tolist() == [0, 1, 2, 3]
    entries = json.loads(result.trace.to_json())
    assert Trace(torch.tensor(entries["initial"])).initial.shape == (2, 17)
    assert [sum(map(len, [step["tokens"]])) for step in entries["steps"]] == [4, 4, 4, 4]
    assert all(0 < probability <= 1 for step in entries["steps"] for probability in step["probabilities"])
    assert result.tokens == int((result.completions != 2).sum())
    assert result.tokens_per_second == pytest.approx(result.tokens / result.seconds)
    assert result.tokens_per_forward == result.tokens / 4


def test_probabilities_are_those_of_the_logits() -> None:
    model = load("base-fp32")
    step = generate(model, PROMPTS, gen_length=4).trace.steps[0]
    canvas = torch.nn.functional.pad(PROMPTS, (0, 4), value=MASK)
    probabilities = model(canvas).logits.double().softmax(-1)
    torch.testing.assert_close(
        step.probabilities.double(), probabilities[step.rows, step.positions, step.tokens], rtol=1e-5, atol=1e-7
    )


def test_nothing_to_do() -> None:
    model = load("base-fp32")
    nothing = generate(model, PROMPTS, gen_length=0)
    assert torch.equal(nothing.sequences, PROMPTS)
    assert nothing.steps == nothing.forward_passes == 0
    assert generate(model, torch.empty(0, 4, dtype=torch.int64), gen_length=4).sequences.shape == (0, 8)
    assert infill(model, []).sequences.shape == (0, 0)


def test_a_layout_aligned() -> None:
    """As the canvas of a broken step is rebuilt from the caller's layout."""
    layout = torch.arange(10).view(2, 5)
    real = torch.tensor([[False, False, True, True, True], [True] * 5])
    canvas = Canvas.build(layout, real, real, torch.tensor([2, 0]), 1, 5)
    assert torch.equal(canvas.aligned(layout), canvas.tokens)
    assert canvas.tokens[0, :3].tolist() == [2, 3, 4]


@pytest.fixture
def broken() -> LLaDAMoEModel:
    """A model that breaks down once a token above 200 stands in the canvas."""
    model = LLaDAMoEModel.from_pretrained(GOLDEN / "base-fp32", pack=False).requires_grad_(False)
    model.embed_tokens[201:] = torch.nan
    return model


def test_broken_weights_tell_the_step_and_keep_the_trace(broken: LLaDAMoEModel) -> None:
    with pytest.raises(NonFiniteLogitsError, match="not finite at step 0, first behind the embedding") as caught:
        generate(broken, [[5, 230]], gen_length=4)
    assert caught.value.step == 0
    assert caught.value.trace.steps == []
    whole = load("base-fp32")
    steps = generate(whole, PROMPTS, gen_length=32).trace.steps
    late = next(step.step for step in steps if int(step.tokens.max()) > 200) + 1
    with pytest.raises(NonFiniteLogitsError) as caught:
        generate(broken, PROMPTS.clamp(max=200), gen_length=32)
    assert caught.value.step == len(caught.value.trace.steps) > 0
    assert late > 0


def test_smoothing_tells_of_an_embedding_that_no_position_holds(broken: LLaDAMoEModel) -> None:
    call: dict[str, Any] = {"gen_length": 4, "steps": 4}
    held = generate(broken, [[5, 6]], **call)
    assert int(held.sequences.max()) <= 200
    with pytest.raises(NonFiniteLogitsError, match="at step 1, first behind the embedding"):
        generate(broken, [[5, 6]], smoothing="iteration", **call)


@pytest.mark.parametrize("options", [{}, {"cache": "dual"}, {"cfg_scale": 0.5}], ids=str)
@pytest.mark.parametrize("layer", [0, 1])
def test_broken_weights_tell_the_layer(layer: int, options: dict[str, Any]) -> None:
    """Weights that break between two steps."""
    model = LLaDAMoEModel.from_pretrained(GOLDEN / "base-fp32", pack=False).requires_grad_(False)

    def break_it(step: TraceStep) -> None:
        if step.step == 2:
            model.layers[layer].mlp.down_proj[:] = torch.inf

    with pytest.raises(NonFiniteLogitsError, match=f"at step 3, first behind layer {layer}") as caught:
        generate(model, [[5], [6, 7]], gen_length=8, on_step=break_it, **options)
    assert (caught.value.layer, caught.value.step, len(caught.value.trace.steps)) == (layer, 3, 3)


@pytest.mark.parametrize(("part", "where"), [("norm", "the final norm"), ("head_projection", "the head")])
def test_broken_weights_behind_the_layers(part: str, where: str) -> None:
    model = LLaDAMoEModel.from_pretrained(GOLDEN / "base-fp32", pack=False).requires_grad_(False)
    getattr(model, part).weight[:] = torch.nan
    with pytest.raises(NonFiniteLogitsError, match=f"at step 0, first behind {where}") as caught:
        generate(model, [[5]], gen_length=8)
    assert caught.value.layer is None
    assert not any(layer._forward_hooks for layer in model.layers)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompt_ids": [[]]}, ValueError, "prompt_ids must be at least one token per row, got an empty prompt"),
        ({"prompt_ids": [[5], []]}, ValueError, "prompt_ids must be at least one real token per row"),
        ({"prompt_ids": [[5, 256]]}, ValueError, r"prompt_ids must be token ids in \[0, 256\), got 256"),
        ({"prompt_ids": [[-1]]}, ValueError, "prompt_ids must be token ids in .* got -1"),
        ({"prompt_ids": torch.ones(2, 3)}, TypeError, "prompt_ids must be int32 or int64, got float32"),
        ({"prompt_ids": torch.ones(3, dtype=torch.int64)}, ValueError, r"prompt_ids must be of shape \[B, L\]"),
        ({"prompt_ids": [5, 6]}, TypeError, "prompt_ids must hold one list of token ids per row, got int"),
        ({"prompt_ids": [[5, "a"]]}, TypeError, "prompt_ids must hold ints, got str"),
        ({"prompt_ids": "text"}, TypeError, "prompt_ids must be a tensor or a list of lists"),
        (
            {"prompt_ids": [[5] * 505]},
            ValueError,
            "prompt_ids and gen_length must be at most max_position_embeddings 512",
        ),
        ({"gen_length": -8}, ValueError, "gen_length must be at least 0, got -8"),
        ({"gen_length": 8.0}, TypeError, "gen_length must be an int, got float"),
        ({"block_length": 3}, ValueError, "gen_length must be a multiple of block_length 3, got 8"),
        ({"block_length": 0}, ValueError, "block_length must be at least 1, got 0"),
        ({"block_length": 2, "steps": 3}, ValueError, "steps must be at least the number of blocks 4, got 3"),
        ({"block_length": 2, "steps": 6}, ValueError, "steps must be a multiple of the number of blocks 4, got 6"),
        ({"temperature": -0.1}, ValueError, "temperature must be finite and not negative, got -0.1"),
        ({"temperature": float("nan")}, ValueError, "temperature must be finite and not negative"),
        ({"top_k": 0}, ValueError, "top_k must be at least 1, got 0"),
        ({"top_k": 2.0}, TypeError, "top_k must be an int, got float"),
        ({"top_p": 0.0}, ValueError, "top_p must be above 0, got 0.0"),
        ({"top_p": 1.5}, ValueError, "top_p must be from 0 to 1, got 1.5"),
        ({"cfg_scale": -1}, ValueError, "cfg_scale must be finite and not negative"),
        ({"remasking": "lowconfidence"}, ValueError, "remasking must be one of .*; did you mean 'low_confidence'"),
        ({"unmasker": "fixd"}, ValueError, "unmasker must be one of 'fixed', .* got 'fixd'; did you mean 'fixed'"),
        ({"cache": "vicinty"}, ValueError, "cache must be one of .* got 'vicinty'; did you mean 'vicinity'"),
        ({"cache": "dual:3"}, ValueError, "cache 'dual' must have no parameters, got the further value '3'"),
        (
            {"cache": "vicinity:neighbour=3"},
            ValueError,
            "cache 'vicinity' must have parameters among neighbours, whole_steps, .* did you mean 'neighbours'",
        ),
        ({"cache": "vicinity:-1"}, ValueError, "neighbours must be at least 0, got -1"),
        ({"cache": "vicinity:2.5"}, TypeError, "neighbours must be an int, got float"),
        ({"cache": 3}, TypeError, r"cache must be a name or an object with window\(\), got int"),
        ({"cache": "nothing"}, ValueError, "cache must be one of 'none', 'prefix', .* got 'nothing'"),
        ({"mask_token_id": 256}, ValueError, "mask_token_id must be a token id below vocab_size 256, got 256"),
        ({"eos_token_id": 999}, ValueError, "eos_token_id must be a token id below vocab_size 256"),
        ({"seed": [1, 2]}, ValueError, r"seed must be an int or one per row \(1\), got 2 of them"),
        ({"seed": "x"}, TypeError, "seed must be an int, a list of them or None, got str"),
        ({"attention_mask": torch.ones(1, 3)}, ValueError, "attention_mask must be of the shape of prompt_ids"),
        ({"attention_mask": torch.tensor([[1, 0, 1, 1]])}, ValueError, "attention_mask must be one run of ones"),
        ({"attention_mask": torch.tensor([[1, 1, 1, 0]])}, ValueError, "padding on the left"),
        ({"attention_mask": [[1]]}, TypeError, "attention_mask must be a torch.Tensor, got list"),
        ({"noise": RecordedNoise(), "temperature": 1.0}, ValueError, "noise must hold the uniforms"),
        ({"noise": RecordedNoise(), "remasking": "random"}, ValueError, "noise must hold the confidences"),
    ],
)
def test_errors_name_the_argument(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    call = {"prompt_ids": [[5, 6, 7, 8]], "gen_length": 8, **arguments}
    with pytest.raises(error, match=message):
        generate(load("base-fp32"), call.pop("prompt_ids"), **call)


def test_infill_errors() -> None:
    model = load("base-fp32")
    with pytest.raises(TypeError, match="fill_mask must be bool, got int64"):
        infill(model, [[5, MASK]], fill_mask=torch.tensor([[0, 1]]))
    with pytest.raises(ValueError, match=r"fill_mask must be of shape \[1, 2\]"):
        infill(model, [[5, MASK]], fill_mask=torch.tensor([[True]]))


def test_ids_that_the_config_lacks() -> None:
    model = LLaDAMoEModel.from_pretrained(GOLDEN / "base-fp32")
    model.config.mask_token_id = None
    with pytest.raises(ValueError, match="mask_token_id must be given"):
        generate(model, [[5]], gen_length=4)
    model.config.eos_token_id = None
    assert generate(model, [[5]], gen_length=4, mask_token_id=MASK).tokens == 4
    with pytest.raises(ValueError, match="eos_token_id must be given when suppress_eos is set"):
        generate(model, [[5]], gen_length=4, mask_token_id=MASK, suppress_eos=True)
