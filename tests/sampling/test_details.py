"""What rules can ask for besides a step's statistics: the divergence between two steps' distributions."""

from __future__ import annotations

import pytest
import torch
from llada_moe_ops import ops
from llada_moe_ops.sampling import Distributions
from torch import Tensor

WIDTH, HIDDEN = 5, 8


def distributions(rows: list[int], masked: Tensor, head: Tensor, seed: int, forbidden: list[int]) -> Distributions:
    row, slot = masked.nonzero(as_tuple=True)
    generator = torch.Generator().manual_seed(seed)
    # One draw per canvas row and slot, so that a row holds the same in any selection.
    hidden = torch.randn(10, WIDTH, HIDDEN, generator=generator)[torch.tensor(rows)[row], slot]
    logsumexp = ops.token_confidence(hidden, head, forbidden=forbidden).logsumexp
    return Distributions(hidden, logsumexp, head, forbidden, torch.tensor(rows), row, slot, WIDTH)


def probabilities(of: Distributions, entry: int) -> Tensor:
    assert isinstance(of.lm_head, Tensor)
    logits = (of.hidden[entry].double() @ of.lm_head.double().T).index_fill(
        0, torch.tensor(of.forbidden).long(), -torch.inf
    )
    return logits.softmax(-1)


@pytest.mark.parametrize("forbidden", [[], [3, 11]])
@pytest.mark.parametrize("packed", [False, True])
def test_divergence_of_what_both_steps_predicted(forbidden: list[int], packed: bool) -> None:
    head = torch.randn(40, HIDDEN, generator=torch.Generator().manual_seed(1))
    before = torch.rand(4, WIDTH, generator=torch.Generator().manual_seed(2)) < 0.8
    after = before[[0, 1, 3]] & (torch.rand(3, WIDTH, generator=torch.Generator().manual_seed(3)) < 0.8)
    after[1, 0], before[1, 0] = True, False  # masked again
    earlier = distributions([1, 2, 5, 7], before, head, 4, forbidden)
    later = distributions([1, 2, 7], after, head, 5, forbidden)
    weight = ops.pack_linear(head) if packed else head
    one, other = (
        Distributions(d.hidden, d.logsumexp, weight, forbidden, d.rows, d.row, d.slot, WIDTH) for d in (later, earlier)
    )
    found = one.divergence(other)
    expected = torch.full((3, WIDTH), torch.inf, dtype=torch.float64)
    places = list(zip(earlier.rows[earlier.row].tolist(), earlier.slot.tolist(), strict=True))
    for entry, (row, slot) in enumerate(zip(later.row.tolist(), later.slot.tolist(), strict=True)):
        key = (int(later.rows[row]), slot)
        if key in places:
            p, q = probabilities(later, entry), probabilities(earlier, places.index(key))
            expected[row, slot] = (p * (p / q).log()).nan_to_num(0).sum()
    assert 3 < int(expected.isfinite().sum()) < 15
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_rows_that_the_earlier_step_did_not_have_are_infinitely_far() -> None:
    head, masked = torch.randn(40, HIDDEN), torch.ones(1, WIDTH, dtype=torch.bool)
    for rows in ([0], [4], [9]):
        distance = distributions(rows, masked, head, 1, []).divergence(distributions([3], masked, head, 2, []))
        assert bool(distance.isinf().all())


@pytest.mark.parametrize("count", [1, 2])
def test_a_position_alone_gives_the_same_bits(count: int) -> None:
    """With a vocabulary so large that torch splits the sum of a single row over its threads."""
    torch.set_num_threads(count)
    head = torch.randn(150_001, HIDDEN, generator=torch.Generator().manual_seed(6))
    masked = torch.ones(4, WIDTH, dtype=torch.bool)
    rows = [0, 2, 3, 8]
    whole = distributions(rows, masked, head, 7, []).divergence(distributions(rows, masked, head, 8, []))
    one = torch.zeros(1, WIDTH, dtype=torch.bool)
    one[0, 2] = True
    alone = distributions([3], one, head, 7, []).divergence(distributions([3], one, head, 8, []))
    assert float(alone[0, 2]) == float(whole[2, 2])
