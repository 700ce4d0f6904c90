"""The sampler: what to unmask at each step, what to recompute, and a record of it all."""

from .cache import CACHES, Cache, CachePolicy
from .details import Details, Distributions
from .likelihood import LikelihoodEstimate, score
from .noise import CounterNoise, NoiseSource, RecordedNoise
from .predictor import Statistics
from .result import GenerationResult
from .sampler import generate, infill
from .schedule import Schedule
from .smoothing import SMOOTHINGS, IterationSmoothing
from .trace import NonFiniteLogitsError, Trace, TraceStep
from .unmaskers import UNMASKERS, Decision, Unmasker

__all__ = [
    "CACHES",
    "SMOOTHINGS",
    "UNMASKERS",
    "Cache",
    "CachePolicy",
    "CounterNoise",
    "Decision",
    "Details",
    "Distributions",
    "GenerationResult",
    "IterationSmoothing",
    "LikelihoodEstimate",
    "NoiseSource",
    "NonFiniteLogitsError",
    "RecordedNoise",
    "Schedule",
    "Statistics",
    "Trace",
    "TraceStep",
    "Unmasker",
    "generate",
    "infill",
    "score",
]
