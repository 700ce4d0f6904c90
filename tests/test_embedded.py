"""The embedded checkpoint: its size, its published form, and its held-out accuracy, each with a margin."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from llada_moe_ops import LLaDAMoEModel, Tokenizer
from llada_moe_ops.training import evaluate

ASSETS = Path(str(files("llada_moe_ops") / "assets"))

# Per task: what the model card promises, and how many examples are asked here. The least number right is the promise
# less 2.6 standard deviations of so small a sample, so that a model as good as promised fails once in 200 runs.
PROMISED = {"sudoku6": 0.99, "sudoku9": 0.90, "sort": 0.98, "reverse": 0.98, "arithmetic": 0.95, "operator": 0.98}
COUNT = 100


@pytest.fixture(scope="module")
def model() -> LLaDAMoEModel:
    return LLaDAMoEModel.from_pretrained(ASSETS)


def test_size_and_form(model: LLaDAMoEModel) -> None:
    assert (ASSETS / "model.safetensors").stat().st_size <= 10_000_000
    assert model.dtype == torch.bfloat16
    assert model.config.num_experts >= 8
    assert model.config.num_experts_per_tok == 2
    tokenizer = Tokenizer.from_pretrained(ASSETS)
    assert tokenizer.mask_token_id == model.config.mask_token_id


@pytest.mark.parametrize("task", PROMISED)
def test_held_out_accuracy(model: LLaDAMoEModel, task: str) -> None:
    tokenizer = Tokenizer.from_pretrained(ASSETS)
    promise = PROMISED[task]
    margin = 2.6 * (promise * (1 - promise) / COUNT) ** 0.5
    (result,) = evaluate(model, tokenizer.backend, [task], count=COUNT)
    assert result.share >= promise - margin, f"{result.correct} of {result.count}"
