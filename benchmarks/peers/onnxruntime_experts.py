"""onnxruntime: its operator QMoE, int8 or int4 weights with fp32 activations.

It chooses the experts itself, from logits. Given the logarithms of the routing weights, and nothing for the other
experts, it arrives at these weights divided by their sum. (MoE, the same in fp32, would not fit in memory beside the
others, than which it is much slower.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .peer import INT4_GROUP, Peer, Run, importable, int4_per_group, int8_per_channel

DOMAIN, SLOTS = "com.microsoft", 8
NEVER = -1e4
NO_LIMIT = 1e30


def available() -> str | None:
    """None, or why onnxruntime is missing."""
    return importable("onnx") or importable("onnxruntime")


def _quantise(weight: Tensor, format: str) -> tuple[Tensor, Tensor]:
    """Unsigned values about a middle, two of four bits a byte, the first in the low one; and scales."""
    if format == "int8":
        values, scales = int8_per_channel(weight)
        return (values.to(torch.int16) + 128).to(torch.uint8), scales
    values, scales = int4_per_group(weight)
    nibbles = (values + 8).to(torch.uint8)
    return nibbles[..., ::2] | (nibbles[..., 1::2] << 4), scales


def _initializers(gate_up_proj: Tensor, down_proj: Tensor, format: str) -> dict[str, Tensor]:
    experts, intermediate, hidden = gate_up_proj.shape[0], gate_up_proj.shape[1] // 2, gate_up_proj.shape[2]
    interleaved = gate_up_proj.view(experts, 2, intermediate, hidden).transpose(1, 2).reshape(gate_up_proj.shape)
    (gate_up, gate_up_scale), (down, down_scale) = _quantise(interleaved, format), _quantise(down_proj, format)
    return {"gate_up": gate_up, "gate_up_scale": gate_up_scale, "down": down, "down_scale": down_scale}


def _session(initializers: dict[str, Tensor], num_experts: int, hidden: int, format: str) -> Any:
    import onnxruntime
    from onnx import TensorProto, helper

    attributes: dict[str, Any] = {"k": SLOTS, "activation_type": "swiglu", "swiglu_fusion": 1}
    attributes |= {"activation_alpha": 1.0, "activation_beta": 0.0, "swiglu_limit": NO_LIMIT}
    attributes["expert_weight_bits"] = 8 if format == "int8" else 4
    if format == "int4":
        attributes["block_size"] = INT4_GROUP
    inputs = ["x", "logits", "gate_up", "gate_up_scale", "", "down", "down_scale", ""]
    node = helper.make_node("QMoE", inputs, ["y"], domain=DOMAIN, **attributes)
    # Named as external data, so that gigabytes of weights pass by reference instead of through the model's bytes.
    declared = []
    for name, value in initializers.items():
        proto = TensorProto(name=name, dims=value.shape, data_location=TensorProto.EXTERNAL)
        proto.data_type = TensorProto.UINT8 if value.dtype == torch.uint8 else TensorProto.FLOAT
        proto.external_data.add(key="location", value="given")
        declared.append(proto)
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", width])
        for name, width in (("x", hidden), ("logits", num_experts), ("y", hidden))
    ]
    graph = helper.make_graph([node], "experts", values[:2], values[2:], declared)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Its threads would otherwise spin into the next peer's turn.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    given = [onnxruntime.OrtValue.ortvalue_from_numpy(value.numpy()) for value in initializers.values()]
    options.add_external_initializers(list(initializers), given)
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def build(gate_up_proj: Tensor, down_proj: Tensor, format: str) -> Run:
    """A session of one operator."""
    num_experts, hidden, _ = down_proj.shape
    initializers = _initializers(gate_up_proj, down_proj, format)
    session = _session(initializers, num_experts, hidden, format)

    def run(x: Tensor, weights: Tensor, experts: Tensor, _: object = initializers) -> Tensor:  # read by reference
        logits = torch.full((x.shape[0], num_experts), NEVER).scatter_(1, experts, weights.log())
        inputs: dict[str, np.ndarray[Any, Any]] = {"x": x.float().numpy(), "logits": logits.numpy()}
        (y,) = session.run(None, inputs)
        return (torch.from_numpy(y) * weights.sum(1, keepdim=True)).to(x.dtype)

    return run


PEERS = (Peer("onnxruntime", ("int8", "int4"), available, build),)
