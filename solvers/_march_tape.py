"""A causal scan over a history whose rows are written once, with the finished history as the tape of its gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ._precision import context


def causal_scan(
    step: Callable,
    initial: Callable,
    write: Callable,
    read: Callable,
    params: Any,
    constants: Any,
    xs: Any,
    *,
    adjoint: str = "tape",
) -> tuple[Any, Any]:
    r"""Marches in time; everything that a step produced can be seen by all later steps.

    ```
    rows, state, out = step(params, constants, history, state, x)     # may read only what earlier steps wrote
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
        `before` to `after`; parts of rows that a later step overwrites must be left out.
    - `params`: pytree of arrays, the same at all times.
    - `constants`: pytree without derivative (keys).
    - `xs`: pytree with leading time axis.
    - `adjoint`: `"tape"` is the reverse pass above (no forward mode); `"direct"` leaves the loop to JAX.

    **Returns:**

    The stacked `out` and the final state.
    """

    def march(params, constants, xs, taped):
        history, state = initial()
        rows, _, _ = jax.eval_shape(step, params, constants, history, state, jax.tree.map(lambda x: x[0], xs))
        rows = jax.tree.map(lambda r: jnp.zeros(r.shape, r.dtype), rows)

        def body(carry, x):
            history, pending, before, state = carry
            # Rows are written at the start of the next step: written at the end, XLA would copy whole buffers.
            history = write(history, pending, before)
            rows, after, out = step(params, constants, history, state, x)
            return (history, rows, state, after), (out, state if taped else None)

        (history, _, _, state), (outs, states) = jax.lax.scan(body, (history, rows, state, state), xs)
        return (outs, state), (history, states)

    if adjoint == "direct":
        return march(params, constants, xs, False)[0]

    @jax.custom_vjp
    def run(params, constants, xs):
        return march(params, constants, xs, False)[0]

    # Both are traced late, when the caller's precision context has been left.
    double = any(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(params))
    precision = "double" if double else "single"

    def forward(params, constants, xs):
        with context(precision):
            result, tape = march(params, constants, xs, True)
        return result, (params, constants, xs, *tape)

    def backward(saved, bars):
        params, constants, xs, history, states = saved
        outs_bar, state_bar = bars

        def body(carry, now):
            history_bar, state_bar, params_bar = carry
            x, state, out_bar = now
            (_, after, _), pull = jax.vjp(
                lambda params, history, state, x: step(params, constants, history, state, x), params, history, state, x
            )
            rows_bar = read(history_bar, state, after)
            params_more, history_more, state_bar, x_bar = pull((rows_bar, state_bar, out_bar))
            add = lambda a, b: jax.tree.map(jnp.add, a, b)  # noqa: E731
            return (add(history_bar, history_more), state_bar, add(params_bar, params_more)), x_bar

        with context(precision):
            zero = lambda tree: jax.tree.map(jnp.zeros_like, tree)  # noqa: E731
            carry = (zero(history), state_bar, zero(params))
            (_, _, params_bar), xs_bar = jax.lax.scan(body, carry, (xs, states, outs_bar), reverse=True)
        return params_bar, None, xs_bar

    run.defvjp(forward, backward)
    return run(params, constants, xs)
