"""Tasks: what is learned."""

from ._datasets import AbstractTask, Dataset, digits, from_arrays, sphere
from ._distributions import (
    AbstractDistribution,
    Gaussian,
    Isotropic,
    LinearProblem,
    PowerLaw,
    gaussian,
    isotropic,
    power_law,
)
from ._impulse_responses import ImpulseResponse, integrator, oscillator

__all__ = [
    "AbstractDistribution",
    "AbstractTask",
    "Dataset",
    "Gaussian",
    "ImpulseResponse",
    "Isotropic",
    "LinearProblem",
    "PowerLaw",
    "digits",
    "from_arrays",
    "gaussian",
    "integrator",
    "isotropic",
    "oscillator",
    "power_law",
    "sphere",
]
