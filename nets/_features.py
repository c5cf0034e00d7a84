"""What linear models on random features of structured Gaussian inputs share."""

import abc
from typing import Any

import equinox as eqx
import jax

from ..problems import Gaussian, PowerLaw
from ..problems import _checks as checks
from ._base import AbstractNet, Ensemble, Frozen

_MOST_MODES = 2**20


class AbstractFeatureNet(AbstractNet):
    """A linear function of inputs $x_k$ whose frozen random features $A_{ij}$ are one draw for every network.

    Of size s there are s copies of each mode and s times as many features.
    """

    features: eqx.AbstractVar[Any]  # [..., features, modes], or None for the modes themselves
    size: eqx.AbstractVar[int]

    @staticmethod
    @abc.abstractmethod
    def start(design, count: int) -> tuple[Any, tuple[int, ...]]:
        """The weights on `count` features before training, and the axes in front of those of the features."""

    @property
    @abc.abstractmethod
    def coefficients(self):
        """What multiplies the inputs, `[modes]`."""

    @classmethod
    def init(cls, design, task, size: int, key):
        """One network on one draw of the features."""
        return cls(*cls._draw(design, mode_count(task) * size, size, key), Frozen(design), size)

    @classmethod
    def ensemble(cls, design, task, size: int, seeds: int, key) -> Ensemble:
        """`seeds` independent networks."""
        keys, dim = jax.random.split(key, checks.integer("seeds", seeds)), mode_count(task) * size
        drawn = jax.vmap(lambda k: cls._draw(design, dim, size, k))(keys)
        return Ensemble(cls(*drawn, Frozen(design), size), paired=False)

    @property
    def learning_rate_scale(self) -> float:
        """Raw step, of the readout where more than that trains, over learning rate: 1."""
        return 1.0

    def __call__(self, x):
        """The output, a scalar, for one input `[modes]`."""
        return x @ self.coefficients

    def check_modes(self, task, weights: int) -> None:
        """**Raises:** `ValueError` for a task of other modes than those of the features, or else of the `weights`."""
        dim, expected = mode_count(task) * self.size, weights if self.features is None else self.features.shape[-1]
        if dim != expected:
            raise ValueError(f"task must have the network's {expected} modes; it has {dim}.")

    @classmethod
    def _draw(cls, design, dim: int, size: int, key) -> tuple[Any, Any]:
        if design.features is None:
            return cls.start(design, dim)[0], None
        count = max(1, round(float(design.features) * size))
        weights, lead = cls.start(design, count)
        return weights, jax.random.normal(key, (*lead, count, dim))


def mode_count(task) -> int:
    """The modes of a task.

    **Raises:** `TypeError` for other tasks, `ValueError` for more modes than a network can hold.
    """
    checks.instance("task", task, (PowerLaw, Gaussian), "power_law or gaussian")
    modes = task.modes if isinstance(task, PowerLaw) else task.eigenvalues.shape[0]
    if modes is None or modes > _MOST_MODES:
        raise ValueError(
            f"modes must be at most {_MOST_MODES} for a finite network, which holds every mode; "
            f"it is {modes}. The theory alone takes any number."
        )
    return modes
