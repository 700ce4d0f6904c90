"""A request's reply is the same bits alone, in any batch, in any order and on any number of threads, under every rule
and cache policy.

``pytest --hypothesis-profile=thorough`` tries many more batches.
"""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from llada_moe_ops.sampling import CACHES, SMOOTHINGS, UNMASKERS, Growth, Request, RequestResult, generate_requests
from llada_moe_ops.sampling.unmaskers import build_unmasker

from .models import load, random_prompts

# What a random model is sure of would leave the defaults of most rules idle.
PARAMETERS = {
    "threshold": "0.3",
    "factor": "1.6",
    "entropy_bound": "3",
    "hierarchical": "0.5,0.1",
    "localleap": "0.4,0.1,2",
    "credit": "0.3,3",
    "klass": "0.1,2,1",
    "prophet": "1,0.7,0.5",
    "editing": "0.2,3",
    "remask": "below,0.3",
}
REVISING = ["editing:0.1,3", "remask:below,0.3", "remask:cap,0.5", "remask:rescale,0.9", "remask:confidence"]
GROWTH = Growth(initial=2, most=11, stride=2, threshold=0.06, window=1)
names = st.sampled_from(list(UNMASKERS)).map(lambda name: f"{name}:{PARAMETERS.get(name, '')}")
compositions = st.lists(st.sampled_from(REVISING), min_size=1, max_size=2)
rules = names | st.builds(lambda name, others: "+".join([name, *others]), names, compositions)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    length = draw(st.integers(1, 9))
    return Request(
        random_prompts(1, length, seed=draw(st.integers(0, 50)))[0].tolist(),
        draw(st.none() | st.integers(0, 13)),
        unmasker=draw(rules),
        temperature=draw(st.sampled_from([0.0, 0.3, 1.0])),
        seed=draw(st.integers(0, 3)),
        stop=draw(st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=2), max_size=1)),
        stop_at_eos=draw(st.booleans()),
    )


@settings(max_examples=settings.default.max_examples // 5, deadline=None)
@given(
    batch=st.lists(requests(), min_size=2, max_size=4),
    order=st.randoms(use_true_random=False),
    cache=st.sampled_from(list(CACHES)),
    smoothing=st.sampled_from(list(SMOOTHINGS)),
    block_length=st.sampled_from([3, 5, None]),
    cfg_scale=st.sampled_from([0.0, 0.0, 0.6]),
    remasking=st.sampled_from(["low_confidence", "low_confidence", "random"]),
    top_k=st.sampled_from([None, 7]),
    top_p=st.sampled_from([None, 0.6]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    end=st.sampled_from([2, 167]),
)
def test_a_reply_depends_on_its_request_alone(
    batch: list[Request], order: Any, cache: str, dtype: torch.dtype, end: int, **options: Any
) -> None:
    def answer(*asked: Request, threads: int = 1) -> list[RequestResult]:
        torch.set_num_threads(threads)
        return generate_requests(load("base-fp32", dtype), asked, cache=cache, eos_token_id=end, grow=GROWTH, **options)

    refused = [rule for rule in ("credit", "klass") if any(rule in str(request.unmasker) for request in batch)]
    assume(not (refused and cache == "interval"))
    together = answer(*batch)
    alone = [answer(request)[0] for request in batch]
    assert together == alone
    shuffled = order.sample(range(len(batch)), len(batch))
    assert answer(*(batch[index] for index in shuffled), threads=2) == [alone[index] for index in shuffled]


def test_every_rule_is_tried() -> None:
    assert set(PARAMETERS) <= set(UNMASKERS)
    assert all(build_unmasker(rule) for rule in REVISING)
