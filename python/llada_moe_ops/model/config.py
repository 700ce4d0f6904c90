"""The published configuration of LLaDA-MoE, read as it is and checked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..files import CheckpointError, write_aside

MODEL_TYPES = ("llada", "llada_moe", "lladamoe")
ARCHITECTURES = ("LLaDAMoEModelLM", "LLaDAMoEModel", "LLaDAMoEForCausalLM")
CONFIG_FILE = "config.json"

_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_experts",
    "num_experts_per_tok",
    "expert_intermediate_size",
    "rope_theta",
    "max_position_embeddings",
)


@dataclass
class LLaDAMoEConfig:
    """Sizes and switches of a LLaDA-MoE checkpoint, named as in its ``config.json`` (arXiv 2509.24389, section 2).

    Fields that the published class defines but this version cannot honour are refused by name at construction.
    ``moe_layer_freq`` holds one entry per layer: 1 for an expert layer, 0 for a dense one; a single int means every
    layer. Fields this library does not know are kept in ``extra`` and written back.

    Raises:
        ValueError: an impossible or unsupported value; the message names the field.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_experts: int
    num_experts_per_tok: int
    expert_intermediate_size: int
    rope_theta: float
    max_position_embeddings: int
    num_key_value_heads: int | None = None
    dense_intermediate_size: int | None = None
    shared_expert_intermediate_size: int | None = None
    moe_layer_freq: list[int] | int = 1
    moe_router_score_function: str = "softmax"
    moe_router_enable_expert_bias: bool = False
    norm_topk_prob: bool | None = None
    routed_scaling_factor: float | None = 1.0
    router_num_group: int | None = None
    router_topk_group: int | None = None
    router_aux_loss_coef: float = 0.01
    qk_layernorm: bool = True
    partial_rotary_factor: float = 1.0
    rope_scaling: dict[str, Any] | None = None
    clip_qkv: float | None = None
    attention_bias: bool = False
    attention_dropout: float = 0.0
    rms_norm_eps: float = 1e-5
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    eos_token_id: int | None = None
    mask_token_id: int | None = None
    initializer_range: float = 0.02
    use_cache: bool = False
    torch_dtype: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if isinstance(self.moe_layer_freq, int):
            self.moe_layer_freq = [self.moe_layer_freq] * self.num_hidden_layers
        self._check_sizes()
        self._check_supported()

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def rotary_dim(self) -> int:
        """How many leading components of a head are rotated."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def key_value_heads(self) -> int:
        """Number of key/value heads (grouped-query attention when fewer than the query heads)."""
        return self.num_key_value_heads or self.num_attention_heads

    def is_expert_layer(self, layer: int) -> bool:
        """Whether a layer routes to experts (else it is a dense SwiGLU layer)."""
        assert isinstance(self.moe_layer_freq, list)
        return bool(self.moe_layer_freq[layer])

    def _refuse(self, name: str, expected: str) -> None:
        raise ValueError(f"config: {name} must be {expected}, got {getattr(self, name)!r}")

    def _check_sizes(self) -> None:
        for name in (*_REQUIRED, "num_key_value_heads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
                self._refuse(name, "a positive number")
            if name != "rope_theta" and not isinstance(value, int):
                self._refuse(name, "a positive integer")
        if self.hidden_size % self.num_attention_heads:
            self._refuse("num_attention_heads", f"a divisor of hidden_size {self.hidden_size}")
        if self.num_attention_heads % self.key_value_heads:
            self._refuse("num_key_value_heads", f"a divisor of num_attention_heads {self.num_attention_heads}")
        if self.num_experts_per_tok > self.num_experts:
            self._refuse("num_experts_per_tok", f"at most num_experts {self.num_experts}")
        if not 0 < self.partial_rotary_factor <= 1:
            self._refuse("partial_rotary_factor", "in (0, 1]")
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            self._refuse("partial_rotary_factor", f"such that an even part of head size {self.head_dim} is rotated")
        if not self.rms_norm_eps > 0:
            self._refuse("rms_norm_eps", "positive")
        if self.clip_qkv is not None and not self.clip_qkv > 0:
            self._refuse("clip_qkv", "positive or null")
        layers = self.moe_layer_freq
        if not isinstance(layers, list) or len(layers) != self.num_hidden_layers or not set(layers) <= {0, 1}:
            self._refuse("moe_layer_freq", f"{self.num_hidden_layers} entries, each 0 or 1")
        if 0 in self.moe_layer_freq and not (self.dense_intermediate_size or 0) > 0:  # type: ignore[operator]
            self._refuse("dense_intermediate_size", "a positive integer when moe_layer_freq has dense layers")
        if self.shared_expert_intermediate_size is not None and self.shared_expert_intermediate_size <= 0:
            self._refuse("shared_expert_intermediate_size", "a positive integer or null")
        for name in ("pad_token_id", "eos_token_id", "mask_token_id"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and 0 <= value < self.vocab_size):
                self._refuse(name, f"a token id below vocab_size {self.vocab_size}")

    def _check_supported(self) -> None:
        if self.moe_router_score_function != "softmax":
            self._refuse("moe_router_score_function", '"softmax" (the LLaDA2 gate is in ops.router_topk only)')
        if self.hidden_act != "silu":
            self._refuse("hidden_act", '"silu"')
        if self.rope_scaling is not None:
            self._refuse("rope_scaling", "null (scaled rotary embeddings are not supported)")
        for name in ("router_num_group", "router_topk_group"):
            if getattr(self, name) not in (None, 0, 1):
                self._refuse(name, "null or 1 (expert groups are not supported by the model)")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config") -> LLaDAMoEConfig:
        """Build from the entries of a published ``config.json``; ``source`` names the file in messages.

        Raises:
            ValueError: unknown architecture, missing field, impossible or unsupported value.
        """
        architectures = values.get("architectures") or [ARCHITECTURES[0]]
        model_type = values.get("model_type", MODEL_TYPES[0])
        if model_type not in MODEL_TYPES or not set(architectures) & set(ARCHITECTURES):
            raise ValueError(
                f"{source}: unknown architecture {architectures} (model_type {model_type!r}); "
                f"this library runs {ARCHITECTURES[0]} (model_type {MODEL_TYPES[0]!r})"
            )
        missing = [name for name in _REQUIRED if values.get(name) is None]
        if missing:
            raise ValueError(f"{source}: missing field {', '.join(missing)}")
        known = {entry.name for entry in fields(cls)} - {"extra"}
        extra = {name: value for name, value in values.items() if name not in known}
        try:
            return cls(**{name: value for name, value in values.items() if name in known}, extra=extra)
        except TypeError as error:
            raise ValueError(f"{source}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{source}: {str(error).removeprefix('config: ')}") from error

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> LLaDAMoEConfig:
        """Read ``config.json`` of a checkpoint folder.

        Raises:
            CheckpointError: the file is missing or not JSON.
            ValueError: as :meth:`from_dict`.
        """
        path = Path(folder) / CONFIG_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such file; a checkpoint folder must hold {CONFIG_FILE}") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: must hold a JSON object, got {type(values).__name__}")
        return cls.from_dict(values, source=str(path))

    def to_dict(self) -> dict[str, Any]:
        """The entries of the published ``config.json``."""
        values = asdict(self)
        extra = values.pop("extra")
        return {"architectures": [ARCHITECTURES[0]], "model_type": MODEL_TYPES[0], **extra, **values}

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` into a folder, atomically."""
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        with write_aside(Path(folder) / CONFIG_FILE) as aside:
            aside.write_text(text, encoding="utf-8")
