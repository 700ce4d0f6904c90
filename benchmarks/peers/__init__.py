"""Other implementations of the expert layer, each behind the same call; `all_peers` names those that are there."""

from __future__ import annotations

from . import ktransformers, onnxruntime_experts, sgl_kernel, torchao_experts, transformers_experts, vllm_cpu, zentorch
from .peer import Peer

MODULES = (zentorch, sgl_kernel, vllm_cpu, transformers_experts, torchao_experts, onnxruntime_experts, ktransformers)


def all_peers(format: str) -> tuple[list[Peer], dict[str, str]]:
    """The peers that have the format and run here, and why the others do not."""
    present, absent = [], {}
    for module in MODULES:
        for peer in module.PEERS:
            if format in peer.formats:
                reason = peer.available()
                if reason is None:
                    present.append(peer)
                else:
                    absent[peer.name] = reason
    return present, absent
