"""The model's own promises: batch and thread invariance, argument checks, gradients."""

from __future__ import annotations

import pytest
import torch
from llada_moe_ops import LLaDAMoEModel

from tests.golden import GOLDEN

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=DTYPES, ids=["fp32", "bf16"])
def model(request: pytest.FixtureRequest) -> LLaDAMoEModel:
    return LLaDAMoEModel.from_pretrained(GOLDEN / "combined-bf16", dtype=request.param)


def random_ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(4, 380, (rows, length), generator=torch.Generator().manual_seed(rows * 100 + length))


def test_a_row_does_not_depend_on_its_batch(model: LLaDAMoEModel) -> None:
    ids = random_ids(5, 37)
    together = model(ids).logits
    for row in range(5):
        assert torch.equal(model(ids[row : row + 1]).logits[0], together[row])


def test_left_and_right_padding_change_no_bit(model: LLaDAMoEModel) -> None:
    ids = random_ids(1, 21)
    alone = model(ids).logits[0]
    for left, right in ((0, 11), (32, 0)):
        padded = torch.nn.functional.pad(ids, (left, right), value=2)
        mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
        positions = torch.arange(padded.shape[1]).sub(left).clamp(min=0).unsqueeze(0)
        assert torch.equal(model(padded, mask, positions).logits[0, left : left + 21], alone)


def test_threads_change_no_bit(model: LLaDAMoEModel) -> None:
    ids = random_ids(3, 50)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(model(ids).logits)
    torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_a_scattered_mask_equals_the_shortened_row(model: LLaDAMoEModel) -> None:
    ids = random_ids(1, 9)
    keep = torch.tensor([0, 1, 3, 4, 7, 8])
    mask = torch.zeros(1, 9).index_fill_(1, keep, 1)
    positions = torch.arange(9).unsqueeze(0)
    full = model(ids, mask).logits[0, keep].float()
    short = model(ids[:, keep], positions=positions[:, keep]).logits[0].float()
    torch.testing.assert_close(full, short, atol=1e-4 if model.dtype == torch.float32 else 0.3, rtol=0)


def test_empty_batch(model: LLaDAMoEModel) -> None:
    assert model(torch.zeros(0, 5, dtype=torch.int64)).logits.shape == (0, 5, 384)
    assert model(torch.zeros(2, 0, dtype=torch.int64)).logits.shape == (2, 0, 384)


@pytest.mark.parametrize(
    ("ids", "options", "error", "message"),
    [
        (torch.zeros(1, 4), {}, TypeError, "input_ids must be an integer tensor"),
        ([[1]], {}, TypeError, "input_ids must be an integer tensor, got list"),
        (torch.zeros(4, dtype=torch.int64), {}, ValueError, "input_ids must have shape"),
        (torch.full((1, 4), 384), {}, ValueError, r"input_ids must be in \[0, 384\)"),
        (torch.full((1, 4), -1), {}, ValueError, r"input_ids must be in \[0, 384\)"),
        (torch.zeros(1, 513, dtype=torch.int64), {}, ValueError, "max_position_embeddings 512"),
        (random_ids(1, 4), {"attention_mask": torch.ones(1, 5)}, ValueError, "attention_mask must have shape"),
        (random_ids(1, 4), {"positions": torch.ones(2, 4)}, ValueError, "positions must have shape"),
        (random_ids(1, 4), {"cache": object()}, TypeError, "cache must be a KeyValueCache or None, got object"),
    ],
)
def test_errors(model: LLaDAMoEModel, ids: object, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model(ids, **options)


def test_gradients_reach_every_parameter() -> None:
    model = LLaDAMoEModel.from_pretrained(GOLDEN / "ext-dense-shared", pack=False)
    model(random_ids(4, 16) % 256).logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0), name


def test_packing_is_for_inference() -> None:
    model = LLaDAMoEModel.from_pretrained(GOLDEN / "base-fp32", pack=False)
    ids = random_ids(2, 9) % 256
    plain = model(ids).logits
    packed = model.pack()(ids).logits
    assert torch.equal(plain, packed)
    assert not packed.requires_grad
