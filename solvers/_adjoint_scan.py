"""A scan over time whose reverse mode is chosen by name."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ._precision import context

ADJOINTS = ("stored", "blocked", "direct")


def adjoint_scan(
    step: Callable[[Any, Any, Any], tuple[Any, Any]], params: Any, state: Any, inputs: Any, *, adjoint: str = "stored"
) -> tuple[Any, Any]:
    r"""Runs `state, output = step(params, state, input)` over the leading axis of `inputs`.

    The three adjoints give the same derivatives and differ in cost and reach:

    - `"stored"`: the states are kept and a reverse scan applies the transposed step, $p_t = (\partial\Phi/\partial
      y)^T p_{t+1}$. Memory of one history of states, and no intermediate of a step. No forward mode.
    - `"blocked"`: blocks of $\sqrt T$ steps are recomputed. Memory of about $2\sqrt T$ states, at the price of a
      second forward pass.
    - `"direct"`: plain `jax.lax.scan`; the only one for `jax.jvp` and Hessian-vector products.

    **Arguments:**

    - `step`: a module-level function; a fresh closure would compile again at every call.
    - `params`: what every step reads; its cotangent is accumulated over the steps.
    - `state`: the initial state.
    - `inputs`: pytree of arrays with leading axis time.

    **Returns:**

    The final state and the outputs, stacked over time.
    """
    if adjoint == "stored":
        return _stored(step, params, state, inputs)
    if adjoint == "blocked":
        return _blocked(step, params, state, inputs)
    if adjoint == "direct":
        return jax.lax.scan(partial(step, params), state, inputs)
    raise ValueError(f"adjoint {adjoint!r} is unknown; one of: {', '.join(ADJOINTS)}.")


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _stored(step, params, state, inputs):
    return jax.lax.scan(partial(step, params), state, inputs)


def _stored_forward(step, params, state, inputs):
    def keep(state, x):
        after, output = step(params, state, x)
        return after, (output, state)

    final, (outputs, states) = jax.lax.scan(keep, state, inputs)
    return (final, outputs), (params, inputs, states)


def _stored_backward(step, residuals, cotangents):
    params, inputs, states = residuals
    final, outputs = cotangents

    def back(carry, at_step):
        state_bar, params_bar = carry
        state, x, output_bar = at_step
        _, transpose = jax.vjp(step, params, state, x)
        here, state_bar, input_bar = transpose((state_bar, output_bar))
        return (state_bar, jax.tree.map(jnp.add, params_bar, here)), input_bar

    # the caller's precision context has been left by the time that a cotangent arrives
    is_double = any(leaf.dtype in (jnp.float64, jnp.complex128) for leaf in jax.tree.leaves((params, states)))
    with context("double" if is_double else "single"):
        start = final, jax.tree.map(jnp.zeros_like, params)
        (state_bar, params_bar), inputs_bar = jax.lax.scan(back, start, (states, inputs, outputs), reverse=True)
    return params_bar, state_bar, inputs_bar


_stored.defvjp(_stored_forward, _stored_backward)


def _blocked(step, params, state, inputs):
    steps = len(jax.tree.leaves(inputs)[0])
    size = max(1, math.isqrt(steps))
    whole = steps // size * size

    @jax.checkpoint
    def block(state, x):
        return jax.lax.scan(partial(step, params), state, x)

    def split(x):
        return x[:whole].reshape(whole // size, size, *x.shape[1:])

    def join(y, rest):
        return jnp.concatenate([y.reshape(whole, *y.shape[2:]), rest])

    state, outputs = jax.lax.scan(block, state, jax.tree.map(split, inputs))
    state, rest = block(state, jax.tree.map(lambda x: x[whole:], inputs))
    return state, jax.tree.map(join, outputs, rest)
