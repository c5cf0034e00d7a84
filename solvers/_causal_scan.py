"""A causal scan over a history whose rows are written once, with the finished history as the tape of its gradient."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ._past import Past, Tape, contract, factors, traced
from ._precision import context, precision_of

CAUSAL_ADJOINTS = ("tape", "blocked", "direct")


def causal_scan(
    step: Callable,
    initial: Callable,
    write: Callable,
    read: Callable | None,
    params: Any,
    constants: Any,
    xs: Any,
    *,
    adjoint: str = "tape",
) -> tuple[Any, Any, Any]:
    r"""Marches in time; everything that a step produced can be seen by all later steps.

    ```
    rows, state, out = step(params, constants, history, state, x)     # may read only what earlier steps wrote;
                                                                      # every leaf of its history is a `Past`
    history = write(history, rows, state)                             # state as it was before that step
    ```

    `history` holds what is written once and never changed, `state` what changes at every step. A step has to mask
    all slots of the history that are not older than itself. Then the finished history stands for the history at every
    time, and the reverse pass needs nothing else:

    $$\bar\theta \mathrel{+}= \partial_\theta\, {\rm step}_t^T\; {\rm read}(\bar H), \qquad
      \bar H \mathrel{+}= \partial_H\, {\rm step}_t^T\; {\rm read}(\bar H), \qquad t = T, \dots, 0$$

    One sweep backward, the memory of two histories and of the states, where differentiating the loop itself
    would store a history for every step.

    **Arguments:**

    - `step`: as above. Differentiated with respect to `params`, `history`, `state` and `x` (all floating point).
    - `initial`: `() -> (history, state)`, constants.
    - `write`: linear in `rows`.
    - `read`: `(history, before, after) -> rows`, the transpose of `write` for a step that took the state from
        `before` to `after`, for `adjoint="tape"`; parts of rows that a later step overwrites must be left out.
    - `params`: pytree of arrays, the same at all times.
    - `constants`: pytree without derivative (keys).
    - `xs`: pytree with leading time axis.
    - `adjoint`: `"tape"` is the reverse pass above (no forward mode); `"direct"` leaves the loop to JAX, `"blocked"`
        too, with blocks of about $\sqrt T$ steps recomputed.

    **Returns:**

    The stacked `out`, the history and the final state.
    """
    if adjoint not in CAUSAL_ADJOINTS:
        raise ValueError(f"adjoint {adjoint!r} is unknown; one of: {', '.join(CAUSAL_ADJOINTS)}.")

    def plain(params, constants, history, state, x):
        return step(params, constants, jax.tree.map(Past, history), state, x)

    def march(params, constants, xs, kept):
        history, state = initial()
        rows, _, _ = jax.eval_shape(plain, params, constants, history, state, jax.tree.map(lambda x: x[0], xs))
        rows = jax.tree.map(lambda r: jnp.zeros(r.shape, r.dtype), rows)

        def body(carry, x):
            history, pending, before, state = carry
            # Rows are written at the start of the next step: written at the end, XLA would copy whole buffers.
            history = write(history, pending, before)
            rows, after, out = plain(params, constants, history, state, x)
            return (history, rows, state, after), (out, state if kept else None)

        scan = _blocked_scan if adjoint == "blocked" else jax.lax.scan
        (history, rows, before, state), (outs, states) = scan(body, (history, rows, state, state), xs)
        return (outs, write(history, rows, before), state), states

    if adjoint != "tape" or read is None:
        return march(params, constants, xs, False)[0]

    @jax.custom_vjp
    def run(params, constants, xs):
        return march(params, constants, xs, False)[0]

    precision = precision_of(params)

    def forward(params, constants, xs):
        with context(precision):
            result, states = march(params, constants, xs, True)
        return result, (params, constants, xs, result[1], states)

    def backward(saved, bars):
        params, constants, xs, history, states = saved
        outs_bar, history_bar, state_bar = bars

        leaves, structure = jax.tree.flatten(history)
        sizes = [math.prod(leaf.shape[1:]) for leaf in leaves]

        def taped(params, state, x, tape):
            past = [Past(rows, index, tape) for index, rows in enumerate(leaves)]
            return step(params, constants, jax.tree.unflatten(structure, past), state, x)

        def body(carry, now):
            bars, state_bar, params_bar = carry
            x, state, out_bar = now

            def again(params, state, x, wholes, taps):
                tape = Tape(wholes, taps)
                rows, after, out = taped(params, state, x, tape)
                return (rows, after, out), (after, tape.others)

            _, pull, (after, others) = jax.vjp(again, params, state, x, wholes, taps, has_aux=True)
            rows_bar = read(jax.tree.unflatten(structure, bars), state, after)
            params_more, state_bar, x_bar, wholes_bar, taps_bar = pull((rows_bar, state_bar, out_bar))
            bars = [bar + wholes_bar[index] if index in wholes_bar else bar for index, bar in enumerate(bars)]
            for index, (weights, rows) in factors(used.uses, others, taps_bar, sizes).items():
                bars[index] += contract(weights.T, rows, 1).reshape(bars[index].shape)
            return (bars, state_bar, jax.tree.map(jnp.add, params_bar, params_more)), x_bar

        with context(precision):
            used, taps = traced(taped, params, *jax.tree.map(lambda rows: rows[0], (states, xs)))
            wholes = {index: leaves[index] for index in used.wholes}
            carry = jax.tree.leaves(history_bar), state_bar, jax.tree.map(jnp.zeros_like, params)
            (*_, params_bar), xs_bar = jax.lax.scan(body, carry, (xs, states, outs_bar), reverse=True)
        return params_bar, None, xs_bar

    run.defvjp(forward, backward)
    return run(params, constants, xs)


def _blocked_scan(body: Callable, carry: Any, xs: Any) -> tuple[Any, Any]:
    r"""`jax.lax.scan` that keeps the carry of about every $\sqrt T$-th step and computes the others again."""
    steps = jax.tree.leaves(xs)[0].shape[0]
    size = math.isqrt(steps)
    whole = steps // size * size
    block = jax.checkpoint(lambda carry, xs: jax.lax.scan(body, carry, xs))
    cut = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), xs)
    carry, outs = jax.lax.scan(block, carry, cut)
    carry, rest = block(carry, jax.tree.map(lambda x: x[whole:], xs))
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a.reshape(whole, *a.shape[2:]), b]), outs, rest)
