"""Stand-ins for CUDA graphs, and rules that a capture would enforce, on a machine without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from llada_moe_ops.ops import _check
from llada_moe_ops.sampling import CACHES
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Cache policies under which whole steps can be captured.
CAPTURABLE_CACHES = [name for name, policy in CACHES.items() if name == "none" or getattr(policy, "capturable", False)]
READS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique", "repeat_interleave", "bincount")


@contextmanager
def nothing_read_on_the_host() -> Iterator[None]:
    """Refuses what would make the host wait for a GPU, and so cannot be captured (in inference mode not all of it)."""

    class Refuse(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func.name()
            assert not any(name.removeprefix("aten::").split(".")[0] == read for read in READS), name
            return func(*args, **(kwargs or {}))

    with pytest.MonkeyPatch.context() as patch, Refuse():
        patch.setattr(_check, "index_range", lambda *_: None)  # reads on the CPU alone
        yield


class NoNumbers(TorchFunctionMode):
    """Refuses tensors made of numbers: copies from the host."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy), func
        return func(*args, **(kwargs or {}))


class OneDevice(TorchDispatchMode):
    """Refuses ops on, or to, another device than meta: copies between host and device.

    On meta itself nothing has a value, so whatever needs one on the host - ``item``, ``tolist``, ``nonzero``, sizes
    that depend on what a tensor holds - raises by itself.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            assert not isinstance(value, Tensor) or value.is_meta, f"{func.name()} on {value.device}"
        return result


@contextmanager
def on_the_device_alone() -> Iterator[None]:
    """What runs within, on the meta device, needs no value on the host and takes none from it."""
    with NoNumbers(), OneDevice():
        yield


def record_eagerly(function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """In place of a graph: the function again, its result where it was."""
    result = function().clone()

    def replay() -> None:
        with nothing_read_on_the_host():
            result.copy_(function())

    return replay, result
