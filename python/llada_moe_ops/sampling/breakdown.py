"""Where in the model a step's numbers stopped being finite."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .predictor import Predictor
from .trace import NonFiniteLogitsError, Trace


@torch.no_grad()
def breakdown(predictor: Predictor, trace: Trace) -> NonFiniteLogitsError:
    """The error of the step after ``trace``, with the first layer whose output is not finite.

    The step's pass is run again, over whole canvases and without a cache, with a hook on every layer.
    """
    canvas, model = predictor.canvas, predictor.model
    tokens = canvas.aligned(trace.states()[-1])
    rows = torch.arange(len(tokens), device=tokens.device)
    mask = canvas.attention_mask(rows)
    if predictor.passes_per_step > 1:
        tokens = torch.cat([tokens, predictor.without_given(rows, tokens)])
        mask = None if mask is None else torch.cat([mask, mask])
    real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    broken: list[int] = []

    def note(index: int, layer: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        update, residual = output
        if not bool((update + residual)[real].isfinite().all()):
            broken.append(index)

    hooks = [layer.register_forward_hook(partial(note, index)) for index, layer in enumerate(model.layers)]
    try:
        hidden = model.hidden(tokens, mask, block_size=predictor.block_size)
    finally:
        for hook in hooks:
            hook.remove()
    layer = None
    # Under smoothing what a position is given holds something of every token's embedding.
    embedded = model.embed_tokens[tokens[real]] if predictor.smoother is None else model.embed_tokens
    if not bool(embedded.isfinite().all()):
        where = "the embedding"
    elif broken:
        layer, where = broken[0], f"layer {broken[0]}"
    else:
        where = "the head" if bool(hidden[real].isfinite().all()) else "the final norm"
    return NonFiniteLogitsError(len(trace.steps), trace, layer, where)
