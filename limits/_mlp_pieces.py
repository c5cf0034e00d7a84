"""The solution of a march replica by replica, each of them saved."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..solvers import Checkpoints, counting, device_count, from_leaves, to_leaves
from ._mlp_solution import STATIC, Solution, average, march_replicas

_march = jax.jit(march_replicas, static_argnames=STATIC[:1] + STATIC[2:3] + STATIC[4:])
_average = jax.jit(average, static_argnames=("loss", "keep"))


def solve_in_pieces(
    floats, key, tolerance, axis, *, saved: Checkpoints, first: int, grows: bool, loss: Any, replicas: int, **options
) -> Solution | None:
    """`solve_mlp`, whose replicas are saved under the numbers from `first` on.

    `None` as soon as a basis is full, if it `grows`: the rest need not be known then.
    """
    inputs, y_test = floats
    together = device_count("samples")
    together = together if replicas % together == 0 else 1

    def march(start, count):
        numbers = jnp.arange(start, start + count)
        mine = inputs._replace(sample_weights=inputs.sample_weights[start : start + count])
        return _march(mine, key, tolerance, numbers, axis, **options)

    parts, done, like = [], 0, None
    while first + done in saved.steps():
        like = like or jax.eval_shape(lambda: march(0, 1))
        parts.append(from_leaves(saved.restore(first + done)["seen"], like))
        done += len(parts[-1][1])
    pending = []
    with counting(replicas, done, "theory", "replicas") as advance:
        while done < replicas and not (grows and _is_full(parts)):
            count = min(together, replicas - done)
            parts.append(jax.block_until_ready(march(done, count)))
            pending.append(parts[-1])
            done += count
            if saved.is_due():
                seen = _joined(pending)
                saved.save(first + done - len(seen[1]), {"seen": to_leaves(seen)})
                advance(len(seen[1]))
                pending = []
    if grows and _is_full(parts):
        return None
    return _average(inputs, y_test, *_joined(parts), loss=loss, keep=options["keep"])


def _is_full(parts: list[Any]) -> bool:
    return any(bool(np.any(overflow)) for _, overflow, _ in parts)


def _joined(parts: list[Any]) -> Any:
    return jax.tree.map(lambda *values: jnp.concatenate(values), *parts)
