"""A scan over time whose reverse mode is chosen by name."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ._precision import context, precision_of

ADJOINTS = ("stored", "blocked", "direct")
_CACHED = 2**18  # bytes of a block's states, beyond which its passes read from memory what they could from a cache


def adjoint_scan(
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
    params: Any,
    state: Any,
    inputs: Any,
    *,
    transposed: Callable[[Any, Any, Any, Any], Any],
    cotangents: Callable[[Any, Any, Any, Any, Any], tuple[Any, Any]],
    adjoint: str = "blocked",
) -> tuple[Any, Any]:
    r"""Runs `state, output = step(params, state, input)` over the leading axis of `inputs`, for a step that is affine
    in the state.

    The three adjoints give the same derivatives and differ in cost and reach:

    - `"blocked"`: a reverse scan applies the transposed step, $p_t = (\partial\Phi/\partial y)^T p_{t+1} +
      (\partial\ell/\partial y)^T \bar\ell_t$, block by block; the states of a block are computed again, and all other
      cotangents are one vectorised pass over it. Memory of about $4\sqrt T$ states, a little more where blocks are
      cut to fit in a processor's cache. No forward mode.
    - `"stored"`: the same, with all states kept instead of computed again. Slower on a processor, where writing and
      reading a long history takes more time than the steps themselves.
    - `"direct"`: plain `jax.lax.scan`; the only one for `jax.jvp` and Hessian-vector products.

    **Arguments:**

    - `step`: a module-level function; a fresh closure would compile again at every call.
    - `params`: what every step reads; its cotangent is accumulated over the steps.
    - `state`: the initial state.
    - `inputs`: pytree of arrays with leading axis time.
    - `transposed`: `transposed(params, input, state_bar, output_bar)`, the cotangent of the state before a step from
      those of the state and the output after it. No state appears in it, as the step is affine in the state.
    - `cotangents`: `cotangents(params, states, inputs, states_bar, outputs_bar)`, those of `params` and of the inputs
      of many steps at once; every argument but the first has a leading axis time.

    **Returns:**

    The final state and the outputs, stacked over time.
    """
    if adjoint == "direct":
        return jax.lax.scan(partial(step, params), state, inputs)
    if adjoint in ADJOINTS:
        return _scan(step, transposed, cotangents, adjoint == "stored", params, state, inputs)
    raise ValueError(f"adjoint {adjoint!r} is unknown; one of: {', '.join(ADJOINTS)}.")


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _scan(step, transposed, cotangents, keep, params, state, inputs):
    return jax.lax.scan(partial(step, params), state, inputs)


def _forward(step, transposed, cotangents, keep, params, state, inputs):
    if keep:
        state, (outputs, states) = _run(step, params, state, inputs)
        return (state, outputs), (params, inputs, *_split(states, state))

    def block(state, x):
        after, outputs = jax.lax.scan(partial(step, params), state, x)
        return after, (outputs, state)

    whole, rest = _split(inputs, state)
    state, (outputs, states) = jax.lax.scan(block, state, whole)
    outputs, states_rest = _join(outputs), None
    if _length(rest):
        state, (outputs_rest, states_rest) = block(state, rest)
        outputs = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), outputs, outputs_rest)
    return (state, outputs), (params, inputs, states, states_rest)


def _backward(step, transposed, cotangents, keep, residuals, bars):
    params, inputs, states, states_rest = residuals
    state_bar, outputs_bar = bars

    def pull_back(state_bar, at_step):
        x, output_bar = at_step
        return transposed(params, x, state_bar, output_bar), state_bar

    def block(carry, at_block):
        state_bar, params_bar = carry
        states, x, outputs_bar = at_block
        if not keep:
            states = _run(step, params, states, x)[1][1]
        state_bar, states_bar = jax.lax.scan(pull_back, state_bar, (x, outputs_bar), reverse=True)
        here, x_bar = cotangents(params, states, x, states_bar, outputs_bar)
        return (state_bar, jax.tree.map(jnp.add, params_bar, here)), x_bar

    with context(precision_of((params, states))):
        whole, rest = _split((inputs, outputs_bar), state_bar)
        carry, rest_bar = (state_bar, jax.tree.map(jnp.zeros_like, params)), None
        if _length(rest):
            carry, rest_bar = block(carry, (states_rest, *rest))
        (state_bar, params_bar), inputs_bar = jax.lax.scan(block, carry, (states, *whole), reverse=True)
        inputs_bar = _join(inputs_bar)
        if _length(rest):
            inputs_bar = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), inputs_bar, rest_bar)
    return params_bar, state_bar, inputs_bar


_scan.defvjp(_forward, _backward)


def _run(step, params, state, inputs):
    """The scan with its states before each step: `(final, (outputs, states))`."""

    def keeping(state, x):
        after, output = step(params, state, x)
        return after, (output, state)

    return jax.lax.scan(keeping, state, inputs)


def _length(tree) -> int:
    return len(jax.tree.leaves(tree)[0])


def _split(tree, state):
    """Time cut into blocks `[blocks, size, ...]`, and what remains after them.

    Their size is half to once the root of the number of steps, or down to a quarter of that where states are large. The
    remainder costs a second compilation, so the size divides the number of steps where it can.
    """
    steps = _length(tree)
    root = math.isqrt(steps)
    fitting = _CACHED // sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    root = min(root, max(fitting, root // 4, 1))
    size = min(range((root + 1) // 2, root + 1), key=lambda size: steps % size)
    count = steps // size
    whole = jax.tree.map(lambda x: x[: count * size].reshape(count, size, *x.shape[1:]), tree)
    return whole, jax.tree.map(lambda x: x[count * size :], tree)


def _join(blocks):
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), blocks)
