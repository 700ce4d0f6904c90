"""What this build and this machine can do with CUDA, and what mends it where they cannot; no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .machine import REINSTALL, extension

OLDEST = 80  # the oldest architecture with cp.async and mma for bfloat16, which the kernels are written for


def build_info() -> tuple[str, Sequence[str]]:
    """(version of the nvcc that built the kernels, architectures built); ("", ()) without CUDA in the build."""
    try:
        from . import _build_info
    except ImportError:
        return "", ()
    return _build_info.NVCC_VERSION, _build_info.CUDA_ARCHITECTURES


def runtime_info() -> dict[str, Any] | None:
    """Driver, runtime, devices and the runtime's error, as the module ``_C`` gives them; None: built without CUDA.

    Raises:
        RuntimeError: the extension is not built.
    """
    info: dict[str, Any] | None = extension().cuda_info()
    return info


def version_text(version: int) -> str:
    """13000 as "13.0"."""
    return f"{version // 1000}.{version % 1000 // 10}"


def architecture_text(capability: int) -> str:
    """90 as "sm_90"."""
    return f"sm_{capability}"


def path_for(capability: int, built: Sequence[str]) -> str | None:
    """The kernels that a device runs - "sm90a" or "sm80" -, or None where none of those built runs on it.

    LLADA_MOE_OPS_ISA=sm80 forces the older ones where an op has both.
    """
    if os.environ.get("LLADA_MOE_OPS_ISA") != "sm80" and capability == 90 and "sm_90a" in built:
        return "sm90a"
    newest_ptx = max(
        (int(name.removeprefix("compute_")) for name in built if name.startswith("compute_")), default=None
    )
    binaries = {int(name.removeprefix("sm_")) for name in built if name.removeprefix("sm_").isdigit()}
    # A binary runs on the later minor versions of its major version, PTX on anything later.
    runs = any(have // 10 == capability // 10 and have <= capability for have in binaries)
    runs = runs or (newest_ptx is not None and newest_ptx <= capability)
    return "sm80" if runs else None


def driver_problem(info: dict[str, Any]) -> str | None:
    """What is wrong when a driver is there but too old for the build, with what mends it."""
    if not info["driver"] or info["driver"] // 1000 >= info["runtime"] // 1000:
        return None
    return (
        f"the driver is too old for this build: it serves CUDA {version_text(info['driver'])}, the build needs "
        f"CUDA {version_text(info['runtime'])}: update the driver, or build with an older nvcc"
    )


def problem(device: int, build: tuple[str, Sequence[str]], info: dict[str, Any] | None) -> str | None:
    """Why the kernels built do not run on a device, with the command that mends it; None where they do.

    Args:
        device: its index among the visible devices.
        build: of :func:`build_info`.
        info: of :func:`runtime_info`.
    """
    built = build[1]
    if info is None:
        return (
            "this build has no CUDA kernels: put nvcc (CUDA 12 or newer) on PATH and type "
            f"`LLADA_MOE_OPS_CUDA=on {REINSTALL}`"
        )
    if (too_old := driver_problem(info)) is not None:
        return too_old
    if info["error"]:
        return f"the CUDA runtime says: {info['error']}"
    if device >= len(info["devices"]):
        return f"there is no CUDA device {device}: {len(info['devices'])} are visible"
    facts = info["devices"][device]
    if "error" in facts:
        return f"CUDA device {device} does not answer: {facts['error']}"
    capability = facts["compute_capability"]
    if path_for(capability, built) is None:
        mend = (
            f"type `TORCH_CUDA_ARCH_LIST={capability // 10}.{capability % 10} {REINSTALL}`"
            if capability >= OLDEST
            else f"the kernels need {architecture_text(OLDEST)} or newer"
        )
        return (
            f"CUDA device {device}, {facts['name']} ({architecture_text(capability)}), is not among the architectures "
            f"built ({', '.join(built)}): {mend}"
        )
    return None
