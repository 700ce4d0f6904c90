"""The model's ops without Python's argument checks, which cost more than a small kernel.

For a caller whose arguments are right by construction, as the model's are. Shapes, dtypes and results are those of the
ops of the same name in :mod:`llada_moe_ops.ops`; the compiled ops still check what they are given.
"""

from .attention import attention_unchecked as attention
from .attention_layer import attention_layer_unchecked as attention_layer
from .expert_layer import expert_layer_unchecked as expert_layer
from .linear import linear_unchecked as linear
from .moe_mlp import moe_mlp_unchecked as moe_mlp
from .norm_rope import add_rms_norm_unchecked as add_rms_norm
from .norm_rope import qk_norm_rope_unchecked as qk_norm_rope
from .norm_rope import rms_norm_unchecked as rms_norm
from .router_topk import router_topk_unchecked as router_topk
from .router_topk import router_unchecked as router

__all__ = [
    "add_rms_norm",
    "attention",
    "attention_layer",
    "expert_layer",
    "linear",
    "moe_mlp",
    "qk_norm_rope",
    "rms_norm",
    "router",
    "router_topk",
]
