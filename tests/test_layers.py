"""Arrows point down only: CLI, sampling, model, ops, binding, kernels (design: each layer knows those below it)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "llada_moe_ops"
# Each layer and what it may import of the package, besides itself and files.py.
ALLOWED = {
    "ops": set(),
    "model": {"ops"},
    "sampling": {"model", "ops"},
    "training": {"sampling", "model", "ops"},
    "cli": {"training", "sampling", "model", "ops"},
}
FRAMEWORKS = re.compile(r'#include\s*[<"](torch/|ATen/|c10/|pybind11/|Python\.h)')
INCLUDE = re.compile(r'#include\s*"([^"/]+)/')


def imported_layers(path: Path) -> set[str]:
    """First component, below the package, of everything that a module imports."""
    here = ["llada_moe_ops", *path.relative_to(PACKAGE).with_suffix("").parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            targets = [[*base, *(node.module or "").split(".")]]
            if not node.module:
                targets = [[*base, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        else:
            continue
        found |= {
            parts[1] for target in targets if (parts := [p for p in target if p])[0] == here[0] and len(parts) > 1
        }
    return found


@pytest.mark.parametrize("layer", ALLOWED)
def test_python_layers(layer: str) -> None:
    modules = sorted((PACKAGE / layer).rglob("*.py"))
    assert modules
    for path in modules:
        extra = (imported_layers(path) & set(ALLOWED)) - ALLOWED[layer] - {layer}
        assert not extra, f"{path.relative_to(ROOT)} imports {sorted(extra)}"


def test_only_the_binding_sees_torch_or_python() -> None:
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cpp", ".cu")]
    offenders = [path for path in sources if FRAMEWORKS.search(path.read_text()) and "binding" not in path.parts]
    assert len(sources) > 20
    assert offenders == []


def test_kernels_include_no_binding_and_common_no_kernel() -> None:
    for path in (ROOT / "csrc").rglob("*"):
        if path.suffix not in (".h", ".cpp", ".cu") or "binding" in path.parts:
            continue
        included = set(INCLUDE.findall(path.read_text()))
        assert "binding" not in included, path
        if path.parent.name == "common":
            assert included <= {"common"}, path
        if path.parent.name == "cpu":
            assert included <= {"common", "cpu"}, path


def test_the_doors_do_not_see_each_other() -> None:
    for door, foreign in (("torch", re.compile("pybind11/|Python.h")), ("numpy", re.compile("<torch/|binding/torch"))):
        sources = [path for path in (ROOT / "csrc" / "binding" / door).rglob("*") if path.is_file()]
        assert sources
        for path in sources:
            assert not foreign.search(path.read_text()), path


def test_cuda_s_headers_are_for_the_cuda_folder_and_std_containers_not_for_kernels() -> None:
    toolkit = re.compile(r"#include\s*[<\"](cuda_\w+\.h|cuda\.h|mma\.h|cooperative_groups\.h)[>\"]")
    container = re.compile(r"#include\s*<(vector|string|map|array|unordered_map|functional)>")
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cpp", ".cu")]
    kernels = [path for path in sources if path.suffix == ".cu"]
    assert len(kernels) > 3
    assert {path.parent.name for path in sources if toolkit.search(path.read_text())} == {"cuda"}
    assert [path for path in kernels if container.search(path.read_text())] == []
