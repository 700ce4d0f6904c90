"""The model on CUDA as far as a machine without a GPU can tell: the emulated kernels in its place, a stand-in for the
graph, and rules that a GPU would enforce. On a GPU (``-k gpu``) the same and the golden data for real."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from llada_moe_ops import CheckpointError, KeyValueCache, LLaDAMoEConfig, LLaDAMoEModel, generate, ops, score
from llada_moe_ops.model import captured, checkpoint
from llada_moe_ops.model.captured import CapturedPass, can_capture
from llada_moe_ops.model.model import Experts
from llada_moe_ops.model.safetensors_files import CheckpointReader
from llada_moe_ops.sampling import CACHES, forward
from torch import Tensor

from tests.captured import record_eagerly
from tests.emulated import SEEDS, emulated, needs_emulator
from tests.golden import GOLDEN, facts, forward_cases, tensors
from tests.on_gpu import needs_gpu

FP32_TOLERANCE = 1e-4
SIZES: dict[str, Any] = {
    "vocab_size": 70,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "expert_intermediate_size": 24,
    "rope_theta": 10000.0,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
    "mask_token_id": 69,
    "eos_token_id": 1,
}
PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13, 14], [8, 3]]


@cache
def tiny(dtype: torch.dtype = torch.float32) -> LLaDAMoEModel:
    """Plain weights, as on a GPU."""
    model = LLaDAMoEModel(LLaDAMoEConfig(**SIZES)).initialize(torch.Generator().manual_seed(0))
    return model.to(dtype).requires_grad_(False)


@needs_emulator
@pytest.mark.parametrize("seed", SEEDS)
def test_cuda_forward_agrees_with_the_cpu_s(seed: int) -> None:
    dtype, tolerance = ((torch.float32, 1e-5), (torch.bfloat16, 2e-2))[seed % 2]
    ids = torch.randint(0, 69, (2, 5 + seed), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1, :seed] = 0
    expected = tiny(dtype)(ids, mask).logits.float()
    with emulated(seed, "sm80" if seed % 4 > 1 else ""):
        logits = tiny(dtype)(ids, mask).logits.float()
    real = mask.bool()
    assert float((logits - expected)[real].norm() / expected[real].norm()) < tolerance


@needs_emulator
@pytest.mark.parametrize(("seed", "cache"), list(enumerate(CACHES)))
def test_cuda_generation_is_the_cpu_s(seed: int, cache: str) -> None:
    options: dict[str, Any] = {"gen_length": 8, "block_length": 4, "steps": 6, "cache": cache, "seed": 1}
    expected = generate(tiny(), PROMPTS, **options)
    with emulated(seed):
        found = generate(tiny(), PROMPTS, **options)
    assert torch.equal(found.sequences, expected.sequences)


@pytest.mark.parametrize("cache", [name for name in CACHES if name != "interval"])
@pytest.mark.parametrize("options", [{}, {"cfg_scale": 0.5}, {"stop_at_eos": True}])
def test_generation_through_captured_passes(
    monkeypatch: pytest.MonkeyPatch, cache: str, options: dict[str, Any]
) -> None:
    call: dict[str, Any] = {"gen_length": 16, "block_length": 8, "cache": cache, **options}
    expected = generate(tiny(), PROMPTS, **call)
    made = []

    def capture(*arguments: Any) -> CapturedPass:
        made.append(CapturedPass(*arguments, record=record_eagerly))
        return made[-1]

    monkeypatch.setattr(forward, "can_capture", lambda model: True)
    monkeypatch.setattr(forward, "CapturedPass", capture)
    found = generate(tiny(), PROMPTS, **call)
    assert torch.equal(found.sequences, expected.sequences)
    assert 1 <= len(made) <= 6


@torch.no_grad()
@pytest.mark.parametrize("cached", [False, True])
def test_a_captured_pass_takes_new_inputs_and_reads_none_of_them(cached: bool) -> None:
    model = tiny()
    caches = [KeyValueCache(model, 2, 6) if cached else None for _ in range(2)]
    positions = torch.arange(6).expand(2, 6)
    ids = [torch.randint(0, 69, (2, 6), generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    ranges = [torch.tensor([[0, 6], [0, end]], dtype=torch.int32) for end in (6, 4, 2)]
    step = CapturedPass(model, caches[0], ids[0], positions, ranges[0], record=record_eagerly)
    for one, key_range in zip(ids, ranges, strict=True):
        mask = torch.arange(6) < key_range[:, 1:]
        found, expected = step(one, positions, key_range), model.hidden(one, mask, positions, caches[1])
        assert torch.equal(found[mask], expected[mask])
    if cached:
        assert all(torch.equal(caches[0].layer(index), caches[1].layer(index)) for index in range(2))


def test_nothing_is_captured_on_the_cpu_or_under_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_capture(tiny())
    monkeypatch.setattr(LLaDAMoEModel, "device", torch.device("cuda", 0))
    monkeypatch.setattr(captured, "gpu_serves", lambda index: True)
    monkeypatch.setattr(captured, "has_cuda_kernel", lambda op: True)
    assert can_capture(tiny())
    monkeypatch.setenv("LLADA_MOE_OPS_SYNC", "1")
    assert not can_capture(tiny())
    monkeypatch.delenv("LLADA_MOE_OPS_SYNC")
    hook = tiny().layers[1].register_forward_hook(lambda *_: None)
    assert not can_capture(tiny())
    hook.remove()
    for missing, quantization, answer in (
        ("attention", None, False),
        ("moe_mlp", "int8", True),
        ("moe_mlp_int8", "int8", False),
    ):
        monkeypatch.setattr(captured, "has_cuda_kernel", lambda op, missing=missing: op != missing)
        monkeypatch.setattr(tiny(), "quantization", quantization)
        assert can_capture(tiny()) == answer


def test_every_tensor_is_made_on_the_model_s_device() -> None:
    """Whatever is made without a device is made on another one here, where it meets the model's and fails."""
    expected = generate(tiny(), PROMPTS, gen_length=8, temperature=0.7, seed=3, cache="dual", cfg_scale=0.3)
    prompt, answer = torch.tensor([5, 6]), torch.tensor([7, 8, 9])
    ids = torch.tensor([[5, 6, 7]])
    with torch.device("meta"):
        logits = tiny()(ids, attention_mask=torch.ones_like(ids)).logits
    assert logits.device.type == "cpu"
    assert score(tiny(), prompt, answer, mc_num=4, seed=0).log_likelihood < 0
    with torch.device("meta"):
        model = tiny()
        layout = torch.full((1, 6), 5, device="cpu")
        found = generate(model, layout, gen_length=8, stop_at_eos=True, seed=0, cache="vicinity", temperature=0.5)
    assert found.sequences.device.type == "cpu"
    assert expected.sequences.shape == (3, 14)


def test_a_model_on_a_gpu_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LLaDAMoEModel(LLaDAMoEConfig(**SIZES)).initialize()
    monkeypatch.setattr(LLaDAMoEModel, "device", torch.device("cuda", 0))
    assert isinstance(model.pack().lm_head, Tensor)
    assert not any(value.requires_grad for value in model.parameters())


@pytest.mark.parametrize("name", ["base-bf16", "combined-bf16", "expert-bias"])
def test_every_weight_goes_to_the_device(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The meta device stands in for a GPU: tensors there have shapes, no values."""
    monkeypatch.setattr(checkpoint, "_usable_device", lambda device: torch.device("meta"))
    model = LLaDAMoEModel.from_pretrained(GOLDEN / name, device="cuda")
    plain = LLaDAMoEModel(model.config)
    assert {key: value.shape for key, value in model.named_parameters()} == {
        key: value.shape for key, value in plain.named_parameters()
    }
    assert all(value.is_meta and not value.requires_grad for value in model.parameters())


@pytest.mark.parametrize("name", ["base-bf16", "base-fp32", "combined-bf16"])
def test_int8_is_of_the_experts_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(checkpoint, "_usable_device", lambda device: torch.device("meta"))
    model = LLaDAMoEModel.from_pretrained(GOLDEN / name, device="cuda", quantization="int8")
    assert model.quantization == "int8"
    assert model.dtype == torch.bfloat16
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    packed = [layer.mlp.packed for layer in model.layers if isinstance(layer.mlp, Experts)]
    assert packed
    assert all(isinstance(one, ops.Int8Experts) and one.gate_up.is_meta for one in packed)
    for changes, message in (
        ({"quantization": "int4"}, "quantization must be None or 'int8' on a GPU, got 'int4': .* take 'int8'"),
        ({"quantization": "int8", "dtype": torch.float32}, "dtype must be torch.bfloat16 with quantization 'int8'"),
    ):
        with pytest.raises(ValueError, match=message):
            LLaDAMoEModel.from_pretrained(GOLDEN / name, device="cuda", **changes)
    with pytest.raises(ValueError, match="a model quantised to int8 has lost bits"):
        model.save_pretrained("unused")


def load_in_bytes(name: str) -> LLaDAMoEModel:
    """As for a GPU, on the CPU."""
    with torch.device("meta"):
        model = LLaDAMoEModel(LLaDAMoEConfig.from_pretrained(GOLDEN / name))
    with CheckpointReader(GOLDEN / name) as reader:
        checkpoint._Loader(model, reader, torch.bfloat16, False, "int8", torch.device("cpu")).load(False)
    model.quantization = "int8"
    return model.requires_grad_(False)


@pytest.mark.parametrize("name", ["base-bf16", "combined-bf16", "base-fp32"])
def test_bytes_are_those_of_each_layer_s_experts(name: str) -> None:
    plain = LLaDAMoEModel.from_pretrained(GOLDEN / name, dtype=torch.bfloat16, pack=False)
    for layer, other in zip(load_in_bytes(name).layers, plain.layers, strict=True):
        if isinstance(layer.mlp, Experts):
            expected = ops.quantize_experts(other.mlp.gate_up_proj.detach(), other.mlp.down_proj.detach())
            assert isinstance(layer.mlp.packed, ops.Int8Experts)
            for field in ("gate_up", "gate_up_scale", "down", "down_scale"):
                assert torch.equal(getattr(layer.mlp.packed, field), getattr(expected, field))


@needs_emulator
@pytest.mark.parametrize("seed", SEEDS)
def test_experts_in_bytes_under_cuda_kernels(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Within twice the error of the references in bf16, both against fp32 with the same weights."""
    name = ("base-bf16", "combined-bf16")[seed % 2]
    ids = torch.randint(4, 250, (2, 5 + seed), generator=torch.Generator().manual_seed(seed))
    model = load_in_bytes(name)
    exact = LLaDAMoEModel.from_pretrained(GOLDEN / name, dtype=torch.float32, pack=False)
    for layer, in_bytes in zip(exact.layers, model.layers, strict=True):
        if isinstance(layer.mlp, Experts):
            layer.mlp.gate_up_proj, layer.mlp.down_proj = map(torch.nn.Parameter, in_bytes.mlp.packed.unpack())
    expected, reference = exact.requires_grad_(False)(ids).logits, model(ids).logits.float()
    monkeypatch.setattr(sys.modules["llada_moe_ops.ops.moe_mlp"], "_runs_natively", lambda x, packed: True)
    with emulated(seed, "sm80" if seed % 4 > 1 else ""):
        logits = model(ids).logits.float()
    assert float((logits - expected).norm()) <= 2 * float((reference - expected).norm())


def test_packed_weights_are_the_cpu_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    LLaDAMoEModel.from_pretrained(GOLDEN / "base-fp32").save_packed(tmp_path)
    monkeypatch.setattr(checkpoint, "_usable_device", lambda device: torch.device("cuda", 0))
    with pytest.raises(
        CheckpointError, match="packed for the CPU; for a GPU load the checkpoint they were packed from"
    ):
        LLaDAMoEModel.from_pretrained(tmp_path, device="cuda")


@needs_gpu
@pytest.mark.parametrize(("name", "case"), forward_cases())
def test_golden_logits_on_a_gpu(name: str, case: str) -> None:
    recorded, context = tensors(f"{name}/forward"), facts(f"{name}/forward")[case]
    ids, expected = recorded[f"{case}/input_ids"].long(), recorded[f"{case}/fp32/logits"]
    model = LLaDAMoEModel.from_pretrained(GOLDEN / name, dtype=torch.float32, device="cuda")
    logits = model(ids.cuda()).logits.cpu()
    assert (logits - expected).abs().max() < FP32_TOLERANCE
    if name.endswith("bf16"):
        model = LLaDAMoEModel.from_pretrained(GOLDEN / name, dtype=torch.bfloat16, device="cuda")
        error = (model(ids.cuda()).logits.cpu().float() - expected).square().mean().sqrt().item()
        assert error <= 2 * max(context["bf16_rms"], context["bf16_eager_rms"])


@needs_gpu
@pytest.mark.parametrize("cache", CACHES)
def test_generation_on_a_gpu_is_the_cpu_s(cache: str) -> None:
    options: dict[str, Any] = {"gen_length": 32, "block_length": 16, "cache": cache, "seed": 1}
    model = LLaDAMoEModel.from_pretrained(GOLDEN / "base-fp32", dtype=torch.float32)
    expected = generate(model, PROMPTS, **options)
    on_gpu = LLaDAMoEModel.from_pretrained(GOLDEN / "base-fp32", dtype=torch.float32, device="cuda")
    found = generate(on_gpu, PROMPTS, **options)
    assert torch.equal(found.sequences.cpu(), expected.sequences)
    again = generate(on_gpu, PROMPTS, **options)
    assert torch.equal(again.sequences, found.sequences)


@needs_gpu
def test_a_captured_pass_on_a_gpu_has_the_bits_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLADA_MOE_OPS_SYNC", raising=False)
    model = LLaDAMoEModel.from_pretrained(GOLDEN / "base-bf16", dtype=torch.bfloat16, device="cuda")
    assert can_capture(model)
    make = torch.Generator().manual_seed(0)
    ids = [torch.randint(4, 250, (2, 40), generator=make).cuda() for _ in range(3)]
    positions = torch.arange(40, device="cuda").expand(2, 40)
    with torch.inference_mode():
        step = CapturedPass(model, None, ids[0], positions, None)
        for one in ids:
            assert torch.equal(step(one, positions, None), model.hidden(one))
