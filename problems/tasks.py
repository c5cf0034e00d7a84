"""Tasks: what is learned."""

from ._datasets import AbstractTask, Dataset, digits, from_arrays, quadratic, sphere
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
from ._features import gaussian_equivalent, random_features
from ._functions import SphereFunction, sphere_function
from ._impulse_responses import ImpulseResponse, integrator, oscillator
from ._linear_maps import LinearMap, linear_map

__all__ = [
    "AbstractDistribution",
    "AbstractTask",
    "Dataset",
    "Gaussian",
    "ImpulseResponse",
    "Isotropic",
    "LinearMap",
    "LinearProblem",
    "PowerLaw",
    "SphereFunction",
    "digits",
    "from_arrays",
    "gaussian",
    "gaussian_equivalent",
    "integrator",
    "isotropic",
    "linear_map",
    "oscillator",
    "power_law",
    "quadratic",
    "random_features",
    "sphere",
    "sphere_function",
]
