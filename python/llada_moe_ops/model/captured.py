"""A forward pass of fixed sizes as one CUDA graph: launching its hundreds of kernels one by one costs more time than a
GPU needs for the small ones of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..ops._library import gpu_serves, has_cuda_kernel
from .inputs import KeyMask, Place
from .key_value_cache import KeyValueCache

if TYPE_CHECKING:
    from .model import LLaDAMoEModel

OPS = ("rms_norm", "add_rms_norm", "linear", "qk_norm_rope", "attention", "router")
Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


def can_capture(model: LLaDAMoEModel) -> bool:
    """Whether a pass of this model is a series of kernels that nobody watches: on a GPU, no reference, no hooks."""
    if os.environ.get("LLADA_MOE_OPS_SYNC") == "1":  # each op waits for its kernels
        return False
    ops = (*OPS, "moe_mlp" if model.quantization is None else "moe_mlp_int8")
    if model.device.type != "cuda" or not gpu_serves(model.device.index or 0) or not all(map(has_cuda_kernel, ops)):
        return False
    return not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def record_cuda_graph(function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """(what runs the function's kernels again, its result, which each run overwrites)."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()  # beside the capture: what is made once, such as rotary frequencies, is made now
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        result = function()
    return graph.replay, result


class CapturedPass:
    """``model.run`` for tokens [B, W] at positions [B, W], with or without a key range and a cache, which it writes.

    Made from the first inputs of their sizes. The result of a call is overwritten by the next.
    """

    def __init__(
        self,
        model: LLaDAMoEModel,
        cache: KeyValueCache | None,
        input_ids: Tensor,
        positions: Tensor,
        key_range: Tensor | None,
        record: Recorder = record_cuda_graph,
    ) -> None:
        self._input_ids, self._positions = input_ids.clone(), positions.clone()
        self._key_range = None if key_range is None else key_range.clone()
        place = Place(self._positions, KeyMask(key_range=self._key_range), cache)
        # Passes with the same inputs leave the same cache, so recording one more of them changes nothing.
        self._replay, self._hidden = record(lambda: model.run(self._input_ids, place))

    def __call__(self, input_ids: Tensor, positions: Tensor, key_range: Tensor | None) -> Tensor:
        """Final hidden states [B, W, H]."""
        self._input_ids.copy_(input_ids)
        self._positions.copy_(positions)
        if self._key_range is not None:
            assert key_range is not None
            self._key_range.copy_(key_range)
        self._replay()
        return self._hidden
