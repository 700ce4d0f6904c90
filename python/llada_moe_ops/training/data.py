"""Batches of the training stream: a pure function of (seed, step), so that a resumed run sees the same data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from .objective import mask_tokens
from .tasks import MASK, TASKS, Example, draw
from .vocabulary import END_OF_TEXT, MASK_TOKEN, chat_prompt

ANSWER_WINDOWS = (8, 12, 16)


@dataclass(frozen=True)
class MaskedBatch:
    """Noisy sequences of one task and what the objective needs of them; shapes as in :mod:`.objective`."""

    task: str
    noisy_ids: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    masked: Tensor
    ratios: Tensor
    lengths: Tensor

    @property
    def tokens(self) -> int:
        """Positions in the batch, padding included."""
        return self.input_ids.numel()


@dataclass(frozen=True)
class Encoded:
    """One example as token ids, and which of them the model must find."""

    ids: list[int]
    maskable: list[bool]


def special_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids of the mask and end-of-text tokens."""
    mask_id, end_id = tokenizer.token_to_id(MASK_TOKEN), tokenizer.token_to_id(END_OF_TEXT)
    assert mask_id is not None
    assert end_id is not None
    return mask_id, end_id


def encode_example(tokenizer: Tokenizer, example: Example, window: int) -> Encoded:
    """Token ids of an example.

    A reply is followed by end-of-text up to ``window`` tokens, all of them to be found; in an infilling the masked
    positions are.
    """
    mask_id, end_id = special_ids(tokenizer)
    if example.infill:
        puzzle = tokenizer.encode(example.text.replace(MASK, MASK_TOKEN)).ids
        return Encoded(tokenizer.encode(example.answer).ids, [token == mask_id for token in puzzle])
    prompt = tokenizer.encode(chat_prompt(example.text)).ids
    reply = tokenizer.encode(example.answer).ids
    reply += [end_id] * (window - len(reply))
    return Encoded(prompt + reply, [False] * len(prompt) + [True] * len(reply))


def answer_window(random: Random, longest: int) -> int:
    """The length of the reply's canvas: mostly the shortest that leaves room for an end-of-text."""
    fitting = [window for window in ANSWER_WINDOWS if window > longest]
    return fitting[0] if random.random() < 0.7 else random.choice(fitting)


def task_batch(
    tokenizer: Tokenizer,
    name: str,
    tokens: int,
    random: Random,
    generator: torch.Generator,
    *,
    held_out: bool = False,
) -> MaskedBatch:
    """About ``tokens`` tokens of one task's examples, right-padded to the longest, masked at random."""
    mask_id, end_id = special_ids(tokenizer)
    task = TASKS[name]
    encoded: list[Encoded] = []
    window = answer_window(random, task.longest_reply)
    while not encoded or len(encoded) * max(len(one.ids) for one in encoded) < tokens:
        encoded.append(encode_example(tokenizer, draw(task, random, held_out=held_out), window))
    longest = max(len(one.ids) for one in encoded)
    shape = (len(encoded), longest)
    input_ids = torch.full(shape, end_id)
    maskable, real = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for row, one in enumerate(encoded):
        input_ids[row, : len(one.ids)] = torch.tensor(one.ids)
        maskable[row, : len(one.ids)] = torch.tensor(one.maskable)
        real[row, : len(one.ids)] = True
    noisy, masked, ratios = mask_tokens(input_ids, maskable, mask_id, generator)
    return MaskedBatch(name, noisy, input_ids, real, masked, ratios, maskable.sum(1))


@dataclass(frozen=True)
class Portion:
    """What one worker makes of one step: part ``part`` of a task, about ``tokens`` tokens."""

    task: str
    part: int
    tokens: int


def step_portions(mixture: Mapping[str, float], tokens: int, workers: int) -> list[list[Portion]]:
    """Each worker's portions of an optimiser step: whole tasks where possible, the largest placed first.

    A task larger than a worker's fair share is cut into equal parts. Few large batches beat many small ones.
    """
    total = sum(mixture.values())
    portions = []
    for name, share in mixture.items():
        parts = max(1, math.ceil(share / total * workers - 1e-9))
        size = round(tokens * share / total / parts)
        portions += [Portion(name, part, size) for part in range(parts) if size > 0]
    plan: list[list[Portion]] = [[] for _ in range(workers)]
    for portion in sorted(portions, key=lambda one: -one.tokens):
        min(plan, key=lambda worker: sum(one.tokens for one in worker)).append(portion)
    return plan


def portion_batch(tokenizer: Tokenizer, portion: Portion, seed: int, step: int) -> MaskedBatch:
    """The batch of a portion: a pure function of seed, step, task and part."""
    random = Random(f"{seed} {step} {portion.task} {portion.part}")
    generator = torch.Generator().manual_seed(random.getrandbits(62))
    return task_batch(tokenizer, portion.task, portion.tokens, random, generator)
