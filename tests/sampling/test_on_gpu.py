"""Recorded runs of the published sampler, token for token, with the model on a GPU; graphs against the host's loop."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from llada_moe_ops import LLaDAMoEModel
from llada_moe_ops.model import captured
from llada_moe_ops.sampling import CACHES, Growth, Request, captured_steps, generate, generate_requests

from tests.captured import CAPTURABLE_CACHES
from tests.golden import GOLDEN, facts
from tests.on_gpu import needs_gpu

from . import test_golden_sampler as golden
from .test_requests import MIXED, PROMPTS

pytestmark = needs_gpu


@cache
def load(name: str) -> LLaDAMoEModel:
    return LLaDAMoEModel.from_pretrained(GOLDEN / name, dtype=torch.float32, device="cuda")


@pytest.mark.parametrize("case", [case for case in golden.CASES if not golden.has_defect(case)])
def test_tokens_and_trace_equal_the_published_sampler(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(golden, "load", load)
    result, states = golden.run(case)
    assert result.sequences.is_cuda
    assert torch.equal(result.trace.states().cpu(), states.long())
    assert torch.equal(result.sequences.cpu(), states[-1].long())


@pytest.mark.parametrize("case", facts("sampler_random"))
def test_recorded_noise_gives_the_recorded_tokens(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(golden, "load", load)
    result, states = golden.run_random(case)
    assert torch.equal(result.trace.states().cpu(), states.long())


@pytest.mark.parametrize("policy", CAPTURABLE_CACHES)
@pytest.mark.parametrize("options", [{}, {"cfg_scale": 0.5, "temperature": 0.4}, {"stop_at_eos": True}], ids=str)
def test_captured_steps_have_the_bits_of_the_host_s_loop(
    monkeypatch: pytest.MonkeyPatch, policy: str, options: dict[str, Any]
) -> None:
    graphs = 0

    def record(function: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return captured.record_cuda_graph(function)

    monkeypatch.setattr(captured_steps, "record_cuda_graph", record)
    prompts = [[5, 6, 7], [9, 10, 11, 12, 13, 14], [8, 3]]
    call: dict[str, Any] = {"gen_length": 32, "block_length": 16, "cache": policy, "seed": 1, **options}
    found = generate(load("base-fp32"), prompts, **call)
    assert graphs > 0
    monkeypatch.setattr(captured_steps, "can_capture", lambda model: False)
    expected = generate(load("base-fp32"), prompts, **call)
    assert found.trace.to_dict() == expected.trace.to_dict()
    assert found.forward_passes == expected.forward_passes


@pytest.mark.parametrize("requests", [MIXED, [one for one in MIXED if one.unmasker == "fixed"]], ids=["all", "fixed"])
@pytest.mark.parametrize("policy", CACHES)
def test_requests_are_answered_as_alone(policy: str, requests: list[Request]) -> None:
    model = load("base-fp32")
    requests = [one for one in requests if policy != "interval" or not str(one.unmasker).startswith("credit")]
    together = generate_requests(model, requests, block_length=4, cache=policy)
    assert together == [generate_requests(model, [one], block_length=4, cache=policy)[0] for one in requests]


def test_a_length_is_found_as_alone() -> None:
    model, growth = load("base-fp32"), Growth(initial=2, most=15, threshold=0.06, window=1)
    requests = [Request(prompt) for prompt in PROMPTS]
    together = generate_requests(model, requests, grow=growth)
    assert together == [generate_requests(model, [one], grow=growth)[0] for one in requests]
