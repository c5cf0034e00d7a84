"""Many devices: one mesh helper, and the layout of what is spread over it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ._precision import double

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

    Without a mesh that has the axis this does nothing. An array that lacks the dimension, or whose length in it the
    number of devices does not divide, stays as it is.
    """
    count = device_count(axis)
    if count == 1:
        return tree

    def lay_out(array):
        if not -np.ndim(array) <= dimension < np.ndim(array) or np.shape(array)[dimension] % count:
            return array
        before = [None] * (dimension % np.ndim(array))
        return _lay_out(array, PartitionSpec(*before, axis))

    return jax.tree.map(lay_out, tree)


def _lay_out(array, spec: PartitionSpec):
    if isinstance(array, Tracer):
        return jax.lax.with_sharding_constraint(array, spec)
    with double():  # no number is rounded on the way
        return jax.device_put(array, NamedSharding(jax.sharding.get_mesh(), spec))


def _check_axis(axis: str) -> None:
    if axis not in AXES:
        raise ValueError(f"axis {axis!r} is unknown; one of: {', '.join(AXES)}.")
