"""The published sampler in its plainest form, over whole-canvas logits, with its treatment of mask tokens on request.

An oracle for the cases in which this library differs on purpose: with ``defects`` it must give what was recorded.
"""

from __future__ import annotations

import torch
from llada_moe_ops import LLaDAMoEModel
from torch import Tensor


def published_states(
    model: LLaDAMoEModel,
    prompt: Tensor,
    *,
    gen_length: int,
    block_length: int,
    steps: int,
    mask_id: int,
    defects: bool,
) -> Tensor:
    """States [steps + 1, B, P + G] at temperature 0 and low-confidence remasking.

    With ``defects`` masked positions are those holding the mask token, wherever they stand, and the mask token may
    be predicted; without, they are a record of their own and it may not.
    """
    canvas = torch.cat([prompt, prompt.new_full((len(prompt), gen_length), mask_id)], dim=1)
    columns = torch.arange(canvas.shape[1])
    open_positions = (columns >= prompt.shape[1]).expand_as(canvas).clone()
    states = [canvas.clone()]
    blocks = gen_length // block_length
    for block in range(blocks):
        start = prompt.shape[1] + block * block_length
        end = start + block_length
        masked = canvas == mask_id if defects else open_positions
        count, per_block = masked[:, start:end].sum(1), steps // blocks
        for step in range(per_block):
            logits = model(canvas).logits.float()
            probabilities = logits.softmax(-1)
            if not defects:
                logits[..., mask_id] = -torch.inf
            token = logits.argmax(-1)
            masked = canvas == mask_id if defects else open_positions
            confidence = probabilities.gather(-1, token[..., None]).squeeze(-1)
            confidence = confidence.masked_fill(~masked | (columns >= end), -torch.inf)
            for row in range(len(canvas)):
                commit = int(count[row]) // per_block + (step < int(count[row]) % per_block)
                chosen = confidence[row].argsort(descending=True, stable=True)[:commit]
                canvas[row, chosen] = token[row, chosen]
                open_positions[row, chosen] = False
            states.append(canvas.clone())
    return torch.stack(states)
