"""Optimisers that are linear in past gradients: one triangular matrix and one vector."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def descend(position: Any, velocity: Any, force: Any, learning_rate, momentum, weight_decay) -> tuple[Any, Any]:
    r"""One heavy-ball step with weight decay, on any pytree of coordinates.

    $$v \leftarrow \beta v + (e - \lambda \theta), \qquad \theta \leftarrow \theta + \eta v$$

    **Arguments:**

    - `position`, `velocity`, `force`: $\theta$, $v$ and $e$ (the negative gradient), pytrees of the same structure.
    - `learning_rate`, `momentum`, `weight_decay`: $\eta$, $\beta$, $\lambda$ of this step, scalars; the rate may also
        be a tree like the position, a rate for each of its leaves.

    **Returns:**

    The new position and the new velocity.
    """
    velocity = jax.tree.map(lambda v, e, x: momentum * v + (e - weight_decay * x), velocity, force, position)
    if jax.tree.structure(learning_rate) != jax.tree.structure(position):
        learning_rate = jax.tree.map(lambda _: learning_rate, position)
    position = jax.tree.map(lambda x, v, rate: x + rate * v, position, velocity, learning_rate)
    return position, velocity


def linear_optimiser(
    learning_rate: Float[Array, " steps"],
    momentum: Float[Array, " steps"],
    weight_decay: Float[Array, " steps"],
    extra_gradient: Float[Array, " steps"] | None = None,
) -> tuple[Float[Array, "steps+1 steps"], Float[Array, " steps+1"]]:
    r"""What training does to a parameter, as a linear map of its start and of all forces on it.

    $$\theta(t) = d(t)\,\theta(0) + \sum_{s<t} c(t,s)\, e(s)$$

    Plain gradient descent: $c = \eta_s 1[s<t]$, $d = 1$. Heavy ball at a constant rate:
    $c = \eta (1-\beta^{t-s})/(1-\beta)$. Decay without momentum: $d = \prod (1-\eta\lambda)$. All of them come from
    the same recursion, `descend`, run on `steps + 1` coordinates (the start, and one unit force for each step), so
    gradients with respect to the three schedules flow through plain automatic differentiation, without
    special cases at zero momentum or zero rate.

    **Arguments:**

    - `learning_rate`, `momentum`, `weight_decay`: schedules, shape `[steps]`.
    - `extra_gradient`: rates of a further step along the bare force, beside the velocity; none by default.

    **Returns:**

    `(c, d)` with shapes `[steps + 1, steps]` and `[steps + 1]`; row `t` is the state before update `t`, `c` is
    exactly zero where `s >= t`.
    """
    steps = learning_rate.shape[0]
    unit = jnp.eye(1 + steps, dtype=learning_rate.dtype)

    def update(state, now):
        rate, beta, decay, extra, force = now
        position, velocity = state
        moved, velocity = descend(position, velocity, force, rate, beta, decay)
        state = (moved + extra * (force - decay * position), velocity)
        return state, state[0]

    if extra_gradient is None:
        extra_gradient = jnp.zeros_like(learning_rate)

    start = (unit[0], jnp.zeros_like(unit[0]))
    _, later = jax.lax.scan(update, start, (learning_rate, momentum, weight_decay, extra_gradient, unit[1:]))
    path = jnp.concatenate([unit[:1], later])
    return path[:, 1:], path[:, 0]
