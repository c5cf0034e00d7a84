"""Quasi-Newton minimisation of a differentiable function, as one compiled loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

_STALLED = 5  # iterations in a row without any progress before the search is called off
_LINE_SEARCH_STEPS = 20


class Minimum(NamedTuple):
    """Where the search ended; `history` holds the value at each accepted point and `nan` after the last."""

    x: Float[Array, " variables"]
    value: Float[Array, ""]
    gradient: Float[Array, " variables"]
    history: Float[Array, " max_evaluations+1"]
    evaluations: Int[Array, ""]
    converged: Bool[Array, ""]


class _Progress(NamedTuple):
    minimum: Minimum
    optimiser: Any
    iteration: Int[Array, ""]
    stalled: Int[Array, ""]


@eqx.filter_jit
def minimise(
    function: Callable[[Float[Array, " variables"], Any], Float[Array, ""]],
    x: Float[Array, " variables"],
    args: Any,
    *,
    max_evaluations: int = 500,
    tolerance: Any = 1e-8,
    memory: int = 30,
) -> Minimum:
    """L-BFGS with a strong-Wolfe line search on `function(x, args)`.

    A trial point with a value that is not finite (or so large that it soon will not be) counts as a high plateau, so that the line
    search backs off. The start is not guarded: its value must be finite, and is returned as it is if it is not.

    **Arguments:**

    - `function`: a module-level function, so that a second call with other numbers compiles nothing.
    - `x`: the start; its float type is that of the search.
    - `args`: anything else that `function` reads.
    - `max_evaluations`: of value and gradient together; may be passed by one line search.
    - `tolerance`: converged when no component of the gradient is larger.
    - `memory`: number of past steps from which curvature is learnt.
    """
    optimiser = optax.lbfgs(
        memory_size=memory,
        linesearch=optax.scale_by_zoom_linesearch(max_linesearch_steps=_LINE_SEARCH_STEPS, initial_guess_strategy="one"),
    )
    value, gradient = jax.value_and_grad(function)(x, args)
    guarded = _guard(function, args, jnp.abs(value) + 50)
    value_and_grad = optax.value_and_grad_from_state(guarded)
    # the first look-up in the optimiser's state finds what has just been computed
    state = optax.tree.set(optimiser.init(x), value=value, grad=gradient)
    history = jnp.full(max_evaluations + 1, jnp.nan, value.dtype).at[0].set(value)
    small = jnp.max(jnp.abs(gradient)) <= tolerance
    first = Minimum(x, value, gradient, history, jnp.int32(1), small)

    def unfinished(progress: _Progress):
        now = progress.minimum
        sound = jnp.isfinite(now.value) & (progress.stalled < _STALLED)
        return ~now.converged & sound & (now.evaluations < max_evaluations)

    def iterate(progress: _Progress):
        now, state = progress.minimum, progress.optimiser
        updates, state = optimiser.update(now.gradient, state, now.x, value=now.value, grad=now.gradient, value_fn=guarded)
        x = optax.apply_updates(now.x, updates)
        value, gradient = value_and_grad(x, state=state)
        iteration = progress.iteration + 1
        evaluations = now.evaluations + optax.tree.get(state, "info").num_linesearch_steps
        minimum = Minimum(
            x,
            value,
            gradient,
            now.history.at[iteration].set(value),
            evaluations.astype(jnp.int32),
            jnp.max(jnp.abs(gradient)) <= tolerance,
        )
        return _Progress(minimum, state, iteration, jnp.where(value < now.value, 0, progress.stalled + 1))

    return jax.lax.while_loop(unfinished, iterate, _Progress(first, state, jnp.int32(0), jnp.int32(0))).minimum


def _guard(function, args, ceiling):
    """`function` with a plateau at `ceiling`, flat there, in place of overflow."""

    @jax.custom_vjp
    def guarded(x):
        return forward(x)[0]

    def forward(x):
        value, gradient = jax.value_and_grad(function)(x, args)
        sound = jnp.isfinite(value) & (value < ceiling) & jnp.all(jnp.isfinite(gradient))
        return jnp.where(sound, value, ceiling), jnp.where(sound, gradient, 0)

    guarded.defvjp(forward, lambda gradient, cotangent: (cotangent * gradient,))
    return guarded
