"""Builds the binaries with CMake; everything else is in pyproject.toml.

Switches: LLADA_MOE_OPS_CUDA=auto|on|off (auto: where nvcc is), TORCH_CUDA_ARCH_LIST,
LLADA_MOE_OPS_SANITIZE=address,undefined|thread, MAX_JOBS (derived from cores and memory when unset), CXX.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PACKAGE = "llada_moe_ops"
BINARIES = (
    "libllada_moe_core.so",
    "libllada_moe_torch.so",
    f"_C{sysconfig.get_config_var('EXT_SUFFIX')}",
    "_build_info.py",
)
GIB_PER_JOB = 1.5


def stop(message: str) -> None:
    sys.exit(f"{PACKAGE}: {message}")


def torch_folder() -> str:
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        stop(
            "torch is not installed here (or hidden by build isolation): type "
            "`pip install torch numpy setuptools cmake ninja pybind11 && pip install --no-build-isolation .`"
        )
    return next(iter(spec.submodule_search_locations))


def compiler() -> str:
    """A C++20 compiler: $CXX, else the first of c++, g++, clang++."""
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    program = "#include <bit>\n#include <span>\nint main() { return std::bit_cast<int>(0u); }\n"
    for name in wanted:
        if shutil.which(name) is None:
            continue
        command = [name, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"]
        if subprocess.run(command, input=program.encode(), capture_output=True, check=False).returncode == 0:
            return name
    stop(f"no C++20 compiler among {', '.join(wanted)}: type `sudo apt install g++` (11 or newer), or set CXX")
    raise AssertionError


def jobs() -> int:
    if os.environ.get("MAX_JOBS"):
        return int(os.environ["MAX_JOBS"])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 2**30
    return max(1, min(os.cpu_count() or 1, int(memory / GIB_PER_JOB)))


class CMakeBuild(build_ext):
    """Runs CMake once for all binaries: in place for an editable install, else into the wheel's tree."""

    def run(self) -> None:
        torch, cxx = torch_folder(), compiler()
        if importlib.util.find_spec("pybind11") is None:
            stop("pybind11 is not installed here: type `pip install pybind11`")
        for tool in ("cmake", "ninja"):
            if shutil.which(tool) is None:
                stop(f"{tool} is not installed here: type `pip install {tool}`")
        sanitize = os.environ.get("LLADA_MOE_OPS_SANITIZE", "")
        # Kept from build to build, so that a second one compiles only what changed.
        build = ROOT / "build" / "-".join([sys.implementation.cache_tag, *sanitize.split(",")]).rstrip("-")
        configure = [
            *("cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"),
            f"-DCMAKE_CXX_COMPILER={cxx}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DLLADA_MOE_OPS_TORCH_DIR={torch}",
            f"-DLLADA_MOE_OPS_OUTPUT_DIR={self._output_folder()}",
            f"-DLLADA_MOE_OPS_SANITIZE={sanitize}",
            f"-DLLADA_MOE_OPS_CUDA={os.environ.get('LLADA_MOE_OPS_CUDA') or 'auto'}",
            f"-DTORCH_CUDA_ARCH_LIST={os.environ.get('TORCH_CUDA_ARCH_LIST', '')}",
            "-DLLADA_MOE_OPS_TESTS=OFF",
            # The tests of a checkout run the CUDA kernels on the CPU; a wheel has no tests.
            f"-DLLADA_MOE_OPS_EMULATE={'ON' if self._in_place() and platform.machine() == 'x86_64' else 'OFF'}",
        ]
        for command in (configure, ["cmake", "--build", str(build), "--parallel", str(jobs())]):
            if subprocess.run(command, check=False).returncode != 0:
                stop(f"the build failed, see above: {' '.join(command)}")

    def _in_place(self) -> bool:
        return bool(self.inplace or getattr(self, "editable_mode", False))

    def _output_folder(self) -> Path:
        return ROOT / "python" / PACKAGE if self._in_place() else Path(self.build_lib).resolve() / PACKAGE

    def get_outputs(self) -> list[str]:
        return [str(self._output_folder() / name) for name in BINARIES]

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def get_source_files(self) -> list[str]:
        return []


setup(license="Apache-2.0", ext_modules=[Extension(f"{PACKAGE}._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
