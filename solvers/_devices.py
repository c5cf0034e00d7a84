"""Many devices: one mesh helper, and the layout of what is spread over it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec

#: Points of a sweep; Monte-Carlo particles or replicas; modes; seeds, and width, of finite networks.
AXES = ("sweep", "samples", "modes", "seeds", "width")


@contextmanager
def devices(count: int | None = None, *, axis: str = "sweep") -> Iterator[jax.sharding.Mesh]:
    """Spreads work over several devices:

    ```python
    with lx.devices(axis="samples"):
        theory = limit.solve(task, protocol)
    ```

    Results are those of one device up to rounding: random numbers belong to what they are for, not to a device. Every
    number of devices is compiled for anew. Work without the chosen axis runs as if there were no mesh.

    **Arguments:**

    - `count`: exactly this many devices; by default all that are present. Several processes take all of theirs.
    - `axis`: what is spread, one of `"sweep"` (points of a sweep), `"samples"` (Monte-Carlo particles, or replicas
        where the count divides them), `"modes"` (of second-moment recursions), `"seeds"` and `"width"` (of finite
        networks).

    **Raises:** `ValueError` for an unknown axis, for more devices than are present, and inside of another `devices`.
    """
    _check_axis(axis)
    present = jax.devices()
    if count is None:
        count = len(present)
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)):
        raise TypeError(f"count must be an integer or None; {count!r} was given.")
    if not 1 <= count <= len(present):
        kind = present[0].platform
        more = ' (jax.config.update("jax_num_cpu_devices", n), before the first use, gives n)' if kind == "cpu" else ""
        raise ValueError(
            f"count must be between 1 and the number of devices present, {len(present)} of kind {kind}{more}; "
            f"it is {count}."
        )
    if jax.process_count() > 1 and count < len(present):
        raise ValueError(
            f"count must be None or {len(present)}: all devices of the {jax.process_count()} processes take part; "
            f"it is {count}."
        )
    if jax.sharding.get_abstract_mesh().axis_names:
        raise ValueError(f'devices(axis="{axis}") is inside of another mesh; leave that first.')
    # Auto: the compiler lays out what is in between. Equinox and its relatives know no explicit axes.
    mesh = jax.make_mesh((int(count),), (axis,), axis_types=(AxisType.Auto,), devices=present[:count])
    with jax.set_mesh(mesh):
        yield mesh


def device_count(axis: str) -> int:
    """How many devices `axis` is spread over here: 1 without `devices(axis=axis)`, and on one device's share of it."""
    _check_axis(axis)
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[axis] if axis in mesh.axis_names and axis not in mesh.manual_axes else 1


def shard(tree: Any, axis: str, dimension: int = 0) -> Any:
    """Lays out `dimension` of every array of `tree` over `axis`: a constraint inside of compiled code, a copy outside.

    Without a mesh that has the axis this does nothing. An array that lacks the dimension stays as it is; so does,
    outside of compiled code, one whose length in it the number of devices does not divide.
    """
    count = device_count(axis)
    if count == 1:
        return tree

    def lay_out(array):
        if not -np.ndim(array) <= dimension < np.ndim(array):
            return array
        spec = PartitionSpec(*[None] * (dimension % np.ndim(array)), axis)
        if isinstance(array, Tracer):
            return jax.lax.with_sharding_constraint(array, spec)
        if np.shape(array)[dimension] % count:
            return array
        with jax.enable_x64(True):  # no number is rounded on the way
            return jax.device_put(array, NamedSharding(jax.sharding.get_mesh(), spec))

    return jax.tree.map(lay_out, tree)


def gather(tree: Any) -> Any:
    """Whole arrays on every process, of arrays that are spread over several of them; all others are left alone."""

    def whole(leaf):
        if not isinstance(leaf, jax.Array) or isinstance(leaf, Tracer):
            return leaf
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return leaf
        mesh = leaf.sharding.mesh  # pyright: ignore[reportAttributeAccessIssue]
        return jax.jit(lambda a: a, out_shardings=NamedSharding(mesh, PartitionSpec()))(leaf)

    return jax.tree.map(whole, tree)


def spread_map(function: Callable, xs: Any, axis: str, *, shared: tuple = (), batch_size: int | None = None) -> Any:
    """`jax.lax.map` of `function(x, *shared)` along the leading axis of `xs`, of which every device of `axis` takes its
    share; differentiable in `xs` and in `shared`, not in what `function` closes over.

    The devices do not speak to each other, and what runs on each is the program of one: no compiler has to find out
    how to partition it. Where their number does not divide the length, the last entry is computed several times.
    """
    count, length = device_count(axis), len(jax.tree.leaves(xs)[0])
    most = -(-length // count)

    def share(xs, shared):
        return jax.lax.map(lambda x: function(x, *shared), xs, batch_size=batch_size and min(batch_size, most))

    if count == 1:
        return share(xs, shared)

    if missing := most * count - length:
        xs = jax.tree.map(lambda x: jnp.concatenate([x, jnp.repeat(x[-1:], missing, axis=0)]), xs)
    # Nothing in there is summed over devices, which is what the check of varying values is for.
    mine, all_of_it = PartitionSpec(axis), PartitionSpec()
    ys = jax.shard_map(share, in_specs=(mine, all_of_it), out_specs=mine, check_vma=False)(xs, shared)
    return jax.tree.map(lambda y: y[:length], ys)


def _check_axis(axis: str) -> None:
    if axis not in AXES:
        raise ValueError(f"axis {axis!r} is unknown; one of: {', '.join(AXES)}.")
