"""Random linear maps with many outputs."""

from typing import Any, Self

from . import _checks as checks
from ._datasets import AbstractTask


class LinearMap(AbstractTask):
    r"""A random linear map of $D$ white inputs to $\kappa D$ outputs, entries $N(0, s^2)$ over $\sqrt D$.

    **Fields:** `output_ratio` $\kappa > 0$, outputs over inputs, and `scale` $s \ge 0$.
    """

    output_ratio: Any
    scale: Any

    def __init__(self, output_ratio=0.5, scale=1.0):
        self.output_ratio = checks.number("output_ratio", output_ratio, above=0.0)
        self.scale = checks.number("scale", scale, low=0.0)

    def draw(self, size: int | None = None, key=None) -> Self:
        """The task itself: every network draws a map of its own size."""
        return self


def linear_map(output_ratio=0.5, scale=1.0) -> LinearMap:
    r"""A random linear map with `output_ratio` times as many outputs as inputs and entries of standard deviation
    `scale` over the square root of the number of inputs."""
    return LinearMap(output_ratio, scale)
