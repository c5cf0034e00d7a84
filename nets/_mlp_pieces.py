"""The training loop of perceptrons in pieces that are saved: group of seeds after group, some steps at a time."""

from typing import Any

import equinox as eqx
import jax
import numpy as np

from ..solvers import Checkpoints, counting, device_count, from_leaves, gather, spread_map, to_leaves
from ._mlp_run import Training, seeds_at_once
from ._mlp_weights import spread_width

_PIECES = 100  # of all that is to do; no more than one of them is lost, and what was not worth a save


def run_in_pieces(weights, fixed, keys, saved: Checkpoints, *problem) -> tuple[Any, Any]:
    """`run(weights, fixed, ..., keys, ...)`, saved as it goes; `problem` is what `Training` takes beside the weights.

    What is saved is the number of steps that are done, group after group, with all that the rest depends on: what the
    finished groups have left, and weights, state of the optimiser and rows so far of the one that is trained.
    """
    steps, seeds = problem[3], len(keys)
    size = min(seeds, seeds_at_once(weights) * device_count("seeds"))
    length = -(-steps // -(-_PIECES // -(-seeds // size)))
    done = max(saved.steps(), default=0)
    if done:  # perhaps on other devices
        size, length = saved.about(done)
    groups = -(-seeds // size)

    def members(group):
        """The last group is filled up by its last seed."""
        chosen = np.minimum(size * group + np.arange(size), seeds - 1)
        return jax.tree.map(lambda a: a[chosen], (weights, fixed, keys))

    finished, carry, rows = _restored(saved, done, members(0), problem)
    with counting(groups * steps, done, "training", "steps") as advance:
        reported = done
        while done < groups * steps:
            group, first = divmod(done, steps)
            w, f, k = members(group)
            if first == 0:
                carry, rows = _begin(w, *problem), []
            count = min(length, steps - first)
            carry, new = jax.block_until_ready(_advance(carry, f, k, np.int32(first), count, *problem))
            rows.append(_on_host(new))
            done += count
            if first + count == steps:
                finished.append(_on_host(_finish(carry, _joined(rows, axis=2), f, *problem)))
                carry, rows = None, []
            if saved.is_due():
                state = {"finished": _joined(finished), "carry": carry, "rows": _joined(rows, axis=2)}
                state = {name: to_leaves(tree) for name, tree in state.items() if tree is not None}
                saved.save(done, state, [size, length], alone=True)
                advance(done - reported)
                reported = done
    return jax.tree.map(lambda a: a[:seeds], _joined(finished))


def _restored(saved: Checkpoints, done: int, members, problem) -> tuple[list[Any], Any, list[Any]]:
    """What was saved, in the shape of trees."""
    if not done:
        return [], None, []
    leaves, (weights, fixed, keys) = saved.restore(done), members
    carry = eqx.filter_eval_shape(_begin, weights, *problem)
    _, rows = eqx.filter_eval_shape(_advance, carry, fixed, keys, np.int32(0), 1, *problem)
    finished = eqx.filter_eval_shape(_finish, carry, rows, fixed, *problem)
    like = {"finished": finished, "carry": carry, "rows": rows}
    found = {name: from_leaves(leaves[name], like[name]) for name in leaves}
    return (
        [found["finished"]] if "finished" in found else [],
        found.get("carry"),
        [found["rows"]] if "rows" in found else [],
    )


def _joined(trees: list[Any], axis: int = 0) -> Any:
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis), *trees) if trees else None


def _on_host(tree: Any) -> Any:
    """Where it takes no memory of the device, and needs no program to be put together."""
    return jax.tree.map(np.asarray, gather(tree))


@eqx.filter_jit
def _begin(weights, *problem):
    return jax.vmap(Training(weights, *problem).begin)(spread_width(weights))


@eqx.filter_jit
def _advance(carry, fixed, keys, first, count: int, *problem):
    one = Training(carry[0], *problem)

    def advance(inputs, first):
        carry, fixed, key = inputs
        return one.advance(carry, fixed, key, first, count)

    carry = (spread_width(carry[0]), carry[1])
    together = seeds_at_once(carry[0])
    return spread_map(advance, (carry, fixed, keys), "seeds", shared=(first,), batch_size=together)


@eqx.filter_jit
def _finish(carry, rows, fixed, *problem):
    one = Training(carry[0], *problem)
    together = seeds_at_once(carry[0])
    return spread_map(lambda inputs: one.finish(*inputs), (carry, rows, fixed), "seeds", batch_size=together)
