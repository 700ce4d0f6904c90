// The schemas of the ops that more than one library registers: llada_moe itself, and the tests' llada_moe_emulated.
#pragma once

namespace llada::schemas {

inline constexpr const char* kAttention[] = {
    "attention(Tensor q, Tensor k, Tensor v, Tensor? mask=None, Tensor? key_range=None, Tensor? cu_seqlens=None, "
    "int block_size=0, float? scale=None) -> Tensor",
};

inline constexpr const char* kGroupedGemm[] = {
    "grouped_gemm(Tensor x_sorted, Tensor weight, Tensor offsets) -> Tensor",
    "grouped_swiglu(Tensor x_sorted, Tensor gate_up_proj, Tensor offsets) -> Tensor",
};

inline constexpr const char* kLinear[] = {
    "linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor",
};

inline constexpr const char* kMoeMlp[] = {
    "moe_mlp(Tensor x, Tensor weights, Tensor experts, Tensor gate_up_proj, Tensor down_proj) -> Tensor",
    "moe_mlp_int8(Tensor x, Tensor weights, Tensor experts, Tensor gate_up, Tensor gate_up_scale, Tensor down, "
    "Tensor down_scale) -> Tensor",
};

inline constexpr const char* kNormRope[] = {
    "rms_norm(Tensor x, Tensor weight, float eps) -> Tensor",
    "add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)",
    "qk_norm_rope(Tensor q, Tensor k, Tensor? q_weight, Tensor? k_weight, Tensor positions, Tensor frequencies, "
    "float eps, float? clip=None) -> (Tensor, Tensor)",
};

inline constexpr const char* kPermute[] = {
    "expert_order(Tensor experts, int num_experts) -> (Tensor, Tensor)",
    "permute(Tensor x, Tensor order, int k) -> Tensor",
    "unpermute(Tensor y_sorted, Tensor order, Tensor weights) -> Tensor",
};

inline constexpr const char* kRouterTopk[] = {
    "router_topk(Tensor logits, int k, bool sigmoid=False, Tensor? bias=None, bool bias_in_weights=True, "
    "int num_groups=1, int topk_groups=1, bool renormalize=False, float scale=1.0) -> (Tensor, Tensor)",
    "router(Tensor x, Tensor gate_weight, int k, bool sigmoid=False, Tensor? bias=None, bool bias_in_weights=True, "
    "int num_groups=1, int topk_groups=1, bool renormalize=False, float scale=1.0) -> (Tensor, Tensor)",
};

inline constexpr const char* kTokenConfidence[] = {
    "token_confidence(Tensor hidden, Tensor weight, bool packed, int vocabulary, float temperature=0.0, int seed=0, "
    "Tensor? noise_keys=None, Tensor? forbidden=None, int mask_token=-1, Tensor? temperatures=None, "
    "Tensor? bias_tokens=None, Tensor? bias_values=None, int top_k=0, float top_p=1.0) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
};

}  // namespace llada::schemas
