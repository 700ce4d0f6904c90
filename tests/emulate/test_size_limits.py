"""Sizes beyond what 32 bits count are refused by every op's CUDA entry, in its own name."""

from __future__ import annotations

import subprocess

import pytest
from llada_moe_ops.ops._library import OPS

from .test_planted_faults import FOLDER

PROGRAM = FOLDER / "size_limits"


@pytest.mark.skipif(not PROGRAM.exists(), reason=f"no size_limits in {FOLDER}: build with -DLLADA_MOE_OPS_EMULATE=ON")
def test_every_op_refuses_more_rows_than_it_counts() -> None:
    done = subprocess.run([str(PROGRAM)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    refused = {line.split(":")[0] for line in done.stdout.splitlines()}
    assert refused == {
        op for op in OPS if not op.startswith("pack_") and not op.endswith(("_packed", "_layer", "_int8"))
    }
