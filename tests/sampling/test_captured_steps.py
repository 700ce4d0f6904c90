"""Whole steps as CUDA graphs, as far as a machine without a GPU can tell: the same tokens and trace as step by step on
the host, nothing that a capture refuses, and what Python costs between launches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from llada_moe_ops import KeyValueCache, LLaDAMoEModel, ops
from llada_moe_ops.model.model import Experts
from llada_moe_ops.sampling import (
    CounterNoise,
    GenerationResult,
    NonFiniteLogitsError,
    Request,
    Statistics,
    Trace,
    captured_steps,
    generate,
    generate_requests,
    infill,
)
from llada_moe_ops.sampling.canvas import Canvas
from llada_moe_ops.sampling.captured_steps import BlockState, CapturedSteps
from llada_moe_ops.sampling.options import SamplerOptions
from llada_moe_ops.sampling.stopping import Stopping
from llada_moe_ops.sampling.unmaskers import (
    FixedUnmasker,
    MarginUnmasker,
    RandomUnmasker,
    ThresholdUnmasker,
    put_together,
)
from torch import Tensor

from tests.captured import CAPTURABLE_CACHES, on_the_device_alone, record_eagerly
from tests.emulated import emulated, needs_emulator
from tests.model.test_on_gpu import PROMPTS, tiny

from . import test_golden_sampler as golden
from .models import load, random_prompts

MICROSECONDS = 50
ROOT = Path(__file__).resolve().parents[2]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"steps": 6},
    {"temperature": 0.8, "remasking": "random"},
    {"cfg_scale": 0.7, "temperature": 0.3},
    {"stop_at_eos": True, "eos_token_id": 17},
    {"suppress_eos": True, "suppress_eos_confidence": True, "eot_token_id": 9},
    {"unmasker": "random", "temperature": 0.5},
    {"unmasker": "margin", "steps": 9},
    {"unmasker": "entropy", "suppress_eos": True},
    {"unmasker": "threshold:0.3"},
    {"unmasker": "threshold:0.2,decay=0.1", "temperature": 0.6, "stop_at_eos": True, "eos_token_id": 17},
    {"unmasker": "factor:1.5", "cfg_scale": 0.4},
    {"unmasker": "entropy_bound:4", "temperature": 0.3, "remasking": "random"},
    {"unmasker": "hierarchical:0.4,0.2", "suppress_eos": True},
    {"unmasker": "localleap:0.3,0.2,2"},
]


class Recorded:
    """Captures by a stand-in, and counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.graphs = self.replays = 0
        monkeypatch.setattr(captured_steps, "can_capture", lambda model: True)
        monkeypatch.setattr(captured_steps, "has_cuda_kernel", lambda op: True)
        monkeypatch.setattr(captured_steps, "record_cuda_graph", self.record)

    def record(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.graphs += 1
        run, result = record_eagerly(function)

        def replay() -> None:
            self.replays += 1
            run()

        return replay, result


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """Steps are captured from here on."""
    return Recorded(monkeypatch)


def assert_same(found: GenerationResult, expected: GenerationResult) -> None:
    assert torch.equal(found.sequences, expected.sequences)
    assert found.forward_passes == expected.forward_passes
    assert found.trace.to_dict() == expected.trace.to_dict()
    for one, other in zip(found.trace.steps, expected.trace.steps, strict=True):
        assert (one.rows.dtype, one.probabilities.dtype) == (other.rows.dtype, other.probabilities.dtype)


@pytest.mark.parametrize("cache", CAPTURABLE_CACHES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_tokens_and_trace_are_those_of_the_host_s_loop(
    monkeypatch: pytest.MonkeyPatch, cache: str, options: dict[str, Any]
) -> None:
    call: dict[str, Any] = {"gen_length": 18, "block_length": 6, "cache": cache, "seed": 2, **options}
    expected = generate(load("base-fp32"), PROMPTS, **call)
    captured = Recorded(monkeypatch)
    found = generate(load("base-fp32"), PROMPTS, **call)
    assert_same(found, expected)
    assert captured.graphs >= 1
    assert captured.replays >= (0 if "steps" in options else 1 if "unmasker" in options else 9)
    watched: list[Any] = []
    found = generate(load("base-fp32"), PROMPTS, **call, on_step=lambda step: watched.append(step.to_dict()))
    assert watched == expected.trace.to_dict()["steps"]


@pytest.mark.parametrize(("steps", "rule"), [(None, "fixed"), (40, "fixed"), (None, "threshold:0.3")])
@pytest.mark.parametrize("cache", CAPTURABLE_CACHES)
def test_infilled_rows_of_different_lengths(recorded: Recorded, cache: str, steps: int | None, rule: str) -> None:
    """Blocks that reach past a row's end, rows without a mask in a block, steps without a token."""
    model = load("base-fp32")
    rows = [row.tolist() for row in random_prompts(4, 23, seed=2)]
    mask = model.config.mask_token_id
    rows[0][3:9], rows[1][10:12], rows[2][1:21] = [mask] * 6, [mask] * 2, [mask] * 20
    rows = [rows[0][:17], rows[1], rows[2], rows[3][:5]]
    all_steps = None if steps is None else 3 * steps
    call: dict[str, Any] = {"block_length": 8, "cache": cache, "steps": all_steps, "unmasker": rule}
    found = infill(model, rows, **call)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captured_steps, "can_capture", lambda model: False)
        expected = infill(model, rows, **call)
    assert_same(found, expected)
    assert recorded.graphs >= 1


@pytest.mark.parametrize("options", [{"smoothing": "iteration"}, {"cache": "interval"}, {"cache": "block_causal"}])
def test_parts_that_a_graph_cannot_hold(recorded: Recorded, options: dict[str, Any]) -> None:
    generate(load("base-fp32"), PROMPTS, gen_length=12, block_length=6, **options)
    assert recorded.graphs == 0


@pytest.mark.parametrize("case", [case for case in golden.CASES if not golden.has_defect(case)])
def test_golden_cases(recorded: Recorded, case: str) -> None:
    golden.test_tokens_and_trace_equal_the_published_sampler(case)
    assert recorded.graphs + recorded.replays > 0 or golden.CASES[case]["steps"] < 2


@needs_emulator
@pytest.mark.parametrize(("seed", "cache"), list(enumerate(CAPTURABLE_CACHES)))
def test_cuda_kernels_within_captured_steps(recorded: Recorded, seed: int, cache: str) -> None:
    options: dict[str, Any] = {"gen_length": 8, "block_length": 4, "cache": cache, "seed": 1, "temperature": 0.2}
    with emulated(seed):
        found = generate(tiny(), PROMPTS, **options)
    assert recorded.replays > 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captured_steps, "can_capture", lambda model: False)
        assert torch.equal(found.sequences, generate(tiny(), PROMPTS, **options).sequences)


@needs_emulator
def test_cuda_kernels_under_settings_of_rows(recorded: Recorded) -> None:
    requests = [
        Request([5, 6, 7], 6, temperature=0.3, seed=1),
        Request([9, 8, 7, 6, 5], 4, unmasker="margin"),
        Request([9], 5, unmasker="random", temperature=1.2, seed=2),
    ]
    with emulated(3):
        found = generate_requests(tiny(), requests, cache="dual")
    assert recorded.replays > 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captured_steps, "can_capture", lambda model: False)
        expected = generate_requests(tiny(), requests, cache="dual")
    assert [one.tokens for one in found] == [one.tokens for one in expected]


def test_a_model_that_breaks_down_within_a_block(recorded: Recorded) -> None:
    class Broken(CounterNoise):
        capturable = True

        def choose(self, hidden: Tensor, lm_head: Any, draw: Any, **options: Any) -> Any:
            broken = torch.where(draw.row_steps[:, None] == 5, torch.nan, hidden)
            return super().choose(broken, lm_head, draw, **options)

    noise = Broken(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(NonFiniteLogitsError, match="not finite at step 5") as caught:
        generate(tiny(), PROMPTS, gen_length=8, block_length=8, noise=noise)
    assert caught.value.step == 5
    assert [step.step for step in caught.value.trace.steps] == list(range(5))
    assert recorded.replays > 3


def test_a_rule_that_commits_nothing(recorded: Recorded) -> None:
    class Nothing(ThresholdUnmasker):
        def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
            return torch.zeros_like(masked)

    with pytest.raises(ValueError, match=r"Nothing.* committed none"):
        generate(tiny(), PROMPTS, gen_length=6, unmasker=Nothing())
    assert recorded.replays > 0


def test_a_rule_that_commits_less_than_its_count(recorded: Recorded) -> None:
    class Miserly(FixedUnmasker):
        def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
            return super().select(statistics, masked, quota.clamp(max=1))

    with pytest.raises(ValueError, match=r"the schedule's count unless it is adaptive, .*Miserly.* left masks"):
        generate(tiny(), PROMPTS, gen_length=6, steps=3, unmasker=Miserly())
    assert recorded.replays > 0


def test_parts_that_do_not_say_so_are_not_captured(recorded: Recorded) -> None:
    class Reader(FixedUnmasker):
        capturable = False

    class Kept:
        def window(self, index: int, block: Tensor, lengths: Tensor) -> None:
            return None

    for options in ({"unmasker": Reader()}, {"unmasker": "prophet"}, {"cache": Kept()}):
        assert generate(tiny(), PROMPTS, gen_length=6, **options).sequences.shape == (3, 12)
    assert recorded.graphs == recorded.replays == 0


@pytest.mark.parametrize("adaptive", [None, "threshold:0.3"])
@pytest.mark.parametrize("cache", CAPTURABLE_CACHES)
def test_rules_put_together_per_row(recorded: Recorded, cache: str, adaptive: str | None) -> None:
    model = load("base-fp32")
    prompts = [row.tolist() for row in random_prompts(3, 9)]
    requests = [
        Request(prompts[0], 14, unmasker="margin", seed=1, temperature=0.4),
        Request(prompts[1][:4], 18, unmasker="random", seed=2, temperature=1.4),
        Request(prompts[2], 7, steps=4, seed=3, temperature=0.4, stop_at_eos=False),
        *([Request(prompts[2][2:], 12, unmasker=adaptive)] if adaptive else []),
    ]
    found = generate_requests(model, requests, block_length=6, cache=cache, eos_token_id=17)
    assert recorded.graphs >= 1
    assert recorded.replays >= 9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captured_steps, "can_capture", lambda model: False)
        assert found == generate_requests(model, requests, block_length=6, cache=cache, eos_token_id=17)
    recorded.graphs = recorded.replays = 0
    for other in (replace(requests[0], unmasker="klass"), replace(requests[0], stop=[[5, 6]])):
        generate_requests(model, [*requests, other], cache=cache)
    assert recorded.graphs == recorded.replays == 0


def steps_of(
    lengths: list[int], block_length: int, unmasker: Any = None, cache: str = "dual", **options: Any
) -> CapturedSteps:
    """The steps of rows of these lengths."""
    choices: dict[str, Any] = {
        "temperature": 0.5, "cfg_scale": 0.5, "remasking": "low_confidence", "unmasker": "fixed", "cache": cache,
        "smoothing": "none", "seed": 0, "mask_token_id": 69, "eos_token_id": 1, "eot_token_id": 2,
        "suppress_eos": True, "suppress_eos_confidence": True, "stop_at_eos": True, "noise": None, "on_step": None,
        **options,
    }  # fmt: skip
    tokens = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    none, fill = torch.zeros(len(lengths), dtype=torch.int64), torch.ones_like(tokens, dtype=torch.bool)
    starts = none.expand(2, len(lengths))
    canvas = Canvas(tokens, fill, fill, torch.tensor(lengths), none, tokens, starts, block_length)
    predictor = SamplerOptions(**choices).predictor(tiny(), canvas)
    stopping = Stopping(1, torch.ones(len(lengths), dtype=torch.bool))
    return CapturedSteps(predictor, unmasker or FixedUnmasker(), stopping, False, record_eagerly)


def on_meta(in_bytes: bool = False, **options: Any) -> CapturedSteps:
    """Where the model and the canvas have shapes alone; a block is begun."""
    steps = steps_of([24, 20, 16], 4, **options)
    canvas, predictor = steps._canvas, steps._predictor
    for name, value in vars(canvas).items():
        setattr(canvas, name, value.to("meta") if isinstance(value, Tensor) else value)
    predictor.model = steps._model = LLaDAMoEModel(tiny().config).to("meta").requires_grad_(False)
    if in_bytes:
        hold_in_bytes(steps._model)
    assert isinstance(predictor.noise, CounterNoise)
    predictor.noise.requests = predictor.noise.requests.to("meta")
    predictor.row_steps = predictor.row_steps.to("meta")
    steps._stopping = Stopping(1, torch.ones(3, dtype=torch.bool, device="meta"))
    cache = KeyValueCache(steps._model, 3 * predictor.passes_per_step, 24)
    steps._state = BlockState(canvas, 3, None if steps._policy is None else cache)
    return steps


def hold_in_bytes(model: LLaDAMoEModel) -> None:
    for module in model.bfloat16().modules():
        if isinstance(module, Experts):
            module.set_packed(ops.quantize_experts(*module.plain_weights()))


@pytest.mark.parametrize("cache", CAPTURABLE_CACHES)
@pytest.mark.parametrize(
    "options", [{}, {"cfg_scale": 0.0, "remasking": "random"}, {"top_k": 9, "top_p": 0.5}], ids=str
)
def test_a_step_needs_no_value_on_the_host(cache: str, options: dict[str, Any]) -> None:
    for size, in_bytes in ((None, False), (4, False), (12, True)):
        steps = on_meta(cache=cache, in_bytes=in_bytes, **options)
        steps._step(size)  # what is made once is made here
        with on_the_device_alone():
            commit = steps._step(size)
        assert commit.is_meta
        assert commit.shape == (3, 4)


def test_nor_does_a_step_of_rows_with_settings_of_their_own() -> None:
    meta = torch.device("meta")
    together = put_together([FixedUnmasker(), RandomUnmasker(), MarginUnmasker()], torch.device("cpu"))
    together._rule_of = together._rule_of.to(meta)  # type: ignore[attr-defined]
    steps = on_meta(unmasker=together, temperature=torch.rand(3, dtype=torch.float64, device=meta))
    steps._step(4)
    with on_the_device_alone():
        assert steps._step(4).shape == (3, 4)


FAULTS: dict[str, Callable[[Statistics, Tensor], Any]] = {
    "item": lambda statistics, masked: statistics.confidence.max().item(),
    "tolist": lambda statistics, masked: statistics.token.tolist(),
    "a decision": lambda statistics, masked: bool(masked.any()),
    "nonzero": lambda statistics, masked: masked.nonzero(),
    "where": lambda statistics, masked: torch.where(masked),
    "a mask as an index": lambda statistics, masked: statistics.token[masked],
    "unique": lambda statistics, masked: statistics.token.unique(),
    "equal": lambda statistics, masked: torch.equal(masked, masked),
    "copy to the host": lambda statistics, masked: masked.cpu(),
    "copy from the host": lambda statistics, masked: torch.zeros(4).to(masked.device),
    "a tensor of numbers": lambda statistics, masked: masked & torch.tensor([True, False, True, False], device="meta"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_that_needs_one_is_found(fault: str) -> None:
    class Faulty(FixedUnmasker):
        wrong = False

        def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
            if self.wrong:
                FAULTS[fault](statistics, masked)
            return super().select(statistics, masked, quota)

    rule = Faulty()
    steps = on_meta(unmasker=rule)
    steps._step(4)
    with on_the_device_alone():
        steps._step(4)
        rule.wrong = True
        with pytest.raises((RuntimeError, AssertionError)):
            steps._step(4)


def test_kernels_allocate_and_wait_nowhere() -> None:
    """Memory comes from torch, whose allocations a graph keeps; a wait or a copy would break the capture."""
    refused = ("cudaMalloc", "cudaFree", "cudaHostAlloc", "cudaMemcpy", "cudaMemset(", "Synchronize(", "EventQuery")
    sources = [path for end in ("cu", "h", "cpp") for path in (ROOT / "csrc").rglob(f"*.{end}")]
    assert any(path.suffix == ".cu" for path in sources)
    found = {
        f"{path.relative_to(ROOT)}: {word}"
        for path in sources
        if "emulate" not in path.parts
        for word in refused
        if word in path.read_text(encoding="utf-8")
    }
    assert found == {"csrc/cuda/device.cu: Synchronize("}, "that of LLADA_MOE_OPS_SYNC=1, which captures nothing"


@pytest.mark.parametrize("cache", CAPTURABLE_CACHES)
def test_python_between_launches(cache: str) -> None:
    """Launches that do nothing: what is left is Python's part of a block of 32 steps, its start and trace included."""
    positions, counts = torch.arange(40, 72)[None], torch.ones(1, 32, dtype=torch.int64)
    steps, times = steps_of([128], 32, cache=cache), []
    steps.begin(positions, counts)
    state = steps._held
    state.begin = lambda *_: state.committed_at.copy_(torch.arange(32))  # type: ignore[method-assign]
    state.failed_at.fill_(32)
    for size in (None, 32, 64, 88):
        steps._runs[size] = lambda: None
    for _ in range(20):
        before = time.perf_counter()
        done = list(steps.steps(Trace(positions), 0, positions, counts))
        times.append((time.perf_counter() - before) / 32 * 1e6)
    assert [step.positions.tolist() for step in done] == [[index] for index in range(40, 72)]
    assert min(times) < MICROSECONDS
