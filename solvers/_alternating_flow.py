"""Diagonal linear networks: their gradient flow at any scale of initialisation, and the limit of vanishing scale."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._precision import HIGHEST, first_true


class Jumps(NamedTuple):
    r"""The plateaus of gradient flow from vanishing initialisation, and the jumps between them.

    - `times`: `[jumps]`, the end of every plateau but the last, in units of $\ln(1/a)$; infinite where there is no
      further jump.
    - `coordinates`: `[jumps]` integers, the coordinate that wakes up at the jump.
    - `coefficients`: `[jumps + 1, dim]`, the function on every plateau.
    - `progress`: `[jumps + 1, dim]`, $z$ at the start of every plateau.
    - `slopes`: `[jumps + 1, dim]`, $dz/d\tau$ on it, zero for the coordinates that are awake.
    """

    times: Any
    coordinates: Any
    coefficients: Any
    progress: Any
    slopes: Any


def alternating_flow(gram: Float[Array, "dim dim"], correlation: Float[Array, " dim"], jumps: int) -> Jumps:
    r"""Gradient flow of $\hat\beta_i = (w_{+i}^2 - w_{-i}^2)/2$ from $w_\pm = a \to 0$ on a quadratic loss.

    With $\hat\beta_i = a^2\sinh(2G_i)$, $\dot G = g = c - K\hat\beta$, the progress $z_i = G_i/\ln(1/a)$ of a dormant
    coordinate moves in $[-1, 1]$, and a plateau ends when the first of them reaches an end:

    $$\tau' - \tau = \min_i\,(\mathrm{sign}\,g_i - z_i)/g_i.$$

    Then, at once on this scale, the loss is minimised over all coordinates with $|z_j| = 1$, with signs $z_j$. One that
    ends at zero is dormant again and keeps $|z_j| = 1$. Derivatives are those of the algebra, not of the search; they
    exist away from ties.

    **Arguments:**

    - `gram`: $K = X^TX/P$.
    - `correlation`: $c = X^Ty/P$.
    - `jumps`: number of jumps to follow.
    """
    dim = correlation.shape[0]
    tolerance = 1e3 * jnp.finfo(correlation.dtype).eps * jnp.max(jnp.abs(correlation))

    def plateau(state):
        coefficients, _, awake = state
        force = jnp.where(awake, 0.0, correlation - _dot(gram, coefficients))
        return jnp.where(jnp.abs(force) > tolerance, force, 0.0)

    def jump(carry, _):
        state, time = carry
        coefficients, z, awake = state
        force = plateau(state)
        moving = force != 0
        wait = jnp.where(moving, (jnp.sign(force) - z) / jnp.where(moving, force, 1.0), jnp.inf)
        fixed = jax.lax.stop_gradient(wait)
        first = first_true(fixed == jnp.min(fixed))
        last = jnp.isinf(wait[first])
        duration = jnp.where(last, 0.0, jnp.where(last, 0.0, wait)[first])
        wakes = jnp.arange(dim) == first
        after = jnp.where(wakes, jnp.sign(force), jnp.where(awake, z, z + force * duration))
        found, now = constrained_minimum(gram, correlation, jnp.sign(after), awake | wakes, awake, coefficients)
        after_state = jax.tree.map(lambda new, old: jnp.where(last, old, new), (found, after, now), state)
        ends = jnp.where(last, jnp.inf, time + duration)
        return (after_state, ends), (ends, first, coefficients, z, force)

    start = jnp.zeros_like(correlation), jnp.zeros_like(correlation), jnp.zeros(dim, bool)
    carry = start, jnp.zeros((), correlation.dtype)
    (state, _), (times, coordinates, *rows) = jax.lax.scan(jump, carry, length=jumps)
    final = (state[0], state[1], plateau(state))
    rows = (jnp.concatenate([row, end[None]]) for row, end in zip(rows, final, strict=True))
    return Jumps(times, coordinates, *rows)


def constrained_minimum(gram, correlation, signs, allowed, awake, coefficients):
    """Minimises the quadratic over the coordinates `allowed`, of the given signs (Lawson and Hanson's active sets).

    `awake` and `coefficients` are a feasible start that is optimal on its own support. Returns the minimiser, zero
    outside of its support, and its support.
    """
    flipped = jax.lax.stop_gradient(signs[:, None] * gram * signs)
    target = jax.lax.stop_gradient(signs * correlation)
    tolerance = 1e2 * jnp.finfo(target.dtype).eps * jnp.max(jnp.abs(target))
    most = 10 * target.shape[0] + 10

    def body(state):
        support, x, count, _ = state
        y = _solve_on(flipped, target, support)
        bad = support & (y <= 0)
        retreat = jnp.any(bad)
        share = jnp.where(bad, x / jnp.where(bad, x - y, 1.0), jnp.inf)
        inside = x + jnp.min(share) * (y - x)
        leaves = bad & (share <= jnp.min(share))
        x = jnp.where(retreat, jnp.where(leaves, 0.0, jnp.where(support, inside, 0.0)), y)
        gain = jnp.where(allowed & ~support, target - _dot(flipped, x), -jnp.inf)
        grows = (jnp.max(gain) > tolerance) & ~retreat
        grown = support | (grows & (jnp.arange(x.size) == first_true(gain == jnp.max(gain))))
        return jnp.where(retreat, support & ~leaves, grown), x, count + 1, retreat | grows

    start = awake, jax.lax.stop_gradient(jnp.abs(coefficients)), 0, jnp.array(True)
    support, *_ = jax.lax.while_loop(lambda state: state[3] & (state[2] < most), body, start)
    return _solve_on(gram, correlation, support), support


def diagonal_flow(gram, correlation, log_plus, log_minus, times, *, tolerance: float = 1e-8):
    r"""Gradient flow of a diagonal linear network from $w_\pm(0) = e^{\ell_\pm}$, $G$ at `times`, `[times, dim]`.

    $\hat\beta = \tfrac12(e^{2\ell_+ + 2G} - e^{2\ell_- - 2G})$ and $\dot G = c - K\hat\beta$ are exact; nothing
    overflows or underflows however small the weights are.
    """
    import diffrax

    def force(_, G, __):
        return correlation - _dot(gram, diagonal_coefficients(G, log_plus, log_minus))

    return diffrax.diffeqsolve(
        diffrax.ODETerm(force),
        diffrax.Tsit5(),
        t0=0.0,
        t1=times[-1],
        dt0=None,
        y0=jnp.zeros_like(correlation),
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        max_steps=2**17,
    ).ys


def diagonal_coefficients(G, log_plus, log_minus):
    r"""$\hat\beta$ of a diagonal linear network, from the integral $G$ of its negative gradient."""
    # no trial step of an integrator may overflow
    plus, minus = (jnp.exp(jnp.minimum(2 * exponent, 40.0)) for exponent in (log_plus + G, log_minus - G))
    return (plus - minus) / 2


def _solve_on(gram, correlation, support):
    """Solves on the coordinates of `support`; zero on the others."""
    masked = jnp.where(support[:, None] & support, gram, jnp.eye(support.size, dtype=gram.dtype))
    return jnp.linalg.solve(masked, jnp.where(support, correlation, 0.0))


def _dot(a, b):
    return jnp.matmul(a, b, precision=HIGHEST)
