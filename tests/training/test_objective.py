"""The objective against its formula written out in loops, and the auxiliary losses at their known values."""

from __future__ import annotations

import torch
from llada_moe_ops.training.objective import (
    SMALLEST_MASK_RATIO,
    diffusion_loss,
    load_balancing_loss,
    mask_ratios,
    mask_tokens,
    router_z_loss,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mask_ratios_are_uniform_and_stratified() -> None:
    ratios = mask_ratios(1000, generator())
    assert ratios.min() >= SMALLEST_MASK_RATIO
    assert ratios.max() <= 1
    t = (ratios - SMALLEST_MASK_RATIO) / (1 - SMALLEST_MASK_RATIO)
    assert torch.equal((t * 1000).ceil().sort().values, torch.arange(1, 1001).float())
    assert not torch.equal(t, t.sort().values)


def test_only_maskable_tokens_are_masked_with_their_probability() -> None:
    ids = torch.full((400, 50), 7)
    maskable = torch.zeros(400, 50, dtype=torch.bool)
    maskable[:, 10:] = True
    noisy, masked, ratios = mask_tokens(ids, maskable, 3, generator())
    assert not masked[:, :10].any()
    assert torch.equal(noisy == 3, masked)
    assert (noisy[~masked] == 7).all()
    assert abs((masked[:, 10:].float().mean(1) - ratios.squeeze(1)).mean()) < 0.01


def test_diffusion_loss_is_the_formula() -> None:
    draws = generator(1)
    targets = torch.randint(0, 11, (4, 9), generator=draws)
    masked = torch.rand(4, 9, generator=draws) < 0.5
    ratios = torch.rand(4, 1, generator=draws) + 0.1
    lengths = torch.tensor([9, 5, 7, 1])
    logits = torch.randn(4, 9, 11, generator=draws)
    expected = 0.0
    for row in range(4):
        for column in range(9):
            if masked[row, column]:
                cross_entropy = -logits[row, column].double().log_softmax(-1)[targets[row, column]]
                expected += float(cross_entropy / ratios[row, 0] / lengths[row])
    loss = diffusion_loss(logits[masked], targets, masked, ratios, lengths)
    assert abs(float(loss) - expected / 4) < 1e-5


def test_diffusion_loss_is_unbiased() -> None:
    """Averaged over masks, Σ CE / p / L is the mean cross-entropy, whatever the ratio."""
    logits = torch.randn(6, generator=generator(2))
    targets = torch.zeros(20_000, 4, dtype=torch.int64)
    noisy, masked, ratios = mask_tokens(targets, torch.ones(20_000, 4, dtype=torch.bool), 5, generator(3))
    loss = diffusion_loss(logits.expand(int(masked.sum()), 6), targets, masked, ratios, torch.full((20_000,), 4))
    assert abs(float(loss) / float(-logits.log_softmax(-1)[0]) - 1) < 0.1
    assert (noisy == 5).any()


def test_balanced_routing_costs_one_and_collapse_costs_more() -> None:
    balanced = torch.eye(8).repeat(10, 1) * 1e-3
    assert abs(float(load_balancing_loss([balanced], 1)) - 1) < 1e-3
    collapsed = torch.zeros(80, 8)
    collapsed[:, 0] = 20.0
    assert abs(float(load_balancing_loss([collapsed, collapsed], 1)) - 8) < 1e-2


def test_z_loss() -> None:
    assert abs(float(router_z_loss([torch.zeros(5, 8)])) - float(torch.tensor(8.0).log() ** 2)) < 1e-5
