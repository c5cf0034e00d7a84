r"""Random features in gradient flow of any length: their spectrum as complex modes, from a contour of fixed nodes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float

from ._contour import _BEYOND_EDGE, _BEYOND_ZERO, _HEIGHT, _OFFSET, Contour
from ._deterministic_equivalent import (
    degrees_of_freedom,
    ridgeless_scale,
    self_consistent_scale,
    spectral_edge,
    unlearned_power,
)
from ._mode_bins import ModeBins


class FlowModes(NamedTuple):
    r"""What $N$ random features make of a target: $\mathrm{Re}\sum_j\mu_jf(z_j)$ is the mean of $f$ over the spectrum
    of their covariance, by the part of $\sum\lambda w^2$ that an eigenvector expresses.

    `floor` is the part that none expresses, if it is not in the sum (with $z = 0$) already, and `error` is what the sum
    misses, relative to the whole.
    """

    z: Complex[Array, " nodes"]
    measure: Complex[Array, " nodes"]
    floor: Float[Array, ""]
    error: Float[Array, ""]


def flow_modes(
    bins: ModeBins, inverse_features: Float[ArrayLike, ""], horizon: Float[Array, ""], nodes: int
) -> FlowModes:
    r"""The modes of $N$ random features for functions of $e^{-z\tau}$, $\tau$ up to `horizon`, up to $O(1/N)$.

    With $-z = \kappa(1 - \mathrm{df}_1(\kappa)/N)$ the measure is $\mu = g\,dz/2\pi i$, $g = \tfrac1z\sum_k\lambda_k
    w_k^2\,\kappa/(\lambda_k + \kappa)$. The contour is that of `log_graded_contour`, whose height no step bounds here,
    if the spectrum reaches down to the inverse of the horizon; else, where nothing grows at any time, an ellipse in
    $\log z$ around the spectrum alone.

    **Arguments:**

    - `bins`, `inverse_features`: the spectrum and the teacher; $1/N$.
    - `horizon`: no derivative passes through it.
    - `nodes`: both halves counted.
    """
    lowest = ridgeless_scale(bins, inverse_features)
    frozen, inverse, horizon, scale = jax.lax.stop_gradient((bins, inverse_features, horizon, lowest))
    edge, gap = spectral_edge(frozen, inverse, 0.0), spectral_gap(frozen, inverse, scale)
    delta = _OFFSET / jnp.maximum(horizon, 1 / edge)
    around_zero = gap < delta
    low = jnp.where(around_zero, jnp.log(delta) - _BEYOND_ZERO, jnp.log(gap) - _BEYOND_EDGE)
    contour = _ellipse(low, edge, jnp.where(around_zero, delta, 0.0), nodes)
    scale = self_consistent_scale(bins, inverse_features, 0.0, -contour.z)
    # of the solutions of the equation for the scale this is the one that belongs to a spectrum
    missed = jnp.any(~(scale.imag < 0))
    measure = 2 * contour.q / contour.z * unlearned_power(bins, scale)
    floor = jnp.where(around_zero, 0.0, unlearned_power(bins, lowest))
    return FlowModes(contour.z, measure, floor, jnp.where(missed, jnp.inf, contour.error))


def spectral_gap(bins: ModeBins, inverse_features: Float[ArrayLike, ""], scale: Float[Array, ""]) -> Float[Array, ""]:
    r"""The least curvature of training $N$ random features of more modes, $\max_\kappa \kappa\,(\mathrm{df}_1/N - 1)$,
    given their `ridgeless_scale`; zero where that is."""
    kappa = scale * jnp.logspace(-5, 0, 400, dtype=scale.dtype)
    return jnp.max(kappa * (inverse_features * degrees_of_freedom(bins, kappa) - 1))


def _ellipse(low: Any, edge: Any, delta: Any, nodes: int) -> Contour:
    """Nodes on an ellipse in the logarithm of `z + delta`."""
    half = (jnp.log(edge + delta) + _BEYOND_EDGE - low) / 2
    theta = jnp.asarray(2 * np.pi * (np.arange(nodes // 2) + 0.5) / nodes, edge.dtype)
    zeta = low + half * (1 + jnp.cos(theta)) + 1j * _HEIGHT * jnp.sin(theta)
    velocity = (1j * _HEIGHT * jnp.cos(theta) - half * jnp.sin(theta)) / (1j * nodes)
    strip = _HEIGHT - jnp.sqrt(jnp.maximum(_HEIGHT**2 - 2 * half * _BEYOND_EDGE, 0.0))
    return Contour(jnp.exp(zeta) - delta, jnp.exp(zeta) * velocity, jnp.exp(-nodes * strip / half))
