"""Token and trace identity with recorded runs of the published sampler, in fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from llada_moe_ops.sampling import GenerationResult, RecordedNoise, Schedule, generate
from llada_moe_ops.sampling.noise import gumbel_noise
from torch import Tensor

from tests.golden import facts, tensors

from .models import load
from .published import published_states

CASES = facts("sampler")


def has_defect(case: str) -> bool:
    """Whether the published sampler mistook mask tokens here: in the prompt for positions to fill, or as predictions.

    Either leaves masks in its result, or starts from a prompt that holds them.
    """
    prompt = tensors("sampler")[f"{case}/prompt_ids"]
    return bool(CASES[case]["masks_left"]) or bool((prompt == CASES[case]["mask_id"]).any())


def run(case: str) -> tuple[GenerationResult, Tensor]:
    """Our result and the recorded states."""
    arguments: dict[str, Any] = CASES[case]
    recorded = tensors("sampler")
    padded = arguments["mask_mode"] == "key_padding"
    result = generate(
        load(arguments["model"]),
        recorded[f"{case}/prompt_ids"],
        gen_length=arguments["gen_length"],
        block_length=arguments["block_length"],
        steps=arguments["steps"],
        temperature=arguments["temperature"],
        cfg_scale=arguments["cfg_scale"],
        remasking=arguments["remasking"],
        attention_mask=recorded[f"{case}/prompt_attention_mask"] if padded else None,
        mask_token_id=arguments["mask_id"],
        eos_token_id=arguments.get("eos_id"),
        eot_token_id=arguments.get("eot_id"),
        suppress_eos=arguments["logits_eos_inf"],
        suppress_eos_confidence=arguments["confidence_eos_eot_inf"],
    )
    return result, recorded[f"{case}/states"]


@pytest.mark.parametrize("case", [case for case in CASES if not has_defect(case)])
def test_tokens_and_trace_equal_the_published_sampler(case: str) -> None:
    result, states = run(case)
    assert torch.equal(result.trace.states(), states.long())
    assert torch.equal(result.sequences, states[-1].long())
    assert result.steps == CASES[case]["steps"]
    guided = 2 if CASES[case]["cfg_scale"] else 1
    assert result.forward_passes == guided * sum(step.tokens.numel() > 0 for step in result.trace.steps)


@pytest.mark.parametrize("case", [case for case in CASES if has_defect(case)])
def test_mask_tokens_as_text_differ_on_purpose(case: str) -> None:
    """Defect (f): the published sampler fills mask tokens of the prompt, and may commit the mask token itself.

    Its rules without that defect, run over whole-canvas logits, give our states; with it, the recorded ones.
    """
    result, states = run(case)
    arguments, prompt = CASES[case], tensors("sampler")[f"{case}/prompt_ids"].long()
    options = {name: arguments[name] for name in ("gen_length", "block_length", "steps", "mask_id")}
    model = load(arguments["model"])
    assert torch.equal(published_states(model, prompt, defects=True, **options), states.long())
    assert torch.equal(published_states(model, prompt, defects=False, **options), result.trace.states())
    assert not torch.equal(result.sequences, states[-1].long())
    assert torch.equal(result.sequences[:, : prompt.shape[1]], prompt), "a mask token in the prompt is text"
    assert not bool((result.completions == arguments["mask_id"]).any())


def run_random(case: str) -> tuple[GenerationResult, Tensor]:
    """Our result under recorded noise, and the recorded states."""
    arguments, recorded = facts("sampler_random")[case], tensors("sampler_random")
    model = load(arguments["model"])
    uniforms = (recorded.get(f"{case}/{name}") for name in ("uniform_tokens", "uniform_confidence"))
    result = generate(
        model,
        recorded[f"{case}/prompt_ids"],
        gen_length=arguments["gen_length"],
        block_length=arguments["block_length"],
        steps=arguments["steps"],
        temperature=arguments["temperature"],
        remasking=arguments["remasking"],
        mask_token_id=arguments["mask_id"],
        noise=RecordedNoise(*(None if values is None else values.to(model.device) for values in uniforms)),
    )
    return result, recorded[f"{case}/states"]


@pytest.mark.parametrize("case", facts("sampler_random"))
def test_recorded_noise_gives_the_recorded_tokens(case: str) -> None:
    result, states = run_random(case)
    assert torch.equal(result.trace.states(), states.long())


GUMBEL = [key.removeprefix("gumbel/argmax_t") for key in tensors("sampler_random") if key.startswith("gumbel/argmax_t")]


@pytest.mark.parametrize("temperature", GUMBEL)
def test_gumbel_noise(temperature: str) -> None:
    recorded, value = tensors("sampler_random"), float(temperature)
    logits, uniform = recorded["gumbel/logits"], recorded["gumbel/uniform"]
    noised = gumbel_noise(logits, uniform, value)
    assert torch.equal(noised.argmax(-1).int(), recorded[f"gumbel/argmax_t{temperature}"])
    published = recorded[f"gumbel/noised_t{temperature}"]
    torch.testing.assert_close(noised, published.log() if value > 0 else published, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("entry", facts("transfer_tokens"), ids=lambda entry: f"{entry['masked']}in{entry['steps']}")
def test_schedule(entry: dict[str, Any]) -> None:
    """Alone, and beside a row of another count."""
    counts = Schedule(entry["steps"]).counts(torch.tensor([entry["masked"], 9]))
    assert counts[0].tolist() == entry["commit"]
    assert int(counts[1].sum()) == 9


def test_schedule_of_rows_with_steps_of_their_own() -> None:
    schedule, masked = Schedule([2, None, 3]), torch.tensor([5, 2, 8])
    assert schedule.counts(masked).tolist() == [[3, 2, 0], [1, 1, 0], [3, 3, 2]]
    assert [schedule.quota(masked, index).tolist() for index in (0, 5)] == [[3, 1, 3], [2, 1, 2]]


def test_schedule_of_one_token_a_step() -> None:
    assert Schedule(None).counts(torch.tensor([2, 0, 3])).tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
