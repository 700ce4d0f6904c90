"""Every planted fault and every broken rule is reported; the same kernels without a fault are clean.

The program tells the build it is: plain, or with AddressSanitizer + UBSan, or with ThreadSanitizer (tests/sanitize.sh).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = Path(os.environ.get("LLADA_MOE_OPS_EMULATE_DIR") or ROOT / "build/emulate")
PROGRAM = FOLDER / "planted_faults"

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(), reason=f"no planted_faults in {FOLDER}: build with -DLLADA_MOE_OPS_EMULATE=ON"
)

EVERYWHERE = frozenset({"plain", "address", "thread"})
# What must be seen in which build. A build may see more.
FAULTS = [
    ("sort", "missing_barrier", EVERYWHERE),
    ("sort", "off_by_one", EVERYWHERE),
    ("product_sm80", "missing_barrier", EVERYWHERE),
    ("product_sm80", "off_by_one", {"address"}),
    ("product_sm80", "unwaited_copy", EVERYWHERE),
    ("product_sm80", "swapped_fragment", EVERYWHERE),
    ("product_sm80", "wrong_swizzle", EVERYWHERE),
    ("product_sm80", "read_past_end", {"address"}),
    ("product_sm90", "missing_barrier", EVERYWHERE),
    ("product_sm90", "unwaited_copy", EVERYWHERE),
    ("product_sm90", "wrong_swizzle", EVERYWHERE),
    ("product_sm90", "wrong_bytes", EVERYWHERE),
    ("product_sm90", "wrong_descriptor", EVERYWHERE),
    ("product_sm90", "freed_too_early", EVERYWHERE),
    ("product_sm90", "unwaited_product", EVERYWHERE),
    ("product_sm90", "missing_turn", EVERYWHERE),
    ("product_sm90", "wrong_stage", EVERYWHERE),
]
RULES = {
    "divergent_barrier": "divergent, lanes of one warp come from line",
    "exited_thread_barrier": "1 threads of the block have exited",
    "deadlock": "waits at bar.sync, broken_rules.cu:",
    "divergent_shuffle": "divergent warp: lanes meet in __shfl",
    "lane_outside_mask": "is not in its own mask 0000ffff",
    "over_arrival": "more arrivals at the mbarrier than it was initialised with",
    "use_before_init": "the mbarrier was not initialised, or was overwritten",
    "too_few_bytes": "waits at mbarrier wait, broken_rules.cu:",
    "copy_in_flight_at_exit": "a thread exits with cp.async in flight",
    "bulk_copy_in_flight_at_exit": "a block exits with bulk copies in flight",
    "misaligned_copy": "an address is not aligned to 16 bytes",
    "waiting_for_nobody": "every thread only yields to another",
    "half_a_warpgroup": "not a full warpgroup of 128 threads",
}


def run(subject: str, fault: str, seed: int) -> tuple[int, str]:
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"}
    environment.pop("LD_PRELOAD", None)
    command = [str(PROGRAM), subject, fault, str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    return done.returncode, done.stdout + done.stderr


BUILD = run("build", "", 0)[1].strip() if PROGRAM.exists() else "plain"
SEEDS = range(2) if BUILD == "thread" else range(8)


@pytest.mark.parametrize("subject", ["sort", "product_sm80", "product_sm90"])
def test_without_a_fault_all_is_clean(subject: str) -> None:
    for seed in SEEDS:
        assert run(subject, "none", seed) == (0, "right\n"), f"seed {seed}"


@pytest.mark.parametrize(
    ("subject", "fault"), [(subject, fault) for subject, fault, builds in FAULTS if BUILD in builds]
)
def test_a_planted_fault_is_reported(subject: str, fault: str) -> None:
    assert any(run(subject, fault, seed)[0] != 0 for seed in SEEDS)


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_is_named(rule: str) -> None:
    reports = [run("rule", rule, seed) for seed in range(2)]
    assert any(status == 2 and RULES[rule] in text for status, text in reports), reports


def test_every_fault_is_seen_by_some_build() -> None:
    assert all(builds for _, _, builds in FAULTS)
    named = set((ROOT / "tests/emulate/planted_faults.cpp").read_text().split('"')[1::2])
    assert {fault for _, fault, _ in FAULTS} <= named
