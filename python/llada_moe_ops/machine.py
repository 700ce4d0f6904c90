"""Facts of this machine and build, as they stand beside measured figures; no torch."""

from __future__ import annotations

import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

REINSTALL = "pip install --no-build-isolation --force-reinstall --no-deps ."


def extension() -> Any:
    """The module ``_C``.

    Raises:
        RuntimeError: it is not built, or does not load; the message says what to type.
    """
    try:
        from . import _C
    except ImportError as error:
        raise RuntimeError(
            f"the extension is not built or does not load ({error}): type `pip install --no-build-isolation .`"
        ) from error
    return _C


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine_facts() -> dict[str, Any]:
    """Processor, cores, caches and memory (bytes), instruction set in force, compiler, version and date.

    Raises:
        RuntimeError: the extension is not built.
        ValueError: LLADA_MOE_OPS_ISA forces an instruction set that this processor lacks.
    """
    from . import __version__

    native = extension()
    return {
        "processor": processor(),
        "cores": available_cores(),
        "caches": native.cache_sizes(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "isa": native.isa(),
        "compiler": native.build_info()["compiler"],
        "llada_moe_ops": __version__,
        "date": date.today().isoformat(),
    }
