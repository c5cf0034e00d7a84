"""The vocabulary: tasks, schedules, protocols, objectives, trajectories, and how their parts are named."""

from . import objectives, schedules, tasks
from ._keys import default_key, key_name
from ._protocols import AbstractProtocol, AbstractSteps, GradientDescent, GradientFlow, MinibatchSGD, OnlineSGD
from ._resolver import Slot, continuous, parameters, replace, resolve
from ._trajectory import (
    CONVERGED,
    DIVERGED,
    NOT_CONVERGED,
    OVERFLOW,
    ConvergenceError,
    DivergedError,
    Trajectory,
    check,
    first_divergence,
    write_netcdf,
)
from .tasks import (
    AbstractDistribution,
    AbstractTask,
    Dataset,
    Gaussian,
    ImpulseResponse,
    Isotropic,
    LinearMap,
    LinearProblem,
    PowerLaw,
)

__all__ = [
    "CONVERGED",
    "DIVERGED",
    "NOT_CONVERGED",
    "OVERFLOW",
    "AbstractDistribution",
    "AbstractProtocol",
    "AbstractSteps",
    "AbstractTask",
    "ConvergenceError",
    "Dataset",
    "DivergedError",
    "Gaussian",
    "GradientDescent",
    "GradientFlow",
    "ImpulseResponse",
    "Isotropic",
    "LinearMap",
    "LinearProblem",
    "MinibatchSGD",
    "OnlineSGD",
    "PowerLaw",
    "Slot",
    "Trajectory",
    "check",
    "continuous",
    "default_key",
    "first_divergence",
    "key_name",
    "objectives",
    "parameters",
    "replace",
    "resolve",
    "schedules",
    "tasks",
    "write_netcdf",
]
