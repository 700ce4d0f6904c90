"""Facts of the machine: ``python -m benchmarks.gpu_check.machine`` prints them as JSON, from a process of its own."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .stage import ROOT

PACKAGES = ("torch", "triton", "numpy", "pytest", "hypothesis", "pytest-benchmark", "safetensors", "tokenizers")
CLOCKS = {
    "clocks.sm": "sm_mhz",
    "clocks.mem": "memory_mhz",
    "clocks.max.sm": "max_sm_mhz",
    "clocks.max.mem": "max_memory_mhz",
    "power.draw": "power_w",
    "power.limit": "power_limit_w",
    "temperature.gpu": "temperature_c",
    "clocks_event_reasons.active": "slowed_by",
}


def output_of(command: Sequence[str]) -> str | None:
    """What a program prints, or None where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def find_tool(name: str) -> str | None:
    """A program of the CUDA toolkit: on PATH, in $CUDA_HOME or in /usr/local/cuda."""
    if (found := shutil.which(name)) is not None:
        return found
    folders = [Path(os.environ[variable]) for variable in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(variable)]
    for folder in (*folders, Path("/usr/local/cuda")):
        for place in ("bin", "compute-sanitizer"):
            if os.access(folder / place / name, os.X_OK):
                return str(folder / place / name)
    return None


def clocks() -> dict[str, str]:
    """Clocks, power and temperature of the first GPU at this moment; empty without nvidia-smi."""
    query = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader,nounits"]
    text = output_of(query)
    if text is None:
        return {}
    return dict(zip(CLOCKS.values(), (part.strip() for part in text.split(",")), strict=False))


def sources() -> dict[str, str]:
    """The commit, where this is a checkout, and a digest of the sources, which a plain copy has too."""
    digest = hashlib.sha256()
    for folder in ("csrc", "python", "benchmarks", "tests"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".cu", ".cpp", ".h", ".py", ".cmake"):
                digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    commit = output_of(["git", "rev-parse", "HEAD"]) if (ROOT / ".git").exists() else None
    changed = bool(output_of(["git", "status", "--porcelain", "--untracked-files=no"])) if commit else False
    return {
        "commit": (commit + (" with changes" if changed else "")) if commit else "unknown: a copy without .git",
        "sources_sha256": digest.hexdigest(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu() -> dict[str, Any]:
    """The first GPU as torch sees it, or why there is none."""
    try:
        import torch
    except ImportError as error:
        return {"none": f"torch cannot be imported ({error})"}
    if not torch.backends.cuda.is_built():
        return {"none": f"torch {torch.__version__} is built without CUDA"}
    if not torch.cuda.is_available():
        return {"none": f"torch {torch.__version__} finds none (is there a driver? is CUDA_VISIBLE_DEVICES empty?)"}
    facts = torch.cuda.get_device_properties(0)
    return {
        "name": facts.name,
        "compute_capability": f"{facts.major}.{facts.minor}",
        "multiprocessors": facts.multi_processor_count,
        "memory_bytes": facts.total_memory,
        "l2_bytes": facts.L2_cache_size,
        "torch_cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def facts() -> dict[str, Any]:
    """Device, driver, versions, sources."""
    nvcc = find_tool("nvcc")
    compiler = (output_of([nvcc, "--version"]) or "").splitlines() if nvcc else []
    return {
        "gpu": _gpu(),
        "driver": output_of(["nvidia-smi", "--id=0", "--query-gpu=driver_version", "--format=csv,noheader"]),
        "clocks": clocks(),
        "nvcc": next((line.rsplit("V", 1)[-1] for line in compiler if "release" in line), None),
        "python": platform.python_version(),
        "host": f"{platform.platform(terse=True)}, {os.cpu_count()} cores",
        "packages": {name: _version(name) for name in PACKAGES},
        **sources(),
    }


if __name__ == "__main__":
    print(json.dumps(facts()))
