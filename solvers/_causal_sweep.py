"""A history that is filled row by row, each row from those above it: theories that are causal matrix equations."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ._causal_scan import causal_scan
from ._past import Past, Tape, contract, factors, traced
from ._precision import context, precision_of

_BLOCK = range(12, 25)  # steps whose outer products are summed at once: enough for matrix products to be fast


def causal_sweep(row: Callable, like: Any, params: Any, xs: Any, *, adjoint: str = "tape") -> Any:
    r"""Fills a history row by row, each row from those above it.

    ```
    rows = row(params, history, time, x)         # every leaf of `history` is a `Past` of `steps` rows
    ```

    The history is what comes back. Its gradient walks the finished history backward and empties it on the way, so that
    a step sees nothing of what came after it: memory of two to three histories, about four times the time of the
    forward pass.

    **Arguments:**

    - `row`: as above, differentiated with respect to `params`, `history` and `x`; `time` is an integer.
    - `like`: pytree of `jax.ShapeDtypeStruct`, one row of each leaf.
    - `params`: pytree of arrays, the same at all times.
    - `xs`: pytree with leading time axis, the inputs of each step.
    - `adjoint`: `"tape"` is the above (no forward mode); `"direct"` and `"blocked"` as in `causal_scan`.

    **Returns:** the finished history.
    """
    if adjoint != "tape":
        return _sweep(row, like, params, xs, adjoint)
    precision = precision_of(params)

    @jax.custom_vjp
    def run(params, xs):
        return _sweep(row, like, params, xs, "direct")

    def forward(params, xs):
        with context(precision):
            history = _sweep(row, like, params, xs, "direct")
        return history, (params, xs, history)

    def backward(saved, history_bar):
        params, xs, history = saved
        with context(precision):
            return _pull_back(row, like, params, xs, history, history_bar)

    run.defvjp(forward, backward)
    return run(params, xs)


def _sweep(row, like, params, xs, adjoint: str):
    steps = jax.tree.leaves(xs)[0].shape[0]
    at = lambda time: jax.lax.stop_gradient(time).astype(int)  # noqa: E731

    def initial():
        return jax.tree.map(lambda r: jnp.zeros((steps, *r.shape), r.dtype), like), jnp.zeros(())

    def step(params, _, history, time, x):
        return row(params, history, at(time), x), time + 1, ()

    def write(history, rows, time):
        return jax.tree.map(lambda old, new: _put(old, new, at(time)), history, rows)

    _, history, _ = causal_scan(step, initial, write, None, params, (), xs, adjoint=adjoint)
    return history


def _pull_back(row, like, params, xs, history, history_bar):
    """Cotangents of `params` and `xs`, from the last step to the first, block by block."""
    shapes, structure = jax.tree.flatten(like)
    history, bars = jax.tree.leaves(history), jax.tree.leaves(history_bar)
    steps, sizes = len(history[0]), [shape.size for shape in shapes]
    size = min(steps, min(_BLOCK, key=lambda size: -steps % size))
    blocks = -(-steps // size)

    def taped(params, history, time, x, tape):
        past = [Past(rows, index, tape) for index, rows in enumerate(history)]
        return jax.tree.leaves(row(params, jax.tree.unflatten(structure, past), time, x))

    # What a step multiplies by what is the same at all times.
    used, taps = traced(taped, params, history, jnp.int32(0), jax.tree.map(lambda x: x[0], xs))
    pair = factors(used.uses, used.others, taps, sizes)
    none_yet = jax.tree.map(lambda one: jnp.zeros((size, *one.shape), one.dtype), pair)

    def step_back(start, carry, place):
        history, bars, params_bar, collected = carry
        # the earliest block may begin before the first step, where nothing counts
        time, counts = jnp.maximum(start + place, 0), start + place >= 0
        history = [_put(rows, jnp.zeros_like(rows[0]), time) for rows in history]
        now = [_at(bar, time) for bar in bars]
        for index, (weights, rows) in collected.items():
            now[index] += contract(_at(weights, time, 2), rows, 2).reshape(now[index].shape)

        def step(params, x, wholes, taps):
            tape = Tape(wholes, taps)
            return taped(params, history, time, x, tape), tape.others

        x = jax.tree.map(lambda x: _at(x, time), xs)
        wholes = {index: history[index] for index in used.wholes}
        _, pull, others = jax.vjp(step, params, x, wholes, taps, has_aux=True)
        params_more, x_bar, wholes_bar, outs_bar = pull([jnp.where(counts, bar, 0) for bar in now])
        bars = [bar + wholes_bar[index] if index in wholes_bar else bar for index, bar in enumerate(bars)]
        pair = factors(used.uses, others, outs_bar, sizes)
        collected = jax.tree.map(lambda all, one: _put(all, one, place), collected, pair)
        return (history, bars, jax.tree.map(jnp.add, params_bar, params_more), collected), x_bar

    def block_back(carry, start):
        places = jnp.arange(size, dtype=jnp.int32)
        carry, xs_bar = jax.lax.scan(partial(step_back, start), (*carry, none_yet), places, reverse=True)
        history, bars, params_bar, collected = carry
        for index, (weights, rows) in collected.items():
            weights, rows = weights.reshape(-1, steps), rows.reshape(-1, sizes[index])
            bars[index] += contract(weights.T, rows, 1).reshape(bars[index].shape)
        return (history, bars, params_bar), xs_bar

    starts = steps - size * jnp.arange(blocks, 0, -1, dtype=jnp.int32)
    carry = history, bars, jax.tree.map(jnp.zeros_like, params)
    (_, _, params_bar), xs_bar = jax.lax.scan(block_back, carry, starts, reverse=True)
    return params_bar, jax.tree.map(lambda bar: bar.reshape(-1, *bar.shape[2:])[-steps:], xs_bar)


def _put(rows, new, time, axis: int = 0):
    return jax.lax.dynamic_update_index_in_dim(rows, new, time, axis)


def _at(rows, time, axis: int = 0):
    return jax.lax.dynamic_index_in_dim(rows, time, axis, keepdims=False)
