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
    step: Callable[..., tuple[Any, Any]],
    params: Any,
    state: Any,
    inputs: Any,
    *,
    transposed: Callable[[Any, Any, Any, Any, Any], tuple[Any, Any]],
    cotangents: Callable[[Any, Any, Any, Any, Any, Any], tuple[Any, Any]],
    prepare: Callable[[Any], Any] = lambda inputs: inputs,
    adjoint: str = "blocked",
) -> tuple[Any, Any]:
    r"""Runs `state, output = step(params, state, prepared)` over the leading axis of `prepare(inputs)`.

    The step must be affine in the state. The three adjoints give the same derivatives and differ in cost and reach:

    - `"blocked"`: a reverse scan applies the transposed step, $p_t = (\partial\Phi/\partial y)^T p_{t+1} +
      (\partial\ell/\partial y)^T \bar\ell_t$, block by block; the states of a block are computed again from the
      outputs that are known by then, and all other cotangents are one vectorised pass over it. Memory of about
      $4\sqrt T$ states, a little more where blocks are cut to fit in a processor's cache. No forward mode.
    - `"stored"`: the same, with all states kept instead of computed again. Slower on a processor, where writing and
      reading a long history takes more time than the steps themselves.
    - `"direct"`: plain `jax.lax.scan`; the only one for `jax.jvp` and Hessian-vector products.

    **Arguments:**

    - `step`: a module-level function; a fresh closure would compile again at every call. Where the output of a step is
      known it is called as `step(params, state, prepared, output)`, and need not compute it.
    - `params`: what every step reads; its cotangent is accumulated over the steps.
    - `state`: the initial state.
    - `inputs`: pytree of arrays with leading axis time.
    - `transposed`: `transposed(params, prepared, state, state_bar, output_bar)`, the cotangent of the state before a
      step from those of the state and the output after it, and what `cotangents` is to know of the step. The state is
      there for the latter: as the step is affine in it, the former does not depend on it.
    - `cotangents`: `cotangents(params, states, inputs, outputs, records, outputs_bar)`, those of `params` and of the
      inputs of many steps at once; every argument but the first has a leading axis time, `records` are what
      `transposed` left.
    - `prepare`: computes what the steps read from the inputs of many of them at once.

    **Returns:**

    The final state and the outputs, stacked over time.
    """
    if adjoint == "direct":
        return jax.lax.scan(partial(step, params), state, prepare(inputs))
    if adjoint in ADJOINTS:
        return _scan(step, transposed, cotangents, prepare, adjoint == "stored", params, state, inputs)
    raise ValueError(f"adjoint {adjoint!r} is unknown; one of: {', '.join(ADJOINTS)}.")


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3, 4))
def _scan(step, transposed, cotangents, prepare, keep, params, state, inputs):
    # in blocks here too, as what is prepared may be larger than the inputs
    return _forward(step, transposed, cotangents, prepare, False, params, state, inputs)[0]


def _forward(step, transposed, cotangents, prepare, keep, params, state, inputs):
    if keep:
        state, (outputs, states) = jax.lax.scan(partial(_keeping, step, params), state, prepare(inputs))
        return (state, outputs), (params, inputs, outputs, *_split(states, state))

    def block(state, x):
        after, outputs = jax.lax.scan(partial(step, params), state, prepare(x))
        return after, (outputs, state)

    whole, rest = _split(inputs, state)
    state, (outputs, states) = jax.lax.scan(block, state, whole)
    outputs, states_rest = _join(outputs), None
    if _length(rest):
        state, (outputs_rest, states_rest) = block(state, rest)
        outputs = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), outputs, outputs_rest)
    return (state, outputs), (params, inputs, outputs, states, states_rest)


def _backward(step, transposed, cotangents, prepare, keep, residuals, bars):
    params, inputs, outputs, states, states_rest = residuals
    state_bar, outputs_bar = bars

    def pull_back(state_bar, at_step):
        x, output_bar, state = at_step
        return transposed(params, x, state, state_bar, output_bar)

    def block(carry, at_block):
        state_bar, params_bar = carry
        states, x, outputs, outputs_bar = at_block
        prepared = prepare(x)
        if not keep:
            states = _again(step, params, states, prepared, outputs)
        state_bar, records = jax.lax.scan(pull_back, state_bar, (prepared, outputs_bar, states), reverse=True)
        here, x_bar = cotangents(params, states, x, outputs, records, outputs_bar)
        return (state_bar, jax.tree.map(jnp.add, params_bar, here)), x_bar

    with context(precision_of((params, states))):
        whole, rest = _split((inputs, outputs, outputs_bar), state_bar)
        carry, rest_bar = (state_bar, jax.tree.map(jnp.zeros_like, params)), None
        if _length(rest):
            carry, rest_bar = block(carry, (states_rest, *rest))
        (state_bar, params_bar), inputs_bar = jax.lax.scan(block, carry, (states, *whole), reverse=True)
        inputs_bar = _join(inputs_bar)
        if _length(rest):
            inputs_bar = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), inputs_bar, rest_bar)
    return params_bar, state_bar, inputs_bar


_scan.defvjp(_forward, _backward)


def _keeping(step, params, state, x):
    """The step, whose output is joined by the state before it."""
    after, output = step(params, state, x)
    return after, (output, state)


def _again(step, params, state, inputs, outputs):
    """The states before each step, from the first of them and the outputs."""

    def advance(state, at_step):
        after, _ = step(params, state, *at_step)
        return after, state

    return jax.lax.scan(advance, state, (inputs, outputs))[1]


def _length(tree) -> int:
    return len(jax.tree.leaves(tree)[0])


def _split(tree, state):
    """Time cut into blocks `[blocks, size, ...]`, and what remains after them.

    Their size is half to once the root of the number of steps, or down to a quarter of that where states are large. The
    remainder costs a second compilation, so the size divides the number of steps where it can; of several, the largest.
    """
    steps = _length(tree)
    root = math.isqrt(steps)
    fitting = _CACHED // sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    root = min(root, max(fitting, root // 4, 1))
    size = min(range(root, (root - 1) // 2, -1), key=lambda size: steps % size)
    count = steps // size
    whole = jax.tree.map(lambda x: x[: count * size].reshape(count, size, *x.shape[1:]), tree)
    return whole, jax.tree.map(lambda x: x[count * size :], tree)


def _join(blocks):
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), blocks)
