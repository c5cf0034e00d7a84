"""Target impulse responses: what a linear system should remember of its input."""

from typing import Any, Self

from . import _checks as checks
from ._datasets import AbstractTask


class ImpulseResponse(AbstractTask):
    r"""The response $\kappa^*(t) = e^{-ct}\cos\omega t$ to an impulse at lag 0, to be learned from white noise.

    **Fields:** `decay` $c > 0$ and `frequency` $\omega \ge 0$, in units of the inverse time constant of a unit.
    """

    decay: Any
    frequency: Any

    def __init__(self, decay=0.3, frequency=0.0):
        self.decay = checks.number("decay", decay, above=0.0)
        self.frequency = checks.number("frequency", frequency, low=0.0)

    def draw(self, size: int | None = None, key=None) -> Self:
        """The same response for every network: the loss is that of the population."""
        return self


def integrator(decay=0.3) -> ImpulseResponse:
    r"""Leaky integration of the input, $\kappa^*(t) = e^{-ct}$.

    **Arguments:**

    - `decay`: $c > 0$; a recurrent matrix with the eigenvalue $1 - c$ solves it.
    """
    return ImpulseResponse(decay)


def oscillator(decay=0.3, frequency=0.8) -> ImpulseResponse:
    r"""A damped oscillation, $\kappa^*(t) = e^{-ct}\cos\omega t$.

    **Arguments:**

    - `decay`: $c > 0$.
    - `frequency`: $\omega \ge 0$; a recurrent matrix with the eigenvalues $1 - c \pm i\omega$ solves it.
    """
    return ImpulseResponse(decay, frequency)
