r"""Averages over pairs of Gaussians: $\langle\phi(a)\phi(b)\rangle$ and $\langle\phi'(a)\phi'(b)\rangle$."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_NODES = 200
_PARALLEL = 1 - 2e-15  # cosines from here on are those of one input with itself, but for rounding


class PairAverages(NamedTuple):
    r"""Of a function and of its slope, with what there is to say about the error of a series.

    `truncation` is the largest share that the upper half of the terms has in $\langle\phi'(a)^2\rangle$; the error is
    far below it where terms fall quickly, and of its order where they do not, as at a kink. 0 for closed forms.
    """

    values: Float[Array, "*shape"]
    slopes: Float[Array, "*shape"]
    truncation: Float[Array, ""] | float = 0.0


@cache  # one and the same for equal arguments, so that programs are compiled once
def pair_averages(activation: str | Callable, function: Callable) -> Callable[..., PairAverages]:
    """How to average an activation: in closed form if it has one by this name, else by a series of Hermite polynomials
    of the elementwise `function`. To be called with the variances of a and b and their covariance, which broadcast."""
    return _CLOSED[activation] if has_closed_form(activation) else partial(_series, function)


def has_closed_form(activation: str | Callable) -> bool:
    """Whether the averages of an activation do not need the series."""
    return isinstance(activation, str) and activation in _CLOSED


def _relu(first, second, covariance) -> PairAverages:
    size, cosine = _size_and_cosine(first, second, covariance)
    inside = jnp.abs(cosine) < _PARALLEL  # where the angle has a derivative
    angle = jnp.where(inside, jnp.arccos(jnp.where(inside, cosine, 0.0)), jnp.where(cosine > 0, 0.0, jnp.pi))
    values = size * (jnp.sin(angle) + (jnp.pi - angle) * cosine) / (2 * jnp.pi)
    return PairAverages(values, (jnp.pi - angle) / (2 * jnp.pi))


def _erf(first, second, covariance) -> PairAverages:
    square = (1 + 2 * first) * (1 + 2 * second)
    values = 2 / jnp.pi * jnp.arcsin(2 * covariance / jnp.sqrt(square))
    return PairAverages(values, 4 / jnp.pi / jnp.sqrt(square - 4 * covariance**2))


def _identity(first, second, covariance) -> PairAverages:
    return PairAverages(covariance, jnp.ones_like(covariance))


_CLOSED: dict[Any, Callable[..., PairAverages]] = {"relu": _relu, "erf": _erf, "identity": _identity}


def _series(function: Callable, first, second, covariance) -> PairAverages:
    r"""$\sum_k a_k b_k c^k$ with the correlation c and the coefficients of $\phi(\sqrt q\,u)$ in normalised Hermite
    polynomials of u; they are the first column of $\phi(\sqrt q J)$, where J is the matrix of multiplication by u."""
    nodes, vectors = _hermite_matrix(_NODES)
    _, cosine = _size_and_cosine(first, second, covariance)

    def slope(h):
        return jax.jvp(function, (h,), (jnp.ones_like(h),))[1]

    def coefficients(of, variance):
        deviation = jnp.where(variance > 0, jnp.sqrt(_positive(variance)), 0.0)
        return jnp.moveaxis(of(deviation[..., None] * nodes) @ (vectors[0] * vectors).T, -1, 0)

    def total(of):
        pair = coefficients(of, first), coefficients(of, second)
        add = lambda found, term: (found * cosine + term[0] * term[1], None)  # noqa: E731
        return jax.lax.scan(add, jnp.zeros_like(covariance), pair, reverse=True)[0], pair

    values, _ = total(function)
    slopes, pair = total(slope)
    shares = [jnp.max(jnp.sum(a[_NODES // 2 :] ** 2, 0) / _positive(jnp.sum(a**2, 0))) for a in pair]
    return PairAverages(values, slopes, jnp.maximum(*shares))


def _size_and_cosine(first, second, covariance) -> tuple[Any, Any]:
    size = jnp.sqrt(_positive(first) * _positive(second))
    known = (first > 0) & (second > 0)
    return jnp.where(known, size, 0.0), jnp.where(known, jnp.clip(covariance / size, -1, 1), 0.0)


def _positive(value):
    """The value, or 1 where there is nothing to divide by."""
    return jnp.where(value > 0, value, 1.0)


@cache
def _hermite_matrix(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and vectors `[polynomial, node]` of multiplication by a standard normal variable."""
    above = np.sqrt(np.arange(1, size))
    return np.linalg.eigh(np.diag(above, 1) + np.diag(above, -1))
