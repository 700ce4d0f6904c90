"""The sampler: what to unmask at each step, what to recompute, and a record of it all."""

from .cache import CACHES, Cache, CachePolicy
from .details import Details, Distributions
from .growth import Growth
from .likelihood import LikelihoodEstimate, score
from .noise import CounterNoise, NoiseSource, RecordedNoise
from .predictor import Statistics
from .requests import Request, RequestResult, check_request, generate_requests
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
    "Growth",
    "IterationSmoothing",
    "LikelihoodEstimate",
    "NoiseSource",
    "NonFiniteLogitsError",
    "RecordedNoise",
    "Request",
    "RequestResult",
    "Schedule",
    "Statistics",
    "Trace",
    "TraceStep",
    "Unmasker",
    "check_request",
    "generate",
    "generate_requests",
    "infill",
    "score",
]
