"""The public functions on CUDA tensors: what the emulator has no part in (devices, streams, graphs, gradients)."""

from __future__ import annotations

import pytest
import torch
from llada_moe_ops import ops
from llada_moe_ops.ops._library import has_cuda_kernel
from torch import Tensor

from benchmarks.gpu_check import reduced
from tests import cases
from tests.on_gpu import needs_gpu, to_gpu

pytestmark = needs_gpu
CALLS = list(reduced.calls())
WITHOUT_SYNC = [call for call in CALLS if has_cuda_kernel(call[0])]


@pytest.mark.parametrize("call", CALLS, ids=[call[0] for call in CALLS])
def test_every_op_agrees_with_its_reference(call: reduced.Call) -> None:
    reduced.check(call)


@pytest.mark.parametrize("call", WITHOUT_SYNC, ids=[call[0] for call in WITHOUT_SYNC])
def test_every_op_can_be_captured_and_follows_its_stream(call: reduced.Call) -> None:
    _, function, _, arguments, options = call
    values = [to_gpu(value) for value in arguments]
    named = {name: to_gpu(value) for name, value in options.items()}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        function(*values, **named)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph, stream=stream):
        captured = function(*values, **named)
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point():
            value.mul_(0.5)
    graph.replay()
    with torch.no_grad():
        expected = function(*values, **named)
    captured, expected = (value if isinstance(value, tuple) else (value,) for value in (captured, expected))
    for found, wanted in zip(captured, expected, strict=True):
        assert torch.equal(found, wanted)


def test_tensors_on_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="linear: weight must be on cuda:0, got cpu"):
        ops.linear(torch.zeros(2, 4).cuda(), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="linear: weight must be on cpu, got cuda:0"):
        ops.linear(torch.zeros(2, 4), torch.zeros(3, 4).cuda())


def test_gradients_are_the_cpu_s() -> None:
    x, weights, experts, gate_up, down = cases.expert_layer((13, 2, 4, 33, 16), "random", torch.float32)

    def gradients(device: str) -> list[Tensor]:
        inputs = [value.to(device).requires_grad_() for value in (x, weights, gate_up, down)]
        ops.moe_mlp(inputs[0], inputs[1], experts.to(device), *inputs[2:]).square().sum().backward()
        return [value.grad.cpu() for value in inputs if value.grad is not None]

    for mine, other in zip(gradients("cuda"), gradients("cpu"), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_out_of_memory_is_an_error_and_the_process_goes_on() -> None:
    x, weight = torch.ones(1 << 20, 1).cuda(), torch.ones(1 << 22, 1).cuda()
    with pytest.raises(RuntimeError, match=r"out of memory|allocate"):
        ops.linear(x, weight)
    assert ops.linear(x[:2], weight[:3]).sum() == 6
