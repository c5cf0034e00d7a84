"""Impulse responses of linear dynamical systems: distance from a target, and its gradient, by Laguerre functions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._precision import HIGHEST

#: Part of the slowest response that may be left at the last Laguerre function. Beyond it nothing is resolved.
UNRESOLVED = 1e-5
# Above this dimension squaring the matrix costs more than multiplying by it.
_SMALL = 32
_BLOCK = 16


class ImpulseFit(NamedTuple):
    r"""What `fit_impulse_response` found.

    - `loss`: $\tfrac12\int_0^\infty(\kappa - \kappa^*)^2\,dt$, a scalar.
    - `gradient`: with respect to $W$, $u$, $v$.
    - `remainder`: how much of $e^{(W-I)t}u$ and $e^{(W^T-I)t}v$ is left at the last Laguerre function, relative to the
      first: tiny where everything is resolved, at least of order one where an eigenvalue of $W$ is at or beyond 1.
    """

    loss: Any
    gradient: tuple[Any, Any, Any]
    remainder: Any


def fit_impulse_response(
    recurrent: Float[Array, "dim dim"],
    source: Float[Array, " dim"],
    readout: Float[Array, " dim"],
    decay,
    frequency,
    *,
    terms: int = 128,
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
    resolved to $|(p + \lambda)/(p - \lambda)|^{K}$ with $K$ terms; the pole is $p = |\mu|^{1/2}$, half-way between the
    target and an untrained network on a logarithmic scale.

    **Arguments:**

    - `recurrent`, `source`, `readout`: $W$, $u$, $v$.
    - `decay`, `frequency`: $c > 0$ and $\omega$, scalars.
    - `terms`: number of Laguerre functions, a power of two; see `laguerre_terms`.
    """
    mu = decay + 1j * frequency
    # the result does not depend on the pole
    pole = jax.lax.stop_gradient(jnp.sqrt(jnp.abs(mu)))
    identity = jnp.eye(source.shape[0], dtype=source.dtype)
    resolvent = _inverse((1 + pole) * identity - recurrent)
    cayley = 2 * pole * resolvent - identity
    root = jnp.sqrt(2 * pole)
    states = _powers(cayley, root * _dot(resolvent, source), terms)
    costates = _powers(cayley.T, root * _dot(resolvent.T, readout), terms)
    target = _scalar_powers((pole - mu) / (pole + mu), root / (pole + mu), terms)

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
    return ImpulseFit(jnp.sum(mismatch**2) / 2, gradient, jax.lax.stop_gradient(remainder))


def laguerre_terms(decay: float, frequency: float, *, accuracy: float = 1e-8, most: int = 2048) -> int | None:
    """The number of Laguerre functions that a target needs, at least 128; `None` where `most` are not enough."""
    mu = complex(decay, frequency)
    pole = abs(mu) ** 0.5
    ratio = max(abs((pole - mu) / (pole + mu)), abs((pole - 1) / (pole + 1)))
    terms = 128
    while ratio**terms > accuracy:
        terms *= 2
        if terms > most:
            return None
    return terms


def arnoldi(matrix: Float[Array, "dim dim"], start: Float[Array, " dim"], count: int = 24) -> Float[Array, "n n"]:
    """A matrix within the space spanned by `start` and its images, in an orthonormal basis (`count` directions, or all
    of them). Its eigenvalues are those of `matrix` that are far from the others, to a precision geometric in `count`;
    where the space is exhausted before, the rest are zero."""
    if count >= matrix.shape[0]:
        return matrix
    tiny = jnp.finfo(matrix.dtype).eps ** 0.75

    def extend(carry, i):
        basis, vector = carry
        length = jnp.linalg.norm(vector)
        for _ in range(2):
            vector = vector - _dot(_dot(basis, vector), basis)
        left = jnp.linalg.norm(vector)
        new = left > tiny * length
        vector = jnp.where(new, vector / jnp.where(new, left, 1.0), 0.0)
        return (basis.at[i].set(vector), _dot(matrix, vector)), None

    empty = jnp.zeros((count, matrix.shape[0]), matrix.dtype)
    (basis, _), _ = jax.lax.scan(extend, (empty, start), jnp.arange(count))
    return _dot(basis, _dot(matrix, basis.T))


def two_largest_eigenvalues(matrices) -> tuple[np.ndarray, np.ndarray]:
    """Real and imaginary parts, `[..., 2]`, of the two eigenvalues of largest modulus of matrices `[..., dim, dim]`,
    the larger real part first, of a complex pair the positive imaginary part; NaN where a matrix is not finite."""
    matrices = np.asarray(matrices)
    finite = np.all(np.isfinite(matrices), axis=(-2, -1), keepdims=True)
    found: Any = np.linalg.eigvals(np.where(finite, matrices, 0.0))
    order = np.argsort(-np.abs(found), axis=-1, kind="stable")[..., :2]
    found = np.take_along_axis(found, order, axis=-1)
    # rounding must not decide which of a complex pair comes first
    real = np.round(found.real, 10)
    order = np.lexsort((-found.imag, -real), axis=-1)
    found = np.where(finite[..., 0], np.take_along_axis(found, order, axis=-1), np.nan)
    return found.real.astype(matrices.dtype), found.imag.astype(matrices.dtype)


def _dot(a, b):
    return jnp.matmul(a, b, precision=HIGHEST)


def _inverse(matrix):
    """The inverse by elimination without pivoting, which these matrices, the identity plus less, can do without.

    It takes the place of LAPACK, whose threads and those of XLA take the cores from one another: a factor of 30 on two
    busy cores.
    """

    def eliminate(matrix, i):
        pivot = matrix[i, i]
        row, column = matrix[i] / pivot, matrix[:, i].at[i].set(0.0)
        rest = (matrix - jnp.outer(column, row)).at[:, i].set(-column / pivot)
        return rest.at[i].set(row.at[i].set(1 / pivot)), None

    return jax.lax.scan(eliminate, matrix, jnp.arange(matrix.shape[0]))[0]


def _powers(matrix, start, terms: int):
    """Columns `matrix^k start`, k < terms, `[dim, terms]`."""
    columns, most = start[:, None], terms if start.shape[0] <= _SMALL else _BLOCK
    while True:
        columns = jnp.concatenate([columns, _dot(matrix, columns)], axis=1)
        if columns.shape[1] == terms:
            return columns
        matrix = _dot(matrix, matrix)
        if columns.shape[1] == most:
            break

    def advance(block, _):
        return _dot(matrix, block), block

    _, blocks = jax.lax.scan(advance, columns, length=terms // most)
    return jnp.moveaxis(blocks, 0, 1).reshape(start.shape[0], terms)


def _scalar_powers(ratio, start, terms: int):
    """`start * ratio^k`, k < terms; differentiable at `ratio = 0`."""
    powers = start[None]
    while powers.shape[0] < terms:
        powers = jnp.concatenate([powers, ratio * powers])
        ratio = ratio * ratio
    return powers


def _remainder(columns):
    first, last = jnp.sum(columns[:, 0] ** 2), jnp.sum(columns[:, -1] ** 2)
    return jnp.sqrt(last / first)
