"""Impulse responses of linear dynamical systems: distance from a target, and its gradient, by Laguerre functions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._precision import HIGHEST

#: Number of Laguerre functions, a power of two.
LAGUERRE_TERMS = 256
# Above this dimension squaring the matrix costs more than multiplying by it.
_SQUARED = 32
_BLOCK = 16


class ImpulseFit(NamedTuple):
    r"""What `fit_impulse_response` found.

    - `loss`: $\tfrac12\int_0^\infty(\kappa - \kappa^*)^2\,dt$, a scalar.
    - `gradient`: with respect to $W$, $u$, $v$.
    - `states`: Laguerre coefficients of $e^{(W-I)t}u$, `[dim, terms]`; they span the directions that matter.
    - `remainder`: how much of those is left at the last term, relative to the first. It is tiny where everything is
      resolved and at least of order one where an eigenvalue of $W$ is at or beyond 1.
    """

    loss: Any
    gradient: tuple[Any, Any, Any]
    states: Any
    remainder: Any


def fit_impulse_response(
    recurrent: Float[Array, "dim dim"],
    source: Float[Array, " dim"],
    readout: Float[Array, " dim"],
    decay,
    frequency,
) -> ImpulseFit:
    r"""Squared distance of $\kappa(t) = v^Te^{Qt}u$, $Q = W - I$, from $\kappa^*(t) = e^{-c t}\cos\omega t$.

    With the Cayley transform $A = (p + Q)(p - Q)^{-1}$, the Laguerre functions of pole $p$ turn lag into powers,

    $$e^{Qt}u \to U_k = \sqrt{2p}\,A^k(p - Q)^{-1}u, \qquad
      e^{Q^Tt}v \to V_k = \sqrt{2p}\,A^{Tk}(p - Q^T)^{-1}v, \qquad
      e^{-\mu t} \to c_k = \frac{\sqrt{2p}}{p + \mu}\Big(\frac{p - \mu}{p + \mu}\Big)^k,$$

    $\mu = c + i\omega$, so that with $X = UU^T$, $Y = VV^T$ (the solutions of the two Lyapunov equations), $r = \sum
    c_kU_k$ and $\ell = \sum c_kV_k$,

    $$\mathcal{L} = \tfrac12\sum_k(v\cdot U_k - \mathrm{Re}\,c_k)^2, \quad
      \partial_W = YX - \mathrm{Re}\,\ell r^T, \quad \partial_u = Yu - \mathrm{Re}\,\ell, \quad
      \partial_v = Xv - \mathrm{Re}\,r.$$

    The loss is a sum of squares, without the cancellation of the closed forms near its minimum. Everything is matrix
    products and one inverse, hence differentiable and batchable, on any device. An eigenvalue $\lambda$ of $Q$ is
    resolved to $|(p + \lambda)/(p - \lambda)|^{256}$; the pole is $p = |\mu|^{1/2}$, half-way between the target and
    an untrained network on a logarithmic scale.

    **Arguments:**

    - `recurrent`, `source`, `readout`: $W$, $u$, $v$.
    - `decay`, `frequency`: $c > 0$ and $\omega$, scalars.
    """
    mu = decay + 1j * frequency
    # the result does not depend on the pole
    pole = jax.lax.stop_gradient(jnp.sqrt(jnp.abs(mu)))
    identity = jnp.eye(source.shape[0], dtype=source.dtype)
    resolvent = jnp.linalg.inv((1 + pole) * identity - recurrent)
    cayley = 2 * pole * resolvent - identity
    root = jnp.sqrt(2 * pole)
    states = _powers(cayley, root * _dot(resolvent, source))
    costates = _powers(cayley.T, root * _dot(resolvent.T, readout))
    target = _scalar_powers((pole - mu) / (pole + mu), root / (pole + mu))

    mismatch = _dot(readout, states) - target.real
    forward, backward = _dot(states, states.T), _dot(costates, costates.T)
    right = _dot(states, target.real), _dot(states, target.imag)
    left = _dot(costates, target.real), _dot(costates, target.imag)
    gradient = (
        _dot(backward, forward) - jnp.outer(left[0], right[0]) + jnp.outer(left[1], right[1]),
        _dot(backward, source) - left[0],
        _dot(forward, readout) - right[0],
    )
    remainder = jnp.maximum(_remainder(states), _remainder(costates))
    return ImpulseFit(jnp.sum(mismatch**2) / 2, gradient, states, jax.lax.stop_gradient(remainder))


def krylov_eigenvalue_matrix(recurrent, states, count: int = 24):
    """The matrix `recurrent` seen in the space of the first `count` of `states`, `[count, count]`; its eigenvalues
    are those of `recurrent` that are far from the rest, to a precision that grows geometrically with `count`."""
    basis, _ = jnp.linalg.qr(states[:, : min(count, states.shape[0])])
    return _dot(basis.T, _dot(recurrent, basis))


def _dot(a, b):
    return jnp.matmul(a, b, precision=HIGHEST)


def _powers(matrix, start):
    """Columns `matrix^k start`, k < LAGUERRE_TERMS, `[dim, terms]`."""
    columns, most = start[:, None], LAGUERRE_TERMS if start.shape[0] <= _SQUARED else _BLOCK
    while True:
        columns = jnp.concatenate([columns, _dot(matrix, columns)], axis=1)
        if columns.shape[1] == LAGUERRE_TERMS:
            return columns
        matrix = _dot(matrix, matrix)
        if columns.shape[1] == most:
            break

    def advance(block, _):
        return _dot(matrix, block), block

    _, blocks = jax.lax.scan(advance, columns, length=LAGUERRE_TERMS // most)
    return jnp.moveaxis(blocks, 0, 1).reshape(start.shape[0], LAGUERRE_TERMS)


def _scalar_powers(ratio, start):
    """`start * ratio^k`, k < LAGUERRE_TERMS; differentiable at `ratio = 0`."""
    terms = start[None]
    while terms.shape[0] < LAGUERRE_TERMS:
        terms = jnp.concatenate([terms, ratio * terms])
        ratio = ratio * ratio
    return terms


def _remainder(columns):
    first, last = jnp.sum(columns[:, 0] ** 2), jnp.sum(columns[:, -1] ** 2)
    return jnp.sqrt(last / first)
