"""Gradient flow of linear networks on a quadratic loss, reduced to what the loss sees."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._precision import HIGHEST


def two_layer_flow(gram, correlation, coefficients, readout, hidden, times, *, substeps: int):
    r"""Gradient flow of $f(x) = w\cdot Wx$, exactly, for any start and any number of units.

    With $\hat\beta = W^Tw$, $n = |w|^2$, $C = W^TW$ and $u = c - K\hat\beta$,

    $$\dot{\hat\beta} = nu + Cu, \qquad \dot n = 2\hat\beta\cdot u, \qquad \dot C = \hat\beta u^T + u\hat\beta^T.$$

    **Arguments:**

    - `gram`, `correlation`: $K = X^TX/P$ `[dim, dim]` and $c = X^Ty/P$ `[dim]`.
    - `coefficients`, `readout`, `hidden`: $\hat\beta$, $n$ and $C$ at time 0.
    - `times`: increasing, `[times]`.
    - `substeps`: see `integrate`.

    **Returns:** the three at `times`.
    """

    def rate(state):
        beta, n, C = state
        u = correlation - _dot(gram, beta)
        mixed = jnp.outer(beta, u)
        return n * u + _dot(C, u), 2 * _dot(beta, u), mixed + mixed.T

    return integrate(rate, (coefficients, readout, hidden), times, substeps)


def balanced_flow(
    gram: Float[Array, "dim dim"],
    correlation: Float[Array, " dim"],
    start: Float[Array, " dim"],
    times: Float[Array, " times"],
    depth: int,
    *,
    substeps: int,
) -> Float[Array, "times dim"]:
    r"""Gradient flow of a balanced linear network with `depth` hidden layers, $W^lW^{lT} = W^{l+1,T}W^{l+1}$:

    $$\dot{\hat\beta} = |\hat\beta|^{2L/(L+1)}\,(u + L\,ee^Tu), \quad e = \hat\beta/|\hat\beta|,\; u = c - K\hat\beta.$$

    On whitened data and from an aligned start it is $\dot s = (L+1)s^{2L/(L+1)}(s^* - s)$ for the length $s$; with one
    hidden layer that is `logistic_growth`.
    """
    power = depth / (depth + 1)

    def rate(beta):
        u = correlation - _dot(gram, beta)
        square = _dot(beta, beta)
        return square**power * (u + depth * beta * _dot(beta, u) / square)

    return integrate(rate, start, times, substeps)


def logistic_growth(start, target, times):
    r"""$s(t) = s^*/(1 + (s^*/s_0 - 1)e^{-2s^*t})$, the growth of a mode of a balanced network with one hidden layer."""
    return target / (1 + (target / start - 1) * jnp.exp(-2 * target * times))


def integrate(rate, start, times, substeps: int):
    """The solution of `rate(state)` from time 0 at `times`, by the classical method of order four with `substeps` equal
    steps in every interval; differentiable in either mode, in the memory of the states at `times`."""

    def move(state, slope, h):
        return jax.tree.map(lambda x, dx: x + h * dx, state, slope)

    @jax.checkpoint
    def interval(state, duration):
        h = duration / substeps

        def step(state, _):
            k1 = rate(state)
            k2 = rate(move(state, k1, h / 2))
            k3 = rate(move(state, k2, h / 2))
            k4 = rate(move(state, k3, h))
            slope = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4)
            return move(state, slope, h), None

        state, _ = jax.lax.scan(step, state, length=substeps)
        return state, state

    return jax.lax.scan(interval, start, jnp.diff(times, prepend=0.0))[1]


def _dot(a, b):
    return jnp.matmul(a, b, precision=HIGHEST)
