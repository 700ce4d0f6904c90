"""Stage build: CMake with what is installed, into the checkout; no network, no virtual environment, no pip.

pip would do the same by way of setup.py, but write into the Python that it finds. A library that was built elsewhere
(``--library``) is only loaded.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .machine import find_tool
from .stage import ROOT, Findings, run

FOLDER = ROOT / "build" / "gpu-check" / "cmake"
CHECK = """
import torch
from llada_moe_ops import cuda
from llada_moe_ops.ops import _library
assert _library.native(), "the library does not load"
build, info = cuda.build_info(), cuda.runtime_info()
print("llada_moe_ops from", _library.LIBRARY)
print("built for torch", _library.built_for_torch(), "and runs with", torch.__version__)
print("nvcc", build[0], "for", ", ".join(build[1]))
if torch.cuda.is_available():
    problem = cuda.problem(0, build, info)
    assert problem is None, problem
    print("path", cuda.path_for(info["devices"][0]["compute_capability"], build[1]))
"""


def configure_command(ninja: bool) -> list[str]:
    """CMake's command line."""
    cmake = [shutil.which("cmake") or ""] if shutil.which("cmake") else [sys.executable, "-m", "cmake"]
    nvcc = find_tool("nvcc")
    return [
        *cmake,
        *("-S", str(ROOT), "-B", str(FOLDER), "-G", "Ninja" if ninja else "Unix Makefiles"),
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DLLADA_MOE_OPS_CUDA={'on' if nvcc else 'off'}",
        *([f"-DLLADA_NVCC={nvcc}"] if nvcc else []),
        *("-DLLADA_MOE_OPS_EMULATE=ON", "-DLLADA_MOE_OPS_TESTS=OFF"),
        f"-DTORCH_CUDA_ARCH_LIST={os.environ.get('TORCH_CUDA_ARCH_LIST', '')}",
    ]


def spills(folder: Path) -> list[str]:
    """The sources whose kernels spill registers, by ptxas's own account."""
    found = []
    for log in sorted(folder.glob("**/*.ptxas.txt")):
        stores = re.findall(r"(\d+) bytes spill stores", log.read_text(encoding="utf-8"))
        if any(int(count) for count in stores):
            found.append(log.name.removesuffix(".ptxas.txt"))
    return found


def build(findings: Findings) -> None:
    """Configure, build, load."""
    if "LLADA_MOE_OPS_LIBRARY_DIR" not in os.environ:
        ninja = shutil.which("ninja") is not None
        if not ninja:
            findings.note("ninja is not installed: built with make")
        if importlib.util.find_spec("pybind11") is None:
            findings.note("pybind11 is not installed: its headers within torch are taken")
        if find_tool("nvcc") is None:
            findings.fail("nvcc is not found on PATH, in $CUDA_HOME or in /usr/local/cuda")
        configure = configure_command(ninja)
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        for command in (configure, [*configure[: configure.index("-S")], "--build", str(FOLDER), "--parallel", jobs]):
            print("$", " ".join(command), flush=True)
            if subprocess.run(command, check=False).returncode != 0:
                findings.fail(f"{' '.join(command)} failed")
                return
        for name in spills(FOLDER):
            findings.note(f"{name}.cu has kernels that spill registers")
    check = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=False)
    for line in check.stdout.splitlines():
        findings.note(line)
    if check.returncode != 0:
        findings.fail(f"the library does not serve: {(check.stderr.strip().splitlines() or ['?'])[-1]}")


if __name__ == "__main__":
    run(build)
