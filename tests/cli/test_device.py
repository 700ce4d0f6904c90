"""Where a model runs when --device is auto; the facts of the GPU are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from llada_moe_ops import cuda
from llada_moe_ops.cli.device import choose_device
from llada_moe_ops.cli.options import Dtype, ModelChoice, Quantization

from .conftest import Command

CARD = {"name": "NVIDIA H100", "compute_capability": 90, "multiprocessors": 132, "memory": 80 << 30}


@pytest.mark.parametrize(
    ("changes", "visible", "choice", "device", "why"),
    [
        ({}, True, {}, "cuda", "NVIDIA H100"),
        ({}, True, {"quantization": Quantization.int8}, "cuda", "NVIDIA H100"),
        (
            {},
            True,
            {"quantization": Quantization.int8, "dtype": Dtype.float32},
            "cpu",
            "with fp32 activations run there",
        ),
        ({}, True, {"quantization": Quantization.int4}, "cpu", "int4 weights run there alone"),
        ({}, False, {}, "cpu", "sees no CUDA device"),
        ({"devices": [{**CARD, "compute_capability": 70}]}, True, {}, "cpu", "not among the architectures built"),
        ({"devices": [], "driver": 12040}, False, {}, "cpu", "the driver is too old"),
        ({"devices": [], "driver": 0, "error": "no driver"}, False, {}, "cpu", None),
        (None, True, {}, "cpu", "this build has no CUDA kernels"),
        (None, False, {}, "cpu", None),
    ],
)
def test_the_choice(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    changes: dict[str, Any] | None,
    visible: bool,
    choice: dict[str, Any],
    device: str,
    why: str | None,
) -> None:
    info = None if changes is None else {"driver": 13000, "runtime": 13000, "error": "", "devices": [CARD], **changes}
    monkeypatch.setattr(cuda, "runtime_info", lambda: info)
    monkeypatch.setattr(cuda, "build_info", lambda: ("13.0.88", ("compute_80", "sm_80", "sm_90a")))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible)
    found, said = choose_device(ModelChoice(None, **choice), tmp_path)
    assert found == device
    assert (said is None) == (why is None)
    assert why is None or why in str(said)


def test_packed_weights_stay_on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "packed.safetensors").touch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(ModelChoice(None), tmp_path) == ("cpu", "packed weights run there alone")


def test_the_choice_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, command: Command, checkpoint: Path) -> None:
    monkeypatch.setattr("llada_moe_ops.cli.device.choose_device", lambda choice, folder: ("cpu", "made up"))
    call = ("generate", "-m", checkpoint, "--gen-length", "4", "sort cab")
    assert command(*call).err == "llada-moe: on the CPU (made up)\n"
    assert command(*call, "--device", "cpu").err == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(command: Command, checkpoint: Path) -> None:
    done = command("score", "-m", checkpoint, "--device", "cuda", "sort cab", "abc")
    assert done.code == 1
    assert done.err == "llada-moe: device must be one that torch sees, got 'cuda': it sees 0 CUDA devices\n"
