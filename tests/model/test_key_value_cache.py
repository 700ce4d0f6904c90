"""Passes over a window with kept keys and values: as the whole pass while nothing has changed, else as an oracle."""

from __future__ import annotations

import pytest
import torch
from llada_moe_ops import KeyValueCache, LLaDAMoEModel, ops
from torch import Tensor

from tests.golden import GOLDEN

CHECKPOINTS = ("base-fp32", "gqa", "partial-rotary", "clip-qkv", "ext-attn-bias-no-qk-norm")


def load(name: str) -> LLaDAMoEModel:
    return LLaDAMoEModel.from_pretrained(GOLDEN / name, dtype=torch.float32)


def random_ids(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(4, 250, (rows, length), generator=torch.Generator().manual_seed(seed))


def layer_by_layer(model: LLaDAMoEModel, before: Tensor, now: Tensor, window: slice) -> Tensor:
    """Hidden states of a window, keys and values outside it being those of ``before``: one layer after another."""
    positions = torch.arange(before.shape[1]).expand_as(before)
    old, new = model.embed_tokens[before], model.embed_tokens[now]
    for layer in model.layers:
        attention = layer.self_attn
        heads = []
        for x in (old, new):
            q, k, v = attention.qkv_proj(layer.input_layernorm(x)).split(attention.qkv_sizes, -1)
            q, k = ops.qk_norm_rope(
                *(part.unflatten(-1, (-1, model.config.head_dim)) for part in (q, k)),
                *(None if norm is None else norm.weight for norm in (attention.q_norm, attention.k_norm)),
                positions,
                theta=model.config.rope_theta,
                rotary_dim=model.config.rotary_dim,
                eps=model.config.rms_norm_eps,
                clip=model.config.clip_qkv,
            )
            v = v.unflatten(-1, (-1, model.config.head_dim))
            if model.config.clip_qkv is not None:
                v = v.clamp(-model.config.clip_qkv, model.config.clip_qkv)
            heads.append([q, k, v])
        for part in (1, 2):
            heads[1][part] = torch.cat(
                [heads[0][part][:, : window.start], heads[1][part][:, window], heads[0][part][:, window.stop :]], 1
            )
        states = []
        for x, (q, k, v) in zip((old, new), heads, strict=True):
            attended = attention.o_proj(ops.attention_reference(q, k, v).flatten(2))
            norm = layer.post_attention_layernorm
            h, residual = ops.add_rms_norm(attended, x, norm.weight, norm.eps)
            states.append(residual + layer.mlp(h))
        old, new = states
    return model.norm(new)[:, window]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_nothing_changed(name: str) -> None:
    model = load(name)
    ids = random_ids(3, 24)
    lengths = torch.tensor([24, 17, 20])
    mask = torch.arange(24) < lengths[:, None]
    cache = KeyValueCache(model, 3, 24)
    whole = model.hidden(ids, mask, cache=cache)
    assert torch.equal(whole, model.hidden(ids, mask))
    positions = torch.tensor([5, 0, 12])[:, None] + torch.arange(8)
    rows = torch.arange(3)[:, None]
    assert torch.equal(model.hidden(ids[rows, positions], mask, positions, cache), whole[rows, positions])


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_changed_tokens_against_the_oracle(name: str) -> None:
    model = load(name)
    before, now, window = random_ids(2, 20), random_ids(2, 20, seed=1), slice(6, 13)
    now[:, :6], now[:, 13:] = before[:, :6], before[:, 13:]
    cache = KeyValueCache(model, 2, 20)
    model.hidden(before, cache=cache)
    positions = torch.arange(6, 13).expand(2, -1)
    ours = model.hidden(now[:, window], positions=positions, cache=cache)
    expected = layer_by_layer(model, before, now, window)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, model.hidden(now)[:, window], rtol=1e-4, atol=1e-5)  # it is an approximation


def test_positions_outside_the_canvas_are_padding() -> None:
    model = load("base-fp32")
    ids = random_ids(1, 12)
    cache = KeyValueCache(model, 1, 12)
    whole = model.hidden(ids, cache=cache)
    positions = torch.arange(8, 20)[None]
    wide = torch.cat([ids[:, 8:], random_ids(1, 8, seed=2)], 1)
    assert torch.equal(model.hidden(wide, None, positions, cache)[:, :4], whole[:, 8:])
    assert torch.equal(model.hidden(ids, cache=cache), whole)


def test_positions_in_any_order() -> None:
    model = load("gqa")
    ids = random_ids(2, 16)
    cache = KeyValueCache(model, 2, 16)
    whole = model.hidden(ids, cache=cache)
    positions = torch.tensor([[3, 9, 4], [15, 0, 7]])
    rows = torch.arange(2)[:, None]
    assert torch.equal(model.hidden(ids[rows, positions], None, positions, cache), whole[rows, positions])


def test_selected_rows_are_a_copy() -> None:
    model = load("gqa")
    ids = random_ids(3, 16)
    cache = KeyValueCache(model, 3, 16)
    whole = model.hidden(ids, cache=cache)
    chosen, rows, positions = cache.select(torch.tensor([2, 0])), torch.tensor([2, 0]), torch.arange(4, 9).expand(2, -1)
    assert chosen.batch == 2
    assert torch.equal(model.hidden(ids[rows, 4:9], None, positions, chosen), whole[rows, 4:9])
    before = cache.layer(0).clone()
    other = random_ids(2, 16, seed=1)
    changed = model.hidden(other, cache=chosen)
    assert torch.equal(cache.layer(0), before)
    cache.put(rows, chosen)
    ids[rows] = other
    places = torch.arange(4, 9).expand(3, -1)
    found = model.hidden(ids[:, 4:9], None, places, cache)
    assert torch.equal(found[rows], changed[:, 4:9])
    assert torch.equal(found[1], whole[1, 4:9])


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_blocks_see_themselves_and_earlier_ones(name: str) -> None:
    """A prefix, then runs of blocks that start elsewhere in each row, have the bits of the whole canvas."""
    model, ids = load(name), random_ids(2, 22)
    mask = torch.arange(22) < torch.tensor([[22], [19]])
    whole = model.hidden(ids, mask, block_size=4)
    changed = ids.clone()
    changed[:, 9] = 7
    moved = (model.hidden(changed, mask, block_size=4) != whole).any(-1)
    assert moved[0].tolist() == [False] * 8 + [True] * 14
    cache = KeyValueCache(model, 2, 22)
    first = model.hidden(ids[:, :12], mask, cache=cache, block_size=4)
    assert torch.equal(first, whole[:, :12])
    positions = torch.tensor([[8], [12]]) + torch.arange(8)
    ahead = model.hidden(ids.gather(1, positions), mask, positions, cache, block_size=4)
    assert torch.equal(ahead[0], whole[0, 8:16])
    assert torch.equal(ahead[1, :7], whole[1, 12:19])


def test_memory() -> None:
    model = load("gqa")
    config = model.config
    per_position = 2 * config.num_hidden_layers * config.key_value_heads * config.head_dim * 4
    assert KeyValueCache(model, 3, 16).nbytes == 3 * 17 * per_position


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cache": "dual"}, TypeError, "cache must be a KeyValueCache or None, got str"),
        ({"cache": (2, 8)}, ValueError, "cache must hold as many rows as input_ids, 1, got 2"),
        (
            {"cache": (1, 8)},
            ValueError,
            "positions must be given unless .* 8 positions, got 4",
        ),
        ({"cache": (1, 8), "positions": torch.arange(3)[None]}, ValueError, "positions must have shape"),
        (
            {"cache": (1, 8), "positions": torch.arange(-1, 3)[None]},
            ValueError,
            "positions must not be negative",
        ),
        (
            {"cache": (1, 8), "positions": torch.arange(4)[None], "attention_mask": torch.ones(1, 4)},
            ValueError,
            r"attention_mask must have shape \[1, 8\]",
        ),
        ({"block_size": 0}, ValueError, "block_size must be at least 1, got 0"),
        ({"wanted": torch.tensor([0], dtype=torch.int32)}, TypeError, "wanted must be int64, got int32"),
        ({"wanted": torch.tensor([[0]])}, ValueError, r"wanted must have shape \[R\], got \[1, 1\]"),
        ({"wanted": torch.tensor([0, 4])}, ValueError, r"wanted must be in \[0, 4\), got 0 … 4"),
        ({"wanted": torch.tensor([-1])}, ValueError, r"wanted must be in \[0, 4\), got -1 … -1"),
        ({"cache": (1, 3), "block_size": 2}, ValueError, "positions must be given unless"),
        *(
            (
                {"cache": (1, 8), "positions": torch.tensor([places]), "block_size": 2},
                ValueError,
                "positions must be a run of whole blocks of block_size 2 in each row",
            )
            for places in ([1, 2, 3, 4], [2, 3, 6, 7], [4, 5, 2, 3])
        ),
        (
            {"cache": (1, 8), "positions": torch.arange(4)[None], "block_size": 3},
            ValueError,
            "positions must be a run of whole blocks of block_size 3",
        ),
    ],
)
def test_errors(options: dict, error: type[Exception], message: str) -> None:
    model = load("base-fp32")
    if isinstance(options.get("cache"), tuple):
        options = {**options, "cache": KeyValueCache(model, *options["cache"])}
    with pytest.raises(error, match=message):
        model.hidden(random_ids(1, 4), **options)
