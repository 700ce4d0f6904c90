"""The sampler's options, checked and resolved against a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import _arguments as arguments
from ._arguments import require
from ._names import choose
from .cache import Cache, build_cache, check_pair
from .canvas import Canvas
from .noise import CounterNoise, NoiseSource, request_keys
from .predictor import Predictor, PredictorOptions
from .smoothing import IterationSmoothing, build_smoothing
from .stopping import Stopping, StopSequences
from .trace import TraceStep
from .unmaskers import Unmasker, build_unmasker

if TYPE_CHECKING:
    from ..model import LLaDAMoEConfig, LLaDAMoEModel

_REMASKINGS = {"low_confidence": "low_confidence", "random": "random"}


@dataclass(frozen=True)
class SamplerOptions:
    """What :func:`generate` and :func:`infill` have in common; the meaning of each is told at :func:`generate`.

    Where each row has settings of its own, ``temperature`` is float64 [B] and ``stop_at_eos`` bool [B]; ``unmasker``
    decides each row by its rule, ``noise`` has its seed, and ``stop`` holds what else ends it.

    Raises:
        TypeError, ValueError: an option of the wrong type, outside its range, or an unknown name.
    """

    temperature: float | Tensor
    cfg_scale: float
    remasking: str
    unmasker: str | Unmasker
    cache: str | Cache
    smoothing: str | IterationSmoothing
    seed: int | Sequence[int] | None
    mask_token_id: int | None
    eos_token_id: int | None
    eot_token_id: int | None
    suppress_eos: bool
    suppress_eos_confidence: bool
    stop_at_eos: bool | Tensor
    noise: NoiseSource | None
    on_step: Callable[[TraceStep], None] | None
    top_k: int | None = None
    top_p: float | None = None
    stop: Sequence[StopSequences | None] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.temperature, Tensor):
            arguments.non_negative("temperature", self.temperature)
        arguments.non_negative("cfg_scale", self.cfg_scale)
        if self.top_k is not None:
            arguments.integer("top_k", self.top_k, 1)
        if self.top_p is not None:
            arguments.share("top_p", self.top_p)
        choose("remasking", self.remasking, _REMASKINGS)
        build_smoothing(self.smoothing)
        check_pair(build_unmasker(self.unmasker), build_cache(self.cache))

    def end_token(self, config: LLaDAMoEConfig) -> int | None:
        """End-of-text: the caller's id, else the config's; None when neither is known and no option needs it."""
        found = config.eos_token_id if self.eos_token_id is None else self.eos_token_id
        if found is None:
            needing = [name for name in ("suppress_eos", "suppress_eos_confidence") if getattr(self, name)]
            needing += ["stop_at_eos"] * bool(torch.as_tensor(self.stop_at_eos).any()) + ["stop"] * any(self.stop)
            require(not needing, "eos_token_id", f"given when {' or '.join(needing)} is set", "None")
            return None
        return arguments.token_id("eos_token_id", found, config.vocab_size)

    def stopping(self, config: LLaDAMoEConfig, canvas: Canvas) -> Stopping | None:
        """What ends rows early; None where nothing does."""
        at_end_token = torch.as_tensor(self.stop_at_eos, device=canvas.tokens.device).expand(len(canvas.tokens))
        end = self.end_token(config)
        if end is None or not (bool(at_end_token.any()) or any(self.stop)):
            return None
        return Stopping(end, at_end_token, self.stop)

    @property
    def aligned_blocks(self) -> bool:
        """Whether blocks are counted from a row's first token."""
        return getattr(build_cache(self.cache), "block_causal", False)

    def predictor(self, model: LLaDAMoEModel, canvas: Canvas) -> Predictor:
        """The predictor of one generation."""
        config = model.config
        end = self.end_token(config)
        unconfident: list[int] = []
        if self.suppress_eos_confidence and end is not None:
            unconfident.append(end)
            if self.eot_token_id is not None:
                unconfident.append(arguments.token_id("eot_token_id", self.eot_token_id, config.vocab_size))
        noise = self.noise
        if noise is None:
            seeds = arguments.seeds(self.seed, len(canvas.tokens))
            noise = CounterNoise(request_keys(canvas.tokens, ~canvas.filled, canvas.lengths.tolist(), seeds))
        return Predictor(
            model,
            canvas,
            build_cache(self.cache),
            noise,
            PredictorOptions(
                temperature=self.temperature if isinstance(self.temperature, Tensor) else float(self.temperature),
                cfg_scale=float(self.cfg_scale),
                remasking=self.remasking,
                mask_token_id=arguments.find_mask_token_id(self.mask_token_id, config),
                forbidden=[end] if self.suppress_eos and end is not None else [],
                unconfident=unconfident,
                top_k=self.top_k,
                top_p=self.top_p,
            ),
            build_smoothing(self.smoothing),
        )
