"""The C++ tests, built and run by CMake."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INSTALLED = ROOT / "build" / str(sys.implementation.cache_tag)


def succeed(*command: str | Path) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("ninja") is None, reason="needs cmake and ninja")
def test_core() -> None:
    # On the objects of the editable install where there is one: they need not be compiled again.
    if (INSTALLED / "CMakeCache.txt").exists():
        build, configuration = INSTALLED, ()
    else:
        build = ROOT / "build" / "cpp-tests"
        configuration = ("-G", "Ninja", "-DLLADA_MOE_OPS_DOORS=OFF", "-DLLADA_MOE_OPS_CUDA=off")
    succeed("cmake", "-S", ROOT, "-B", build, "-DLLADA_MOE_OPS_TESTS=ON", *configuration)
    tests = [path.stem for path in ROOT.glob("tests/cpp/*.cpp")]
    succeed("cmake", "--build", build, "--target", *tests, "product_alone", "attention_alone")
    succeed("ctest", "--test-dir", build, "--output-on-failure", "--no-tests=error")
