"""A scan over time whose reverse mode keeps the states, and nothing of what a step computes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ._precision import context, precision_of


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def reverse_scan(
    step: Callable[[Any, Any, Any], tuple[Any, Any]], params: Any, state: Any, inputs: Any
) -> tuple[Any, Any]:
    """Runs `state, output = step(params, state, input)` over the leading axis of `inputs`; for any smooth step.

    Its reverse mode runs in the precision of the states, whatever the caller's is by then. There is no forward mode.

    **Arguments:**

    - `step`: must not close over anything that is differentiated; that is what `params` is for.
    - `params`: what every step reads.
    - `state`: the initial state.
    - `inputs`: pytree of arrays with leading axis time.

    **Returns:** the final state and the outputs, stacked over time.
    """
    return jax.lax.scan(partial(step, params), state, inputs)


def _forward(step, params, state, inputs):
    def keep(state, x):
        after, output = step(params, state, x)
        return after, (output, state)

    final, (outputs, states) = jax.lax.scan(keep, state, inputs)
    return (final, outputs), (params, inputs, states)


def _backward(step, residuals, cotangents):
    params, inputs, states = residuals
    state_bar, outputs_bar = cotangents

    def pull_back(carry, at_step):
        state_bar, params_bar = carry
        state, x, output_bar = at_step
        _, transpose = jax.vjp(step, params, state, x)
        here, state_bar, x_bar = transpose((state_bar, output_bar))
        return (state_bar, jax.tree.map(jnp.add, params_bar, here)), x_bar

    with context(precision_of((params, states))):
        start = state_bar, jax.tree.map(jnp.zeros_like, params)
        (state_bar, params_bar), inputs_bar = jax.lax.scan(
            pull_back, start, (states, inputs, outputs_bar), reverse=True
        )
    return params_bar, state_bar, inputs_bar


reverse_scan.defvjp(_forward, _backward)
