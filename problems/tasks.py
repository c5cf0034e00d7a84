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

__all__ = [
    "AbstractDistribution",
    "AbstractTask",
    "Dataset",
    "Gaussian",
    "Isotropic",
    "LinearProblem",
    "PowerLaw",
    "digits",
    "from_arrays",
    "gaussian",
    "isotropic",
    "power_law",
    "sphere",
]
