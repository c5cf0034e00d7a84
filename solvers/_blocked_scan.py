"""A scan that reverse mode runs in blocks: memory of the root of the number of steps."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


def blocked_scan(step, record, state: Any, drive: Any) -> Any:
    """`record` of the outputs of `step`, at all `steps + 1` times, in blocks that reverse mode computes again.

    **Arguments:**

    - `step`: `step(state, now)` gives the next state and an output of the present one. Where all of `now` is zero it
      must put out the same again: such steps fill the last block, and the first of them stands for the end.
    - `record`: `record(outputs)`, for the outputs of a whole block.
    - `state`: the initial state.
    - `drive`: pytree of arrays `[steps, ...]`.
    """
    steps = jax.tree.leaves(drive)[0].shape[0]
    size = math.isqrt(steps) + 1
    count = steps // size + 1

    def cut(x):
        rest = [(0, count * size - steps)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, rest).reshape(count, size, *x.shape[1:])

    @partial(jax.checkpoint, prevent_cse=False)
    def block(state, drive):
        state, outputs = jax.lax.scan(step, state, drive)
        return state, record(outputs)

    _, records = jax.lax.scan(block, state, jax.tree.map(cut, drive))
    return jax.tree.map(lambda x: x.reshape(count * size, *x.shape[2:])[: steps + 1], records)
