"""What is said of a GPU that the build serves, or does not: the facts are made up, so no GPU is needed."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from llada_moe_ops import cuda
from llada_moe_ops.ops import _check, _library

from .emulated import ON_GPU, emulated_ops, needs_emulator

ROOT = Path(__file__).resolve().parent.parent
BUILD = ("13.0.88", ("compute_80", "sm_80", "sm_90", "sm_90a"))
H100 = {"name": "NVIDIA H100", "compute_capability": 90, "multiprocessors": 132, "memory": 80 << 30}
BUILT = bool(cuda.build_info()[0])
# "(C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to …", "setmaxnreg ignored …"
LOST_PERFORMANCE = re.compile(r"\(C75\d\d\)|Potential Performance Loss|serialized|setmaxnreg")
needs_cuda_build = pytest.mark.skipif(not BUILT, reason="built without CUDA: no nvcc, or LLADA_MOE_OPS_CUDA=off")


def info(driver: int = 13000, error: str = "", **changes: Any) -> dict[str, Any]:
    return {"driver": driver, "runtime": 13000, "error": error, "devices": [{**H100, **changes}]}


@pytest.mark.parametrize(
    ("capability", "built", "path"),
    [
        (90, BUILD[1], "sm90a"),
        (90, ("compute_80", "sm_80"), "sm80"),
        (80, BUILD[1], "sm80"),
        (89, BUILD[1], "sm80"),
        (120, BUILD[1], "sm80"),
        (86, ("sm_86",), "sm80"),
        (80, ("sm_86",), None),
        (90, ("sm_80",), None),
        (75, BUILD[1], None),
        (100, ("sm_90a",), None),
    ],
)
def test_the_path_of_a_device(capability: int, built: tuple[str, ...], path: str | None) -> None:
    assert cuda.path_for(capability, built) == path


def test_the_path_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLADA_MOE_OPS_ISA", "sm80")
    assert cuda.path_for(90, BUILD[1]) == "sm80"


def test_a_device_that_is_served_has_no_problem() -> None:
    assert cuda.problem(0, BUILD, info()) is None
    assert cuda.problem(0, BUILD, info(driver=13010)) is None


@pytest.mark.parametrize(
    ("device", "facts", "message"),
    [
        (0, None, "no CUDA kernels: put nvcc .*LLADA_MOE_OPS_CUDA=on pip install"),
        (
            0,
            info(driver=12040),
            r"driver is too old .* serves CUDA 12\.4, the build needs CUDA 13\.0: update the driver",
        ),
        (0, info(error="broken"), "the CUDA runtime says: broken"),
        (1, info(), "there is no CUDA device 1: 1 are visible"),
        (0, {**info(), "devices": [{"error": "lost"}]}, "device 0 does not answer: lost"),
        (0, info(compute_capability=75), r"\(sm_75\), is not among .*\(compute_80, .*the kernels need sm_80 or newer"),
    ],
)
def test_a_problem_names_what_mends_it(device: int, facts: dict[str, Any] | None, message: str) -> None:
    assert re.search(message, str(cuda.problem(device, BUILD, facts)))


def test_an_architecture_that_was_not_built_names_the_switch() -> None:
    problem = cuda.problem(0, ("13.0.88", ("sm_80",)), info(compute_capability=120))
    assert "TORCH_CUDA_ARCH_LIST=12.0 pip install" in str(problem)


def test_a_gpu_that_is_not_served_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library, "_gpus", {})
    monkeypatch.setattr(cuda, "runtime_info", lambda: None)
    with pytest.warns(RuntimeWarning, match="no CUDA kernels.*references run instead"):
        assert not _library.gpu_serves(0)
    assert not _library.gpu_serves(0)


def test_an_op_without_a_cuda_kernel_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu(torch.Tensor):
        device = torch.device("cuda", 0)

    x = torch.zeros(2).as_subclass(OnGpu)
    monkeypatch.setattr(_library, "_gpus", {0: True})
    monkeypatch.setattr(_library, "_loaded", True)
    monkeypatch.setattr(_library, "_without_kernel", {"attention": False})
    with pytest.warns(RuntimeWarning, match="attention has no CUDA kernel; its slow PyTorch reference runs on the GPU"):
        assert not _library.runs_natively(x, "attention")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not _library.runs_natively(x, "attention")
        assert not _library.runs_natively(x)
        assert _library.runs_natively(x, "linear")


@needs_cuda_build
def test_the_build_knows_its_cuda_kernels() -> None:
    assert _library.has_cuda_kernel("linear")
    assert not _library.has_cuda_kernel("linear_packed")


def test_float16_is_a_dtype_of_gpus_alone() -> None:
    class OnGpu(torch.Tensor):
        is_cuda = True

    half = torch.zeros(2, 3, dtype=torch.float16)
    _check.tensor("op", "x", half.as_subclass(OnGpu), dtypes=_check.FLOATING)
    with pytest.raises(TypeError, match="x must be float32 or bfloat16, got float16"):
        _check.tensor("op", "x", half, dtypes=_check.FLOATING)
    with pytest.raises(TypeError, match="x must be float32 or bfloat16 or float16, got float64"):
        _check.tensor("op", "x", half.double().as_subclass(OnGpu), dtypes=_check.FLOATING)


@needs_cuda_build
def test_the_library_loads_and_answers_without_a_driver() -> None:
    code = "from llada_moe_ops import _C; print(_C.cuda_info()['runtime'], bool(_C.cuda_info()['devices']))"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"1\d\d\d\d False\n", done.stdout)


@needs_cuda_build
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_the_runtime_s_names_stay_inside_the_library() -> None:
    core = next((Path(_library.LIBRARY)).parent.glob("libllada_moe_core.so"))
    exported = subprocess.run(["nm", "-D", "--defined-only", core], capture_output=True, text=True, check=True).stdout
    assert not re.search(r" (cuda[A-Z]\w*|__cuda\w+)$", exported, re.MULTILINE)
    assert "libcuda" not in subprocess.run(["readelf", "-d", core], capture_output=True, text=True, check=True).stdout
    ctypes.CDLL(str(core))


@needs_cuda_build
def test_no_kernel_spills_registers_or_waits_for_each_product() -> None:
    """ptxas's own account of the newest build of each source; it also says where it had to serialise wgmma (C75…)."""
    logs: dict[str, Path] = {}
    for path in sorted((ROOT / "build").glob("**/cuda/*.ptxas.txt"), key=lambda path: path.stat().st_mtime):
        logs[path.name] = path
    if not logs:
        pytest.skip("the build folder is gone")
    kernels = 0
    for path in logs.values():
        text = path.read_text(encoding="utf-8")
        spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", text)
        kernels += len(spills)
        assert set(spills) <= {("0", "0")}, f"{path}:\n{text}"
        assert not LOST_PERFORMANCE.search(text), f"{path}:\n{text}"
    assert kernels > 0


def test_a_forced_gpu_path_leaves_the_cpu_alone() -> None:
    code = "from llada_moe_ops import _C; from llada_moe_ops.ops._library import native; print(_C.isa(), native())"
    for name in ("sm80", "sm90a"):
        environment = {**os.environ, "LLADA_MOE_OPS_ISA": name}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
        )
        assert done.stdout == f"{_library.extension().available_isas()[0]} True\n", done.stderr
    environment = {**os.environ, "LLADA_MOE_OPS_ISA": "sm70"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert "or a GPU's (sm80, sm90a), got 'sm70'" in done.stderr


@needs_emulator
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (209, r"emulated H100 \(sm_90\) is not among the architectures built \(.*TORCH_CUDA_ARCH_LIST=<its arch"),
        (35, r"the driver serves CUDA 13\.0, this build needs CUDA 13\.0: update the driver"),
        (100, "no CUDA device is visible"),
        (2, "out of memory on the GPU"),
        (719, "cudaErrorLaunchFailure, .*LLADA_MOE_OPS_SYNC=1 if another kernel may be to blame"),
    ],
)
def test_an_error_code_becomes_an_exception_of_its_op(code: int, message: str) -> None:
    ops = emulated_ops()
    ops.report(torch.zeros(1), 0)
    with pytest.raises(RuntimeError, match=f"report: {message}"):
        ops.report(torch.zeros(1), code)
    assert emulated_ops().rms_norm(torch.ones(1, 4), torch.ones(4), 0.0).tolist() == [[1.0] * 4]  # the process goes on


@needs_emulator
def test_with_sync_an_error_is_its_op_s_own() -> None:
    code = "import torch; from tests.emulated import emulated_ops; emulated_ops().report(torch.zeros(1), 719)"
    environment = {**os.environ, "LLADA_MOE_OPS_SYNC": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    assert "report: cudaErrorLaunchFailure" in done.stderr
    assert "to blame" not in done.stderr


FAILS_LATER = """
from benchmarks.gpu_check import reduced
from tests.emulated import emulated, fail_later

with emulated(0):
    for op, function, _, arguments, options in reduced.calls():
        if op == "moe_mlp_int8":  # the package's function runs it on a GPU alone
            continue
        fail_later(719)
        try:
            function(*arguments, **options)
        except RuntimeError as error:
            print(op, str(error).split(",")[0], sep="|")
        else:
            print(op, "nothing", sep="|")
        fail_later(0)
"""


@needs_emulator
@pytest.mark.skipif(ON_GPU, reason="the emulator's")
@pytest.mark.parametrize("sync", ["1", "0"])
def test_a_kernel_that_fails_after_its_launch_is_its_op_s_with_sync_alone(sync: str) -> None:
    environment = {**os.environ, "LLADA_MOE_OPS_SYNC": sync}
    done = subprocess.run(
        [sys.executable, "-c", FAILS_LATER], capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    said = dict(line.split("|") for line in done.stdout.splitlines())
    on_gpus = {
        op for op in _library.OPS if not op.startswith("pack_") and not op.endswith(("_packed", "_layer", "_int8"))
    }
    assert set(said) == on_gpus
    for op, message in said.items():
        assert message == (f"{op}: cudaErrorLaunchFailure" if sync == "1" else "nothing")
