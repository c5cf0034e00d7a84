"""The best schedule of plain one-pass SGD by exact minimisation over one rate at a time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._mode_bins import ModeBins
from ._second_moment import sgd_step


class Sweeps(NamedTuple):
    """The schedule found, the loss after each cycle (`nan` after the last), the largest residual of the last one."""

    learning_rate: Float[Array, " steps"]
    value: Float[Array, ""]
    history: Float[Array, " max_cycles+1"]
    residual: Float[Array, ""]
    cycles: Int[Array, ""]


def coordinate_sweeps(
    bins: ModeBins,
    noise_power: Float[Array, ""],
    inverse_batch: Float[Array, " steps"],
    start: Float[Array, " steps"],
    upper: Float[Array, ""],
    *,
    max_cycles: int = 200,
    tolerance: Float[Array, ""] | float = 1e-10,
) -> Sweeps:
    r"""Minimises the final excess risk $J = \sum_j W_j A_j(T)$ over the whole schedule.

    With $p_t = \partial J / \partial A_t$, the loss as a function of one rate is a parabola with its minimum at

    $$\eta_t = \frac{\sum p\, \lambda A_t}
    {\sum p \left[(1 + \tfrac1B) \lambda^2 A_t + \tfrac1B \lambda (L_t + \sigma^2)\right]}, \qquad p = p_{t+1}.$$

    $A_t$ depends on earlier rates only and $p_{t+1}$ on later ones only, so that one backward and one forward pass
    set every rate to its exact minimum twice: the loss never rises, and there is no step size. Stops when no rate had
    $|\eta_t\, \partial J / \partial \eta_t| > \mathrm{tolerance} \times J$ just before it was set. Memory is two
    histories of the moments.

    **Arguments:**

    - `bins`, `noise_power`, `inverse_batch`: as for `second_moment`.
    - `start`: a schedule with a finite loss.
    - `upper`: no rate passes this; clipping a parabola's minimum is exact too. `inf` for none.
    - `max_cycles`, `tolerance`: when to stop.

    ??? cite

        *Theory of Optimal Learning Rate Schedules and Scaling Laws for a Random Feature Model* (arXiv 2602.04774).
    """
    lam, weights = bins.eigenvalues, bins.weights
    params = bins, noise_power

    def best_rate(eta, A, p, inverse_batch):
        L = jnp.sum(weights * A)
        Q = lam**2 * A + inverse_batch * lam * (lam * A + L + noise_power)
        gain, cost = jnp.sum(p * lam * A), jnp.sum(p * Q)
        best = jnp.clip(jnp.where(cost > 0, gain / jnp.where(cost > 0, cost, 1), eta), 0, upper)
        # twice the fall of the parabola in units of eta; zero for a rate that stays clipped
        return best, jnp.where(best == eta, 0, jnp.abs(2 * eta * (eta * cost - gain)))

    def adjoint_step(eta, p, inverse_batch):
        # a bin's own curvature, and its share in the risk that makes every bin noisier
        curvature = (1 + inverse_batch) * lam**2 * p + inverse_batch * weights * jnp.sum(p * lam)
        return p - 2 * eta * lam * p + eta**2 * curvature

    def forward(A, step):
        return sgd_step(params, A, step)[0], A

    def sweep_back(p, step):
        eta, A, inverse_batch = step
        eta, residual = best_rate(eta, A, p, inverse_batch)
        return adjoint_step(eta, p, inverse_batch), (eta, p, residual)

    def sweep_forward(A, step):
        eta, p, inverse_batch = step
        eta, residual = best_rate(eta, A, p, inverse_batch)
        return sgd_step(params, A, (eta, inverse_batch))[0], (eta, A, residual)

    def cycle(state):
        sweeps, history_A = state
        eta = sweeps.learning_rate
        _, (eta, history_p, back) = jax.lax.scan(sweep_back, weights, (eta, history_A, inverse_batch), reverse=True)
        A, (eta, history_A, ahead) = jax.lax.scan(sweep_forward, bins.teacher_power, (eta, history_p, inverse_batch))
        value = jnp.sum(weights * A)
        residual = jnp.maximum(jnp.max(back), jnp.max(ahead)) / value
        history = sweeps.history.at[sweeps.cycles + 1].set(value)
        return Sweeps(eta, value, history, residual, sweeps.cycles + 1), history_A

    def unfinished(state):
        return (state[0].cycles < max_cycles) & (state[0].residual > tolerance) & jnp.isfinite(state[0].value)

    A, history_A = jax.lax.scan(forward, bins.teacher_power, (start, inverse_batch))
    value = jnp.sum(weights * A)
    history = jnp.full(max_cycles + 1, jnp.nan, value.dtype).at[0].set(value)
    first = Sweeps(start, value, history, jnp.full_like(value, jnp.inf), jnp.int32(0))
    return jax.lax.while_loop(unfinished, cycle, (first, history_A))[0]
