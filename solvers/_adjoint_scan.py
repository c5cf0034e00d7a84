"""A scan over time whose reverse mode is chosen by name."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ._precision import context

ADJOINTS = ("stored", "blocked", "direct")

_BLOCK = 64  # steps whose cotangents are gathered at once


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
    final_bar, outputs_bar = cotangents

    def pull_back(state_bar, at_step):
        state, x, output_bar = at_step
        _, transpose = jax.vjp(lambda state: step(params, state, x), state)
        return *transpose((state_bar, output_bar)), state_bar

    def block(carry, at_steps):
        # the recursion pulls the state back and nothing else; all the rest is one vectorised pass over the block
        state_bar, params_bar = carry
        state_bar, states_bar = jax.lax.scan(pull_back, state_bar, at_steps, reverse=True)
        states, x, outputs_bar = at_steps
        _, transpose = jax.vjp(lambda params, x: jax.vmap(step, (None, 0, 0))(params, states, x), params, x)
        here, x_bar = transpose((states_bar, outputs_bar))
        return (state_bar, jax.tree.map(jnp.add, params_bar, here)), x_bar

    # the caller's precision context has been left by the time that a cotangent arrives
    is_double = any(leaf.dtype in (jnp.float64, jnp.complex128) for leaf in jax.tree.leaves((params, states)))
    with context("double" if is_double else "single"):
        blocks, rest = _split((states, inputs, outputs_bar), _BLOCK)
        carry, rest_bar = block((final_bar, jax.tree.map(jnp.zeros_like, params)), rest)
        (state_bar, params_bar), blocks_bar = jax.lax.scan(block, carry, blocks, reverse=True)
        inputs_bar = _join(blocks_bar, rest_bar)
    return params_bar, state_bar, inputs_bar


_stored.defvjp(_stored_forward, _stored_backward)


def _blocked(step, params, state, inputs):
    @jax.checkpoint
    def block(state, x):
        return jax.lax.scan(partial(step, params), state, x)

    steps = len(jax.tree.leaves(inputs)[0])
    blocks, rest = _split(inputs, max(1, math.isqrt(steps)))
    state, outputs = jax.lax.scan(block, state, blocks)
    state, rest = block(state, rest)
    return state, _join(outputs, rest)


def _split(tree, size: int):
    """Time cut into whole blocks of `size`, `[blocks, size, ...]`, and the steps that remain after the last."""

    def whole(x):
        count = len(x) // size
        return x[: count * size].reshape(count, size, *x.shape[1:])

    return jax.tree.map(whole, tree), jax.tree.map(lambda x: x[len(x) // size * size :], tree)


def _join(blocks, rest):
    return jax.tree.map(lambda x, y: jnp.concatenate([x.reshape(-1, *x.shape[2:]), y]), blocks, rest)
