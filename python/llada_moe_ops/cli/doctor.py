"""``llada-moe doctor``: what was built, what this machine has, what is missing, each with what mends it."""

from __future__ import annotations

import os
import platform

from rich.console import Console
from rich.table import Table

from .. import __version__, cuda
from .checkpoint import EMBEDDED, has_embedded

REBUILD = "pip install --no-build-isolation --force-reinstall ."


def doctor() -> int:
    """Print the findings; 1 when something is missing, else 0."""
    findings: list[tuple[str, str]] = [
        ("llada_moe_ops", __version__),
        ("python", f"{platform.python_version()} on {platform.platform(terse=True)}"),
    ]
    problems: list[str] = []
    _torch(findings, problems)
    _extension(findings, problems)
    findings.append(("processors", str(os.cpu_count())))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    findings.append(("memory", f"{memory / 2**30:.1f} GiB"))
    if has_embedded():
        size = sum(path.stat().st_size for path in EMBEDDED.glob("*.safetensors"))
        findings.append(("embedded checkpoint", f"{size / 1e6:.1f} MB in {EMBEDDED}"))
    else:
        problems.append(f"the embedded checkpoint is not in {EMBEDDED}: reinstall the package")
    table = Table.grid(padding=(0, 2))
    for name, value in findings:
        table.add_row(name, value)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(table)
    for problem in problems:
        console.print(f"missing: {problem}")
    console.print("not everything is there" if problems else "everything is there")
    return 1 if problems else 0


def _cuda(findings: list[tuple[str, str]], problems: list[str]) -> None:
    """What CUDA needs, from the build to the device; a machine without a GPU misses nothing."""
    build, info = cuda.build_info(), cuda.runtime_info()
    if info is None:
        findings.append(("cuda built", "no: nvcc was not found, or LLADA_MOE_OPS_CUDA=off"))
        return
    findings.append(("cuda built", f"{', '.join(build[1])} by nvcc {build[0]}"))
    served = f"serves CUDA {cuda.version_text(info['driver'])}" if info["driver"] else "none"
    findings.append(("cuda driver", f"{served}; the build needs CUDA {cuda.version_text(info['runtime'])}"))
    if not info["devices"]:
        findings.append(("cuda device", f"none: {info['error']}"))
        if (too_old := cuda.driver_problem(info)) is not None:
            problems.append(too_old)
    for index, facts in enumerate(info["devices"]):
        problem = cuda.problem(index, build, info)
        if problem is not None:
            problems.append(problem)
            continue
        capability = facts["compute_capability"]
        findings.append(
            (
                f"cuda device {index}",
                f"{facts['name']}, {cuda.architecture_text(capability)}, {facts['multiprocessors']} multiprocessors, "
                f"{facts['memory'] / 2**30:.0f} GiB, path {cuda.path_for(capability, build[1])}",
            )
        )


def _torch(findings: list[tuple[str, str]], problems: list[str]) -> None:
    try:
        import torch
    except ImportError as error:
        problems.append(f"torch cannot be imported ({error}): pip install torch")
        return
    findings.append(("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"))


def _extension(findings: list[tuple[str, str]], problems: list[str]) -> None:
    try:
        from .. import _build_info
    except ImportError:
        problems.append("the extension is not built: pip install --no-build-isolation .")
        return
    findings.append(("built with", f"{_build_info.COMPILER}, torch {_build_info.TORCH_VERSION}"))
    findings.append(("paths built", ", ".join(_build_info.INSTRUCTION_SETS)))
    try:
        from .. import _C
    except ImportError as error:
        problems.append(f"the NumPy door does not load ({error}): {REBUILD}")
        return
    findings.append(("processor has", ", ".join(_C.available_isas())))
    try:
        findings.append(("path in force", f"{_C.isa()}, {_C.num_threads()} threads"))
    except (RuntimeError, ValueError) as error:
        problems.append(f"{error}: unset LLADA_MOE_OPS_ISA")
    _cuda(findings, problems)
    from ..ops._library import LIBRARY, native

    if not native():
        problems.append(f"{LIBRARY.name} does not load with this torch: {REBUILD}")
