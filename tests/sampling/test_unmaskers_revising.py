"""Rules that change what is written: whole blocks against the rules written out, and in generations."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from llada_moe_ops.sampling import Trace, generate
from llada_moe_ops.sampling.unmaskers import EditingUnmasker, RemaskUnmasker, ThresholdUnmasker, build_unmasker, decide
from torch import Tensor

from . import slow_history
from . import slow_revising as slow
from .models import load, random_prompts
from .random_statistics import TIES, of_logits, told_apart, walk, with_ties

THRESHOLD = partial(slow.threshold, threshold=0.5)
RULES: dict[str, Any] = {
    "threshold:0.5+editing": partial(slow.editing, rule=THRESHOLD, threshold=0.5, further_steps=16),
    "threshold:0.5+editing:0.1,2": partial(slow.editing, rule=THRESHOLD, threshold=0.1, further_steps=2),
    "fixed+editing:0.2,further_steps=0": partial(slow.editing, rule=slow_history.fixed, threshold=0.2, further_steps=0),
    "threshold:0.5+remask": partial(slow.remask, rule=THRESHOLD, how="below", amount=0.4),
    "fixed+remask:below,0.7": partial(slow.remask, rule=slow_history.fixed, how="below", amount=0.7),
    "threshold:0.5+remask:cap,0.5": partial(slow.remask, rule=THRESHOLD, how="cap", amount=0.5),
    "fixed+remask:rescale,amount=0.7": partial(slow.remask, rule=slow_history.fixed, how="rescale", amount=0.7),
    "fixed+remask:confidence": partial(slow.remask, rule=slow_history.fixed, how="confidence", amount=1.0),
}
STEPS = 60
MASK = -1


def episode(rule: str, logits: Tensor, uniform: Tensor, masked: Tensor, quota: Tensor) -> list[list[slow.Step]]:
    """What each row writes and masks again, step by step, as the sampler's loop does it."""
    unmasker, open_ = build_unmasker(rule), masked.clone()
    tokens, unfinished = torch.full_like(masked, MASK, dtype=torch.int64), torch.zeros_like(masked[:, 0])
    done: list[list[slow.Step]] = [[] for _ in masked]
    for index in range(STEPS):
        rows = (open_.any(1) | unfinished).nonzero().squeeze(1)
        if len(rows) == 0:
            return done
        found = of_logits(
            logits[index, rows], masked[rows], rows, index, tokens[rows], partial(uniform[index].__getitem__, rows)
        )
        decision = decide(unmasker, found, open_[rows], quota[rows])
        assert not bool((decision.commit & decision.remask).any())
        assert not bool(((decision.commit | decision.remask) & ~masked[rows]).any())
        assert not bool((decision.remask & open_[rows]).any())
        written = decision.statistics.token
        tokens[rows] = torch.where(decision.commit, written, tokens[rows]).masked_fill(decision.remask, MASK)
        open_[rows] = (open_[rows] & ~decision.commit) | decision.remask
        unfinished[rows] = decision.unfinished
        for place, row in enumerate(rows.tolist()):
            slots = decision.commit[place].nonzero().flatten().tolist()
            again = set(decision.remask[place].nonzero().flatten().tolist())
            done[row].append(slow.Step({slot: int(written[place, slot]) for slot in slots}, again))
    raise AssertionError("the rule does not come to an end")


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 3),
    width=st.integers(1, 8),
    seed=st.integers(0, 10_000),
    ties=st.sampled_from(TIES),
    data=st.data(),
)
def test_against_the_rule_written_out(
    rule: str, rows: int, width: int, seed: int, ties: str, data: st.DataObject
) -> None:
    logits = with_ties(walk(STEPS, rows, width, 7, seed), ties)
    assume(told_apart(logits))
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(STEPS, rows, width, generator=generator)
    masked = torch.rand(rows, width, generator=generator) < data.draw(st.floats(0.3, 1))
    masked[:, seed % width] = True
    quota = torch.tensor([data.draw(st.integers(1, 3)) for _ in range(rows)])
    together = episode(rule, logits, uniform, masked, quota)
    for row in range(rows):
        positions = masked[row].nonzero().flatten().tolist()
        steps = zip(logits[:, row].tolist(), uniform[:, row].tolist(), strict=True)
        assert together[row] == list(RULES[rule](steps, positions, int(quota[row])))
        pick = slice(row, row + 1)
        assert episode(rule, logits[:, pick], uniform[:, pick], masked[pick], quota[pick]) == [together[row]]


@pytest.mark.parametrize("rule", ["editing:0.05,3", "threshold:0.2+remask:below,0.9", "fixed+remask:cap,0.6",
                                  "credit:0.3+editing:0.05+remask:rescale,1", "klass+remask:confidence"])  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"stop_at_eos": True, "cache": "dual"}], ids=str)
def test_generation(rule: str, options: dict[str, Any]) -> None:
    """All is filled, the prompt stays, something was revised, the trace tells it, and rows do not depend on others."""
    model, mask = load("base-fp32"), load("base-fp32").config.mask_token_id
    prompts = [random_prompts(1, length, length)[0].tolist() for length in (9, 4, 12)]
    call: dict[str, Any] = {"gen_length": 12, "block_length": 6, "unmasker": rule, "seed": 5, "eos_token_id": 17}
    together = generate(model, prompts, **call, **options)
    assert not bool((together.completions == mask).any())
    assert torch.equal(together.trace.states()[-1], together.sequences)
    assert revisions(together.trace) > 0
    for row, prompt in enumerate(prompts):
        assert together.sequences[row, 12 - len(prompt) : 12].tolist() == prompt
        alone = generate(model, [prompt], **call, **options)
        assert torch.equal(alone.completions[0], together.completions[row])
        assert int(alone.row_steps[0]) == int(together.row_steps[row])


@pytest.mark.parametrize(("width", "more"), [(5, 1), (12, 4), (19, 13), (33, 32)])
def test_remask_confidence_does_not_depend_on_the_blocks_width(width: int, more: int) -> None:
    """A reply shorter than the batch's block lies in a wider one than alone: the same probabilities to the bit."""
    generator, quota = torch.Generator().manual_seed(2), torch.ones(50, dtype=torch.int64)
    written = torch.rand(50, width, generator=generator) < 0.7
    when_written = torch.rand(50, width, generator=generator, dtype=torch.float64)

    def probabilities(*padding: int) -> Tensor:
        here, there, before = (torch.nn.functional.pad(one, padding) for one in (written, ~written, when_written))
        rule, nothing = RemaskUnmasker("confidence"), torch.zeros(*here.shape, 2)
        first, second = (of_logits(nothing, here, torch.arange(50), index) for index in (0, 1))
        rule._probability(first, here, there, quota)
        rule._written.keep(first, before)
        return rule._probability(second, here, there, quota)[:, :width]

    alone = probabilities()
    assert float(alone.max()) > 0
    assert torch.equal(alone, probabilities(0, more))


def test_a_row_ends_only_when_it_is_finished() -> None:
    """An end-of-text that editing takes back, after the last mask is gone, has not ended the row."""
    model, prompts = load("base-fp32"), random_prompts(2, 9, seed=4)
    call: dict[str, Any] = {"gen_length": 12, "unmasker": "threshold:0.05+editing:0.02"}
    full = generate(model, prompts, **call)
    states = full.trace.states()[:, :, 9:]
    passing = set(states[:-1].flatten().tolist()) - set(states[-1].flatten().tolist()) - {3}
    assert passing, "editing must have replaced some token everywhere"
    for end in passing:
        stopped = generate(model, prompts, stop_at_eos=True, eos_token_id=end, **call)
        assert torch.equal(stopped.sequences, full.sequences)


def revisions(trace: Trace) -> int:
    """How often a step wrote where a token stood."""
    count = 0
    for step, state in zip(trace.steps, trace.states(), strict=False):
        before = state[step.rows, step.positions]
        count += int(((before != 3) & (before != step.tokens)).sum())
    return count


def test_composition() -> None:
    built = build_unmasker("threshold:0.8+editing:0.6+remask:cap")
    assert built == RemaskUnmasker("cap", rule=EditingUnmasker(0.6, rule=ThresholdUnmasker(0.8)))
    assert build_unmasker("editing") == EditingUnmasker(rule=ThresholdUnmasker(0.7))


@pytest.mark.parametrize(
    ("unmasker", "error", "message"),
    [
        ("fixed+threshold", ValueError, r"unmasker after '\+' must be one of 'editing', 'remask', got 'threshold'"),
        (
            "fixed+edit",
            ValueError,
            r"after '\+' must be one of 'editing', 'remask', got 'edit'; did you mean 'editing'",
        ),
        ("fixed+", ValueError, r"unmasker after '\+' must be one of 'editing', 'remask', got ''"),
        ("editing:rule=fixed", ValueError, "among threshold, further_steps, got 'rule'"),
        ("editing:0.5,-1", ValueError, "further_steps must be at least 0, got -1"),
        ("remask:most", ValueError, "how must be one of 'below', 'cap', 'rescale', 'confidence', got 'most'"),
        ("remask:cap,2", ValueError, "amount must be from 0 to 1, got 2"),
    ],
)
def test_errors(unmasker: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_unmasker(unmasker)
