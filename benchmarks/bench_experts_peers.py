"""The 7B's expert layer against every other implementation that `make peers` could install, in one process.

Weights are cold: each call takes the next of eight routings (and of two layers where they fit), and between two calls
of one contender all the others have read their own copies, so that what it reads is hundreds of megabytes away.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import pytest
import torch
from llada_moe_ops.machine import processor
from llada_moe_ops.roofline import Limits
from torch import Tensor

from .compare import PEAKS, probe
from .peers import all_peers
from .peers.ours import LOOP, OURS
from .peers.peer import ACTIVATIONS, FORMATS, TOLERANCE, Peer, Run
from .peers.reference import reference, relative_error
from .peers.table import table

EXPERTS, SLOTS, HIDDEN, INTERMEDIATE = 64, 8, 2048, 1024
TOKENS = (1, 8, 32, 64, 128, 256, 512, 1024, 2048)
THREADS = (2, 1)
ROUTINGS = 8
# As many as all contenders together can hold in 9 GB.
LAYERS = {"bf16": 1, "fp32": 1, "int8": 2, "int4": 2}
SECONDS = 3.0
# Of three calls one that is disturbed spoils the median: whoever may be the fastest has at least nine.
ROUNDS = 9
LEADING_PEERS = 2
# Whoever is this many times slower than the fastest, or spins, has three, to leave the others more.
SLOW = 2.5
SLOW_ROUNDS = 3
ROUNDS_SECONDS = 0.3  # of rounds between two measurements of the machine's limits
# Up to so many tokens a timed call follows an untimed one on other weights, as in a model, where ops follow each other:
# waking the second core after others ran takes 0.1 ms of a call of less than one.
BRIEF_TOKENS = 8
# Some peers' threads spin for a while after a call, and whoever comes next waits for so long.
REST = 0.2
# What a weight takes: int4 has an fp32 scale for each group of 128.
WEIGHT_BYTES = {"bf16": 2.0, "fp32": 4.0, "int8": 1.0, "int4": 0.5 + 4 / 128}


@dataclass
class Contender:
    """A peer with its copy of every layer; `seconds` holds the calls timed since it was last emptied."""

    peer: Peer
    layers: list[Run]
    seconds: list[float] = field(default_factory=list)

    def calls(self, x: Tensor, weights: Tensor, routings: list[Tensor]) -> Callable[[], None]:
        """Each call takes the next layer and the next routing, and notes its time."""
        brief = x.shape[0] <= BRIEF_TOKENS
        turns = itertools.cycle(itertools.product(routings, self.layers))

        def call() -> None:
            if brief:
                experts, layer = next(turns)
                layer(x, weights, experts)
            experts, layer = next(turns)
            start = time.perf_counter()
            layer(x, weights, experts)
            self.seconds.append(time.perf_counter() - start)

        return call


@dataclass
class Arena:
    """Everything that one format and thread count is measured with."""

    format: str
    threads: int
    weights: tuple[Tensor, Tensor]
    contenders: list[Contender]
    absent: dict[str, str]
    rows: list[dict[str, Any]] = field(default_factory=list)


def random_layer(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Gaussian weights that keep the size of what passes through them."""
    gate_up_proj = torch.empty(EXPERTS, 2 * INTERMEDIATE, HIDDEN, dtype=dtype).normal_(0, HIDDEN**-0.5)
    return gate_up_proj, torch.empty(EXPERTS, HIDDEN, INTERMEDIATE, dtype=dtype).normal_(0, INTERMEDIATE**-0.5)


def random_routings(tokens: int) -> list[Tensor]:
    """Experts drawn at random; a lone token's routings share none, so that they take turns over the whole layer."""
    if tokens == 1:
        return list(torch.randperm(EXPERTS).view(-1, 1, SLOTS).unbind())
    return [torch.rand(tokens, EXPERTS).topk(SLOTS).indices for _ in range(ROUTINGS)]


def pack_all(layers: list[Run], dtype: torch.dtype) -> None:
    """One call that touches every expert: some peers pack an expert when it is first chosen."""
    experts = torch.randperm(EXPERTS).view(-1, SLOTS)
    x, weights = torch.randn(experts.shape[0], HIDDEN).to(dtype), torch.rand(experts.shape)
    for layer in layers:
        layer(x, weights, experts)


@pytest.fixture(scope="module", params=list(itertools.product(FORMATS, THREADS)), ids=lambda p: f"{p[0]}-threads{p[1]}")
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    """All contenders of a format, built once for every number of tokens; a table of them when they are done."""
    format, threads = request.param
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    present, absent = all_peers(format)
    present = [OURS, *present, *([LOOP] if format in LOOP.formats else [])]
    built: dict[str, list[Run]] = {}
    weights = None
    for _ in range(LAYERS[format]):
        weights = random_layer(ACTIVATIONS[format])
        for peer in present:
            if peer.name not in absent:
                try:
                    built.setdefault(peer.name, []).append(peer.build(*weights, format))
                except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
                    absent[peer.name] = str(error).splitlines()[0]
    assert weights is not None
    contenders = [Contender(peer, built[peer.name]) for peer in present if peer.name not in absent]
    for contender in contenders:
        pack_all(contender.layers, ACTIVATIONS[format])
    arena = Arena(format, threads, weights, contenders, absent)
    yield arena
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\n{table(arena.rows)}")
    arena.contenders.clear()
    built.clear()
    del contenders, weights
    gc.collect()
    for peer in present:
        peer.release()
    torch.set_num_threads(before)


def check(arena: Arena, x: Tensor, weights: Tensor, experts: Tensor) -> dict[str, float]:
    """Each contender's error; one that is wrong is out, unless it is ours, which must not be."""
    expected = reference(x, weights, experts, *arena.weights)
    results = {}
    for contender in list(arena.contenders):
        name = contender.peer.name
        if x.shape[0] <= contender.peer.max_tokens:
            error = relative_error(contender.layers[-1](x, weights, experts), expected)
            if error > TOLERANCE[arena.format]:
                assert name != OURS.name, f"wrong result: relative error {error:.3g}"
                arena.absent[name] = f"wrong result at {x.shape[0]} tokens: relative error {error:.3g}"
                arena.contenders.remove(contender)
            else:
                results[name] = error
    return results


def still_in(field: list[Contender], *, time_is_up: bool) -> list[Contender]:
    """Who goes on: nobody slow, and after the time only ours and the fastest others, to complete their rounds."""
    field = [one for one in field if not one.peer.spins]
    fast = SLOW * min(min(one.seconds) for one in field)
    peers = sorted(min(one.seconds) for one in field if one.peer is not OURS)
    if time_is_up and len(peers) > LEADING_PEERS:
        fast = min(fast, peers[LEADING_PEERS - 1])
    return [one for one in field if one.peer is OURS or min(one.seconds) <= fast]


def race(
    field: list[Contender], calls: Mapping[str, Callable[[], None]], threads: int, names: tuple[str, ...]
) -> Limits:
    """Rounds of one call each for some seconds, with the named limits of the machine measured between rounds."""
    limit = probe(threads)
    limit.reset()
    rounds, end = 0, time.perf_counter() + SECONDS
    while time.perf_counter() < end or rounds < ROUNDS:
        limit.round(names=names)
        pause = time.perf_counter() + ROUNDS_SECONDS
        while time.perf_counter() < pause:
            for one in field:
                calls[one.peer.name]()
                time.sleep(REST if one.peer.spins else 0)
            rounds += 1
            if rounds >= SLOW_ROUNDS:
                field = still_in(field, time_is_up=time.perf_counter() > end)
    return limit.limits()


def test_experts(benchmark: Any, arena: Arena, tokens: int) -> None:
    if not arena.contenders:
        pytest.skip(f"nobody has {arena.format} here: {arena.absent}")
    x = torch.randn(tokens, HIDDEN).to(ACTIVATIONS[arena.format])
    weights, routings = torch.rand(tokens, SLOTS), random_routings(tokens)
    checked = check(arena, x, weights, routings[0])
    present = [one for one in arena.contenders if one.peer.name in checked]
    for contender in present:
        contender.seconds.clear()
    calls = {one.peer.name: one.calls(x, weights, routings) for one in present}
    peak = "int8" if arena.format.startswith("int") else PEAKS[ACTIVATIONS[arena.format]]
    time.sleep(REST)
    limits = race(present, calls, arena.threads, ("dram", peak))
    touched = sum(routing.unique().numel() for routing in routings) / len(routings)
    weight_bytes = touched * 3 * HIDDEN * INTERMEDIATE * WEIGHT_BYTES[arena.format]
    work = (weight_bytes + 2.0 * x.nbytes, 6.0 * tokens * SLOTS * HIDDEN * INTERMEDIATE, peak)
    ours = next((one.seconds for one in present if one.peer is OURS), [])
    times = {
        one.peer.name: {
            "median": median(one.seconds),
            "ratio": median(peer / own for peer, own in zip(one.seconds, ours, strict=False)) if ours else None,
            "min": min(one.seconds),
            "calls": len(one.seconds),
            "fraction": limits.fraction(median(one.seconds), *work),
            "relative_error": checked[one.peer.name],
        }
        for one in present
    }
    row = {
        "format": arena.format,
        "threads": arena.threads,
        "tokens": tokens,
        "experts_touched": touched,
        "limit": limits.seconds(*work),
        "bound": limits.bound(*work),
        "limits": limits.as_dict(),
        "times": times,
        "absent": arena.absent,
        "processor": processor(),
        "torch": torch.__version__,
    }
    arena.rows.append(row)
    benchmark.extra_info.update(row)
    name = next(iter(calls))
    benchmark.group = f"experts {arena.format}, {arena.threads} threads: {name}"
    benchmark.pedantic(calls[name], rounds=3, iterations=1)
