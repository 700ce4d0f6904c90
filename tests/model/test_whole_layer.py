"""The halves of a layer as one op: the modules' bits, and the modules themselves where somebody needs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from llada_moe_ops import KeyValueCache, LLaDAMoEModel
from llada_moe_ops.model import whole_layer
from torch import Tensor

from tests.golden import CHECKPOINTS, GOLDEN
from tests.ops.budget import AVAILABLE

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="the extension is not built")
RUNS = [(None, torch.float32), (None, torch.bfloat16), ("int8", torch.bfloat16), ("int4", torch.bfloat16)]


def load(name: str, **options: Any) -> LLaDAMoEModel:
    return LLaDAMoEModel.from_pretrained(GOLDEN / name, **options)


def random_ids(rows: int, length: int) -> Tensor:
    return torch.randint(4, 250, (rows, length), generator=torch.Generator().manual_seed(rows * 100 + length))


@contextmanager
def module_by_module() -> Iterator[None]:
    with mock.patch.object(whole_layer, "runs_natively", return_value=False):
        yield


def calls(run: Callable[[], Any]) -> tuple[int, int]:
    """How often ``run`` calls attention_layer and expert_layer."""
    called: Counter[str] = Counter()
    found = whole_layer.overload

    def counted(op: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            called[op] += 1
            return found(op)(*arguments)

        return call

    with mock.patch.object(whole_layer, "overload", counted):
        run()
    return called["attention_layer"], called["expert_layer"]


def passes(model: LLaDAMoEModel) -> list[Tensor]:
    """A plain pass, a padded one, one that fills a cache, and one over a window of it."""
    ids = random_ids(3, 24)
    mask = torch.arange(24) < torch.tensor([24, 17, 20])[:, None]
    cache = KeyValueCache(model, 3, 24)
    positions = torch.tensor([5, 0, 19])[:, None] + torch.arange(8)
    results = [model.hidden(ids), model.hidden(ids[:, :1]), model.hidden(ids, mask, cache=cache)]
    return [*results, model.hidden(ids[:, 3:11], mask, positions, cache), *map(cache.layer, (0, 1))]


@pytest.mark.parametrize(("quantization", "dtype"), RUNS)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_modules_bits(name: str, quantization: str | None, dtype: torch.dtype) -> None:
    model = load(name, quantization=quantization, dtype=dtype)
    ours = passes(model)
    with torch.no_grad():
        prepared = passes(model)
    with module_by_module():
        expected = passes(model)
    for mine, ahead, other in zip(ours, prepared, expected, strict=True):
        assert torch.equal(mine, other)
        assert torch.equal(ahead, other)


@pytest.mark.parametrize(("quantization", "dtype"), RUNS)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_positions_that_are_wanted(name: str, quantization: str | None, dtype: torch.dtype) -> None:
    model = load(name, quantization=quantization, dtype=dtype)
    ids, wanted = random_ids(3, 24), torch.tensor([40, 3, 71, 3])
    mask = torch.arange(24) < torch.tensor([24, 17, 20])[:, None]
    with torch.no_grad():
        for options in ({}, {"attention_mask": mask}):
            whole = model.hidden(ids, **options).flatten(0, 1)
            assert torch.equal(model.hidden(ids, wanted=wanted, **options), whole[wanted])
            with module_by_module():
                assert torch.equal(model.hidden(ids, wanted=wanted, **options), whole[wanted])
        assert model.hidden(ids, wanted=wanted[:0]).shape == (0, model.config.hidden_size)
    assert torch.equal(model.hidden(ids, wanted=wanted), model.hidden(ids).flatten(0, 1)[wanted])


def test_the_last_layer_s_experts_see_wanted_positions_alone() -> None:
    model, rows = load("base-fp32"), []
    for layer in model.layers:
        layer.mlp.register_forward_hook(lambda _m, arguments, _out: rows.append(arguments[0].shape[:2].numel()))
    model.hidden(random_ids(2, 9), wanted=torch.tensor([4]))
    assert rows == [18] * (len(model.layers) - 1) + [1]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("base-fp32", {}, (1, 1)),
        ("gqa", {}, (1, 1)),
        ("ext-attn-bias-no-qk-norm", {}, (1, 1)),
        ("clip-qkv", {}, (0, 1)),
        ("base-fp32", {"pack": False}, (0, 0)),
    ],
)
def test_what_runs_whole(name: str, options: dict[str, Any], expected: tuple[int, int]) -> None:
    model = load(name, **options)
    layers = len(model.layers)
    ids = random_ids(2, 9)
    assert calls(lambda: model(ids)) == (layers * expected[0], layers * expected[1])
    with torch.no_grad():
        assert calls(lambda: model(ids)) == (layers * expected[0], layers * expected[1])


@pytest.mark.parametrize("grad", [True, False])
def test_who_needs_the_modules_gets_them(grad: bool) -> None:
    model = load("base-fp32")
    layers, ids = len(model.layers), random_ids(2, 9)
    with torch.set_grad_enabled(grad):
        expected = model.hidden(ids)
        scattered = torch.ones(2, 9).index_fill_(1, torch.tensor([2, 5]), 0)
        assert calls(lambda: model(ids, scattered)) == (0, layers)
        logits: list[Tensor] = []
        assert calls(lambda: model.hidden(ids, router_logits=logits)) == (layers, 0)
        assert len(logits) == layers
        for module, missing in (("", (0, 0)), ("self_attn", (1, 0)), ("self_attn.o_proj", (1, 0)), ("mlp", (0, 1))):
            seen: list[Tensor] = []
            watched = model.layers[0].get_submodule(module)
            handle = watched.register_forward_hook(lambda _m, _i, out: seen.append(out))  # noqa: B023
            assert calls(lambda: model(ids)) == (layers - missing[0], layers - missing[1])
            handle.remove()
            assert len(seen) == 1
        assert torch.equal(model.hidden(ids), expected)


def test_weights_exchanged_between_passes_are_seen() -> None:
    model, ids = load("base-fp32"), random_ids(1, 5)
    with torch.no_grad():
        before = model.hidden(ids)
        norm = model.layers[0].input_layernorm
        norm.weight = torch.nn.Parameter(2 * norm.weight)
        after = model.hidden(ids)
        with module_by_module():
            assert torch.equal(model.hidden(ids), after)
    assert not torch.equal(after, before)


def test_a_wanted_gradient_takes_the_modules() -> None:
    model, ids = load("base-fp32"), random_ids(1, 5)
    layers = len(model.layers)
    model.layers[0].post_attention_layernorm.weight.requires_grad_()
    assert calls(lambda: model(ids)) == (1, 0)  # from there on the residual stream has a gradient
    model.embed_tokens.requires_grad_()
    assert calls(lambda: model(ids)) == (0, 0)
    with torch.no_grad():
        assert calls(lambda: model(ids)) == (layers, layers)


def test_a_module_of_another_class_is_called() -> None:
    class Louder(type(load("base-fp32").layers[0].mlp)):  # type: ignore[misc]
        def forward(self, x: Tensor, router_logits: list[Tensor] | None = None) -> Tensor:
            return 2 * super().forward(x, router_logits)

    model, ids = load("base-fp32"), random_ids(1, 5)
    before = model.hidden(ids)
    model.layers[0].mlp.__class__ = Louder
    louder = model.hidden(ids)
    assert not torch.equal(louder, before)
    with torch.no_grad():
        assert torch.equal(model.hidden(ids), louder)
