"""One-pass SGD at a constant rate, exactly: the second moments of an average over iterates."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._adjoint_scan import adjoint_scan
from ._mode_bins import ModeBins
from ._second_moment import sgd_cotangents, sgd_step, sgd_transposed

_Params = tuple[ModeBins, Float[Array, ""]]
_Rates = tuple[Float[Array, "*steps"], Float[Array, "*steps"]]


class AveragedMoment(NamedTuple):
    """Excess risks: that of the average, and that of the last iterate in it."""

    average: Float[Array, ""]
    last: Float[Array, ""]


def averaging_step(params: _Params, y: Float[Array, "3 bins"], drive: _Rates, loss=None):
    r"""One step of SGD that adds the new iterate to the sum; returns the new moments and the risk before the step.

    The rows of `y` are $A = E u^2$, $S = E (\sum u)^2$ and $R$, what the sum so far and the *next* iterate have in
    common.
    """
    bins, _ = params
    A, S, R = y
    A, loss = sgd_step(params, A, drive, loss)
    return jnp.stack([A, S + A + 2 * R, (1 - drive[0] * bins.eigenvalues) * (R + A)]), loss


def _transposed(params: _Params, drive: _Rates, y, bar: Float[Array, "3 bins"], loss_bar: Float[Array, ""]):
    (bins, _), A, (A_bar, S_bar, R_bar) = params, y[0], bar
    carried = (1 - drive[0] * bins.eigenvalues) * R_bar
    A_bar, _ = sgd_transposed(params, drive, A, A_bar + S_bar + carried, loss_bar)
    return jnp.stack([A_bar, S_bar, 2 * S_bar + carried]), bar


def _cotangents(params: _Params, states, drive: _Rates, losses, states_bar, losses_bar):
    """The rates act on every bin alike: their cotangents are taken bin by bin, and summed for many steps at once."""
    wide = jax.tree.map(lambda x: jnp.broadcast_to(x[:, None], states[:, 0].shape), drive)
    many = jax.vmap(averaging_step, (None, 0, 0))
    _, transpose = jax.vjp(lambda params, wide: many(params, states, wide), params, wide)
    params_bar, wide_bar = transpose((states_bar, losses_bar))
    return params_bar, jax.tree.map(lambda x: jnp.sum(x, axis=1), wide_bar)


def averaged_moment(
    bins: ModeBins,
    noise_power: Float[Array, ""],
    learning_rate: Float[Array, ""],
    inverse_batch: Float[Array, ""],
    *,
    burn_in: int,
    count: int,
    adjoint: str = "blocked",
) -> AveragedMoment:
    r"""Excess risk of the mean of iterates $t = s+1, \dots, s+n$ of one-pass SGD at a constant rate from zero weights.

    In expectation over the next batch a mode's error shrinks by $1 - \eta\lambda$, so that $E u_su_t = (1 - \eta
    \lambda)^{t-s} A_s$ for $s \le t$, and the double sum over pairs of iterates is a running one,

    $$S' = S + A + 2R, \qquad R' = (1 - \eta\lambda)(R + A) ,$$

    with the $A$ of `second_moment` after the step. The risk is $\sum_j W_j S_j / n^2$. It is affine in the moments at
    the start and in the noise: what stems from the one and from the other add up.

    **Arguments:**

    - `bins`, `noise_power`: as in `second_moment`.
    - `learning_rate`, `inverse_batch`: $\eta$ and $1/B$.
    - `burn_in`, `count`: $s$ and $n$.
    - `adjoint`: see `adjoint_scan`.

    ??? cite

        *A Simplified Analysis of SGD for Linear Regression with Weight Averaging* (arXiv 2506.15535).
    """
    params, A = (bins, noise_power), bins.teacher_power

    def drive(steps: int):
        return jnp.broadcast_to(learning_rate, (steps,)), jnp.broadcast_to(inverse_batch, (steps,))

    if burn_in:
        A, _ = adjoint_scan(
            sgd_step, params, A, drive(burn_in), transposed=sgd_transposed, cotangents=sgd_cotangents, adjoint=adjoint
        )
    y, _ = adjoint_scan(
        averaging_step,
        params,
        jnp.stack([A, jnp.zeros_like(A), jnp.zeros_like(A)]),
        drive(count),
        transposed=_transposed,
        cotangents=_cotangents,
        adjoint=adjoint,
    )
    return AveragedMoment(jnp.sum(bins.weights * y[1]) / count**2, jnp.sum(bins.weights * y[0]))
