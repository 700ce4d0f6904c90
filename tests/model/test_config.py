"""The configuration: published fields, aliases, refusals by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llada_moe_ops import CheckpointError, LLaDAMoEConfig

from tests.golden import CHECKPOINTS, GOLDEN


def published(**changes: Any) -> dict[str, Any]:
    values = json.loads((GOLDEN / "base-fp32" / "config.json").read_text())
    values.update(changes)
    return {name: value for name, value in values.items() if value != "absent"}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_published_files_round_trip(name: str, tmp_path: Path) -> None:
    config = LLaDAMoEConfig.from_pretrained(GOLDEN / name)
    config.save_pretrained(tmp_path)
    assert LLaDAMoEConfig.from_pretrained(tmp_path) == config
    written = json.loads((tmp_path / "config.json").read_text())
    original = json.loads((GOLDEN / name / "config.json").read_text())
    assert {key: written[key] for key in original} == original


def test_unknown_fields_are_kept() -> None:
    assert LLaDAMoEConfig.from_dict(published(house="red")).to_dict()["house"] == "red"


@pytest.mark.parametrize("model_type", ["llada", "llada_moe", "lladamoe"])
def test_model_type_aliases(model_type: str) -> None:
    assert LLaDAMoEConfig.from_dict(published(model_type=model_type)).vocab_size == 256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "unknown architecture"),
        ({"model_type": "llama"}, "unknown architecture"),
        ({"vocab_size": "absent"}, "missing field vocab_size"),
        ({"rope_theta": "absent"}, "missing field rope_theta"),
        ({"rope_theta": -1}, "rope_theta must be a positive number, got -1"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok must be at most num_experts 8, got 9"),
        ({"num_attention_heads": 5}, "num_attention_heads must be a divisor of hidden_size 64, got 5"),
        ({"num_key_value_heads": 3}, "num_key_value_heads must be a divisor of num_attention_heads 4, got 3"),
        ({"hidden_size": -64}, "hidden_size must be a positive number, got -64"),
        ({"vocab_size": 2.5}, "vocab_size must be a positive integer, got 2.5"),
        ({"num_experts": "many"}, "num_experts must be a positive number, got 'many'"),
        ({"moe_layer_freq": [1]}, "moe_layer_freq must be 2 entries"),
        ({"moe_layer_freq": [0, 1], "dense_intermediate_size": None}, "dense_intermediate_size must be"),
        ({"partial_rotary_factor": 0}, "partial_rotary_factor must be in"),
        ({"moe_router_score_function": "sigmoid"}, "moe_router_score_function must be"),
        ({"hidden_act": "gelu"}, "hidden_act must be"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling must be null"),
        ({"router_num_group": 4}, "router_num_group must be"),
        ({"mask_token_id": 256}, "mask_token_id must be a token id below vocab_size 256, got 256"),
        ({"clip_qkv": -1.0}, "clip_qkv must be positive or null"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be positive"),
    ],
)
def test_refusals_name_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="somewhere: ") as error:
        LLaDAMoEConfig.from_dict(published(**changes), source="somewhere")
    assert message in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff"])
def test_damaged_file(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        LLaDAMoEConfig.from_pretrained(tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        LLaDAMoEConfig.from_pretrained(tmp_path)
