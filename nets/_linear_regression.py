"""Linear regression on the features of a spectrum: what a random-feature model with infinitely many features is."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from ..problems import Gaussian, PowerLaw
from ..problems import _checks as checks
from ._base import AbstractNet, Ensemble, Frozen

_MOST_MODES = 2**20


class LinearRegression(AbstractNet):
    r"""The linear function $f(x) = \theta \cdot x$ of features $x_k \sim N(0, \lambda_k)$, trained from $\theta = 0$.

    One number is trained for each mode of the task, and the raw step is the protocol's learning rate.

    ??? cite "Source"
        Learning Curves for SGD on Structured Features, arXiv 2106.02713.
    """

    weights: Any
    frozen: Frozen = eqx.field(static=True)

    @classmethod
    def init(cls, design, task) -> "LinearRegression":
        """Zero weights, one for each mode of `task`."""
        return cls(jnp.zeros(_modes(task)), Frozen(design))

    @classmethod
    def ensemble(cls, design, task, seeds: int) -> Ensemble:
        """`seeds` such networks; all start at zero and differ in the samples that they will see."""
        return Ensemble(cls(jnp.zeros((checks.integer("seeds", seeds), _modes(task))), Frozen(design)), paired=False)

    @property
    def learning_rate_scale(self) -> float:
        """Raw step over learning rate, 1."""
        return 1.0

    def __call__(self, x):
        """The output, a scalar, for one input `[modes]`."""
        return x @ self.weights


def _modes(task) -> int:
    checks.instance("task", task, (PowerLaw, Gaussian), "power_law or gaussian")
    modes = task.modes if isinstance(task, PowerLaw) else task.eigenvalues.shape[0]
    if modes is None or modes > _MOST_MODES:
        raise ValueError(
            f"modes must be at most {_MOST_MODES} for a finite network, which holds every mode; "
            f"it is {modes}. The theory alone takes any number."
        )
    return modes
