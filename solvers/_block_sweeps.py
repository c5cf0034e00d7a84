"""The best schedules of SGD with momentum by exact minimisation over one step's controls at a time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._mode_bins import ModeBins
from ._second_moment import Drive, momentum_step, momentum_transposed, transfer

_ROUNDS = 2  # of rates and momentum in turn, at every step
_BELOW_ONE = 1 - 1e-9  # momentum stays under it


class BlockSweeps(NamedTuple):
    """The drive found, the loss after each cycle (`nan` after the last), the largest residual of the last one."""

    drive: Drive
    value: Float[Array, ""]
    history: Float[Array, " max_cycles+1"]
    residual: Float[Array, ""]
    cycles: Int[Array, ""]


class Freedom(NamedTuple):
    """Upper bounds of what is free; whatever else is `None` stays as it is. The lower bounds are 0."""

    e2: Float[Array, ""]
    e1: Float[Array, ""] | None = None
    beta: Float[Array, ""] | None = None


class _Local(NamedTuple):
    """What the final loss knows of one step: the sums in which it is a polynomial of the step's controls."""

    uu: Float[Array, ""]  # p_A lambda A
    vu: Float[Array, "3"]  # p C
    gu: Float[Array, "3"]  # p lambda C
    vv: Float[Array, "3"]  # p V
    gg: Float[Array, "3"]  # p Q


def block_sweeps(
    bins: ModeBins,
    noise_power: Float[Array, ""],
    start: Drive,
    free: Freedom,
    *,
    max_cycles: int = 200,
    tolerance: Float[Array, ""] | float = 1e-10,
) -> BlockSweeps:
    r"""Minimises the final excess risk over the rates $e_1, e_2$ and the momentum $\beta$ of every step.

    With $p = \partial J / \partial(A, C, V)$ after the step, $E u v' = G = \lambda A + \beta C$, $E g v' = Z = Q +
    \beta \lambda C$ and $V'$ as in `second_moment`, the loss is a parabola in the rates, with its minimum at

    $$\begin{pmatrix} \sum p_A Q & \sum p_A Z \\ \sum p_A Z & \sum p_A V' \end{pmatrix}
    \begin{pmatrix} e_1 \\ e_2 \end{pmatrix} = \begin{pmatrix} \sum p_A \lambda A + \tfrac12 p_C Z \\
    \sum p_A G + \tfrac12 p_C V' \end{pmatrix},$$

    and for given rates one in $\beta$. They are minimised in turn, forward and backward through time, as in
    `coordinate_sweeps`: the loss never rises. The landscape is not convex, and the end of the descent is slow.
    Memory is two histories of the moments.

    **Arguments:**

    - `bins`, `noise_power`: as for `second_moment`; `start`: a drive `[steps]` with a finite loss.
    - `free`: the upper bounds of what is free.
    - `max_cycles`, `tolerance`: stops when no control had $|x\, \partial J / \partial x| > \mathrm{tolerance} \times J$
      just before it was set; for $\beta$, $x = \log\frac{\beta}{1-\beta}$.

    ??? cite

        *Theory of Optimal Learning Rate Schedules and Scaling Laws for a Random Feature Model* (arXiv 2602.04774).
    """
    params = bins, noise_power

    def best(drive: Drive, y, p):
        sums = _local_sums(params, y, p, drive.inverse_batch)
        residual = jnp.zeros_like(noise_power)
        for _ in range(_ROUNDS):
            drive, moved = _best_rates(sums, drive, free)
            residual = jnp.maximum(residual, moved)
            if free.beta is not None:
                drive, moved = _best_momentum(sums, drive, jnp.minimum(free.beta, _BELOW_ONE))
                residual = jnp.maximum(residual, moved)
        return drive, residual

    def forward(y, by):
        return momentum_step(params, y, by)[0], y

    def sweep_back(p, step):
        drive, y = step
        drive, residual = best(drive, y, p)
        p_before, _ = momentum_transposed(params, transfer(drive), y, p, jnp.zeros_like(noise_power))
        return p_before, (drive, p, residual)

    def sweep_forward(y, step):
        drive, p = step
        drive, residual = best(drive, y, p)
        return momentum_step(params, y, transfer(drive))[0], (drive, y, residual)

    def cycle(state):
        sweeps, states = state
        _, (drive, adjoints, back) = jax.lax.scan(sweep_back, last, (sweeps.drive, states), reverse=True)
        y, (drive, states, ahead) = jax.lax.scan(sweep_forward, first, (drive, adjoints))
        value = jnp.sum(bins.weights * y[0])
        residual = jnp.maximum(jnp.max(back), jnp.max(ahead)) / value
        history = sweeps.history.at[sweeps.cycles + 1].set(value)
        return BlockSweeps(drive, value, history, residual, sweeps.cycles + 1), states

    def unfinished(state):
        return (state[0].cycles < max_cycles) & (state[0].residual > tolerance) & jnp.isfinite(state[0].value)

    nothing = jnp.zeros_like(bins.weights)
    first = jnp.stack([bins.teacher_power, nothing, nothing])
    last = jnp.stack([bins.weights, nothing, nothing])
    y, states = jax.lax.scan(forward, first, transfer(start))
    value = jnp.sum(bins.weights * y[0])
    history = jnp.full(max_cycles + 1, jnp.nan, value.dtype).at[0].set(value)
    begin = BlockSweeps(start, value, history, jnp.full_like(value, jnp.inf), jnp.int32(0))
    return jax.lax.while_loop(unfinished, cycle, (begin, states))[0]


def _local_sums(params, y, p, inverse_batch) -> _Local:
    bins, noise_power = params
    lam, (A, C, V) = bins.eigenvalues, y
    Q = lam**2 * A + inverse_batch * lam * (lam * A + jnp.sum(bins.weights * A) + noise_power)
    vu, gu, vv, gg = (jnp.sum(p * x, axis=1) for x in (C, lam * C, V, Q))
    return _Local(jnp.sum(p[0] * lam * A), vu, gu, vv, gg)


def _best_rates(s: _Local, drive: Drive, free: Freedom):
    e1, e2, beta, _ = drive
    Z = s.gg + beta * s.gu
    V = s.gg + 2 * beta * s.gu + beta**2 * s.vv
    a, b, d = s.gg[0], Z[0], V[0]
    x, y = s.uu + Z[1] / 2, s.uu + beta * s.vu[0] + V[1] / 2

    def second(e1):
        return jnp.clip(_ratio(y - b * e1, d, e2), 0, free.e2)

    if free.e1 is None:
        new = second(e1)
        moved = jnp.where(new == e2, 0, jnp.abs(2 * e2 * (b * e1 + d * e2 - y)))
        return drive._replace(e2=new), moved

    def cost(e1, e2):
        return a * e1**2 + 2 * b * e1 * e2 + d * e2**2 - 2 * (x * e1 + y * e2)

    # the least of a parabola in a box is inside, or on one of the four edges
    determinant = a * d - b**2
    inside = _ratio(d * x - b * y, determinant, e1), _ratio(a * y - b * x, determinant, e2)
    inside = jnp.clip(inside[0], 0, free.e1), jnp.clip(inside[1], 0, free.e2)
    edges = [(jnp.clip(_ratio(x - b * end, a, e1), 0, free.e1), end) for end in (jnp.zeros_like(e2), free.e2)]
    edges += [(end, second(end)) for end in (jnp.zeros_like(e1), free.e1)]
    new, least = (e1, e2), cost(e1, e2)
    for pair in (inside, *edges):
        # at an edge that is infinitely far this is no number, and not lower
        lower = cost(*pair) < least
        new = tuple(jnp.where(lower, candidate, kept) for candidate, kept in zip(pair, new, strict=True))
        least = jnp.where(lower, cost(*pair), least)
    slopes = 2 * jnp.stack([e1 * (a * e1 + b * e2 - x), e2 * (b * e1 + d * e2 - y)])
    moved = jnp.max(jnp.where(jnp.stack(new) == jnp.stack([e1, e2]), 0, jnp.abs(slopes)))
    return drive._replace(e1=new[0], e2=new[1]), moved


def _best_momentum(s: _Local, drive: Drive, upper):
    e1, e2, beta, _ = drive
    to_v = jnp.stack([e2**2, -e2, jnp.ones_like(e2)])  # E v'v' reaches the moments by these
    to_u = jnp.stack([-2 * e2, jnp.ones_like(e2), jnp.zeros_like(e2)])  # and E u v' by these, E g v' by -e1 times them
    slope = jnp.sum(2 * to_v * s.gu + to_u * (s.vu - e1 * s.gu))
    curvature = 2 * jnp.sum(to_v * s.vv)
    new = jnp.clip(_ratio(-slope, curvature, beta), 0, upper)
    moved = jnp.where(new == beta, 0, jnp.abs(beta * (1 - beta) * (slope + curvature * beta)))
    return drive._replace(beta=new), moved


def _ratio(x, y, otherwise):
    """Where the parabola is flat, as before the first step has filled the buffer, its control stays."""
    some = y > 0
    return jnp.where(some, x / jnp.where(some, y, 1), otherwise)
