"""Which peers are there, and how exact they and this library are on a small layer: `python -m benchmarks.peers`."""

from __future__ import annotations

import torch

from . import all_peers, llama_cpp
from .ours import LOOP, OURS
from .peer import ACTIVATIONS, FORMATS, TOLERANCE
from .reference import reference, relative_error

EXPERTS, SLOTS, HIDDEN, INTERMEDIATE, TOKENS = 16, 8, 1024, 512, 40


def main() -> None:
    """Print one line per peer and format: its error against float64."""
    torch.manual_seed(0)
    for format in FORMATS:
        dtype = ACTIVATIONS[format]
        gate_up_proj = torch.randn(EXPERTS, 2 * INTERMEDIATE, HIDDEN).mul_(HIDDEN**-0.5).to(dtype)
        down_proj = torch.randn(EXPERTS, HIDDEN, INTERMEDIATE).mul_(INTERMEDIATE**-0.5).to(dtype)
        x, weights = torch.randn(TOKENS, HIDDEN).to(dtype), torch.rand(TOKENS, SLOTS)
        experts = torch.rand(TOKENS, EXPERTS).topk(SLOTS).indices
        expected = reference(x, weights, experts, gate_up_proj, down_proj, torch.float64)
        present, absent = all_peers(format)
        for peer in (peer for peer in (OURS, LOOP, *present) if format in peer.formats):
            try:
                error = relative_error(peer.build(gate_up_proj, down_proj, format)(x, weights, experts), expected)
            except RuntimeError as failure:
                absent[peer.name] = str(failure).splitlines()[0]
                continue
            verdict = "ok" if error <= TOLERANCE[format] else "WRONG"
            print(f"{format:<6}{peer.name:<28}{verdict:<8}relative error {error:.2g}", flush=True)
            peer.release()
        for name, reason in absent.items():
            print(f"{format:<6}{name:<28}absent  {reason}")
    print(f"whole {'llama.cpp':<28}{llama_cpp.available() or 'ok'}")


if __name__ == "__main__":
    main()
