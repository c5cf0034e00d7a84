"""Many problems at once: a grid of them in few compiled programs, on many devices, in pieces that can be resumed."""

import dataclasses
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..limits import AbstractLimit
from ..limits._memory import check_memory, free_memory
from ..problems import STATUS, Trajectory, default_key, describe, key_name, versions, write_netcdf
from ..problems import _checks as checks
from ..solvers import Checkpoints, as_float, counting, device_count, double, gather, one_run_in, shard
from ._grid import Grid, Group, grid_of

_TOGETHER = 64  # points on one device: more are no faster, and are lost together when a run is killed
_IN_CACHE = 20 * 2**20  # bytes of the points together on a processor, which is up to twice as slow with many more
_FEW = 4  # points that are faster together than alone whatever their size
_LOSSES = ("train_loss", "test_loss")
_STATUS = ("status_code", "diverged_step")
_UNKNOWN_NUMBERS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def sweep(
    limit,
    task,
    protocol,
    grid: Mapping[Any, Any],
    *,
    record: Sequence[str] | None = None,
    chunk: int | None = None,
    out: str | os.PathLike | None = None,
    key=None,
    memory_limit: float | None = None,
    **options,
):
    r"""Solves a limit at every point of a grid.

    ```python
    with lx.devices(axis="sweep"):
        curves = lx.sweep(limit, task, protocol, {"richness": [0.5, 1.0, 2.0], "learning_rate": np.geomspace(0.01, 1)})
    ```

    Points that differ in numbers only are solved by one compiled program, many at a time; values that change the
    program itself, such as `depth`, `activation` or `steps`, have one each. All points see the same random numbers.

    **Arguments:**

    - `limit`, `task`, `protocol`: the problem, as for `limit.solve`.
    - `grid`: names of arguments of the three, and their values: a list each, of which all combinations are solved. A
        number given for a schedule stands for all steps; schedules are rows `[values, steps]`. A tuple of names takes
        rows with a value for each, and is one dimension, `point`.
    - `record`: names of what is kept, among the losses, `"predictions"`, `"test_predictions"`, kernels and extras as
        `Trajectory.curves` names them, or `"kernels"` and `"extras"` for all of these; by default the losses.
    - `chunk`: how many points are solved at a time; by default what `limit.cost` says fits into free memory.
    - `out`: a folder. Chunks are saved in `out/checkpoints` before they count as done, so that the same call goes on
        where a killed one stopped; the dataset is written to `out/result.nc`.
    - `key`: common random numbers of all points.
    - `memory_limit`: bytes that may be used; by default what is free.
    - `options`: for `limit.solve`, such as `samples`. Where that chooses sizes by the values it meets (`rank` of
        `MLP`), it cannot in here: points that need more have the status `"overflow"`.

    **Returns:** an `xarray.Dataset` with the dimensions of the grid before those of `Trajectory.to_dataset`, and
    `status` and `diverged_step` of every point: a point that diverged stays in the record. What a point does not have
    (later steps, deeper layers) is not a number.

    **Raises:** `ValueError` and `TypeError` for names and values before any work, and for a folder that holds something
    else; `MemoryError`; `OSError` where `out` cannot be written.
    """
    checks.instance("limit", limit, AbstractLimit, "one of lx.limits")
    key, points = default_key(key), grid_of(grid, protocol=protocol, limit=limit, task=task)
    points.check()
    if chunk is not None:
        chunk = checks.integer("chunk", chunk)
    wanted = _wanted(record)
    solving = inspect.signature(type(limit).solve).parameters
    for name in options:
        if name not in solving or name in ("key", "throw"):
            raise TypeError(f"sweep: {type(limit).__name__}.solve has no option {name} that could be given here.")
    if set(wanted) <= {*_LOSSES, "predictions", "test_predictions"} and "keep" in solving:
        options = {"keep": None} | options
    given = {"memory_limit": memory_limit} if memory_limit is not None and "memory_limit" in solving else {}
    programs = [_program(points, group, key, wanted, options | given) for group in points.groups()]
    for name in set(wanted) - {"kernels", "extras", *_LOSSES}.union(*(program.names for program in programs)):
        known = sorted(set().union(*(program.names for program in programs)))
        raise ValueError(f'record "{name}" is unknown; there are: {", ".join(known)}, kernels, extras.')
    _check_result(programs, memory_limit)
    length = chunk or _chunk(points, programs, options, memory_limit)
    configuration = _configuration(points, wanted, options, key)
    folder = None if out is None else Path(out) / "checkpoints"
    with nullcontext() if folder is None else one_run_in(folder):
        saved = None
        if folder is not None:
            saved = Checkpoints(folder, configuration | {"chunk": chunk, "versions": versions()}, {"chunk": length})
            length = saved.choices["chunk"]
        pieces = [
            (program, part)
            for program in programs
            for part in np.split(program.points, range(length, len(program.points), length))
        ]
        dataset = _dataset(points, programs, _solve(pieces, length, key, saved, points))
        dataset.attrs |= {
            "key": key_name(key),
            "configuration": json.dumps(configuration),
            "versions": json.dumps(versions()),
        }
        if out is not None and jax.process_index() == 0:
            write_netcdf(dataset, Path(out) / "result.nc")
    return dataset


@dataclasses.dataclass(frozen=True)
class _Program:
    """What solves the points of one group: `solve` takes numbers, places and a key; `like` is what a point gives."""

    group: Group
    solve: Callable
    like: dict[str, jax.ShapeDtypeStruct]
    template: Any
    names: frozenset[str]
    exact: bool

    @property
    def points(self) -> np.ndarray:
        return self.group.points

    def context(self):
        """Theories without noise take their numbers in double precision; those with it follow JAX's flag."""
        return double() if self.exact else nullcontext()


def _program(grid: Grid, group: Group, key, wanted: tuple[str, ...], options: dict[str, Any]) -> _Program:
    def trajectory(numbers, key):
        owners = grid.at(group.owners, numbers)
        found = owners["limit"].solve(owners["task"], owners["protocol"], key=key, throw=False, **options)
        return dataclasses.replace(found, **{name: jnp.asarray(getattr(found, name), jnp.int32) for name in _STATUS})

    first = {name: value[0] for name, value in grid.stacked(group.points[:1]).items()}

    def shapes():
        return eqx.filter_eval_shape(trajectory, as_float(first), key)

    try:
        found = shapes()
    except _UNKNOWN_NUMBERS:
        names, kind = ", ".join(first), type(group.owners["limit"]).__name__
        raise ValueError(f"{names} cannot be swept: {kind}.solve needs to know their values beforehand.") from None
    exact = found._loss().dtype == np.float64
    if exact:
        with double():
            found = shapes()
    keep = partial(_kept, wanted=wanted)
    # views of one number: kernels that nobody asked for take no memory
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), found)
    return _Program(
        group=group,
        # the places are for groups without numbers, of one point each
        solve=jax.jit(jax.vmap(lambda numbers, place, key: keep(trajectory(numbers, key)), in_axes=(0, 0, None))),
        like=keep(found),
        template=empty.to_dataset(),
        names=frozenset(found.curves()),
        exact=exact,
    )


def _wanted(record: Sequence[str] | None) -> tuple[str, ...]:
    if record is None:
        return _LOSSES
    names = (record,) if isinstance(record, str) else tuple(record)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"record must be names such as 'predictions'; {checks.shown(name)} was given.")
    return tuple(dict.fromkeys((*_LOSSES, *names)))


def _kept(trajectory: Trajectory, wanted: tuple[str, ...]) -> dict[str, Any]:
    """What is recorded of a solution, by name."""
    names = set(wanted)
    if "kernels" in names:
        names |= {f"{kind}_{layer}" for kind, layer in trajectory.kernels}
    if "extras" in names:
        names |= set(trajectory.extras)
    kept = {name: value for name, value in trajectory.curves().items() if name in names}
    errors = {f"{name}_sampling_error": value for name, value in trajectory.errors().items() if name in names}
    return kept | errors | {name: getattr(trajectory, name) for name in _STATUS}


def _chunk(grid: Grid, programs: list[_Program], options: dict[str, Any], memory_limit) -> int:
    """How many points are solved together: as fit on every device, spread evenly over as few chunks as possible."""
    devices, most = device_count("sweep"), _TOGETHER
    free = free_memory() if memory_limit is None else memory_limit
    for program in programs:
        owners = grid.at(program.group.owners, {n: v[0] for n, v in grid.stacked(program.points[:1]).items()})
        if type(owners["limit"]).cost is AbstractLimit.cost:
            continue
        cost = owners["limit"].cost(owners["task"], owners["protocol"], **options)
        cost.check(f"{type(owners['limit']).__name__}.solve", memory_limit)
        each = max(cost.bytes, 1)
        if jax.default_backend() == "cpu":
            most = min(most, max(_FEW, int(_IN_CACHE / each)))
        most = min(most, max(1, int(free / each)))
    largest = max(len(program.points) for program in programs)
    chunks = -(-largest // (most * devices))
    return -(-largest // (chunks * devices)) * devices


def _check_result(programs: list[_Program], memory_limit) -> None:
    size = sum(
        len(program.points) * sum(float(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in program.like.values())
        for program in programs
    )
    count = sum(len(program.points) for program in programs)
    remedies = {"the result": "record less, or sweep fewer points"}
    check_memory({"the result": 2 * size}, remedies, "sweep", f"{count} points", memory_limit)


def _solve(pieces, chunk: int, key, saved: Checkpoints | None, grid: Grid):
    """The results of all pieces: what is saved is read, what is not is computed, and saved before it counts."""
    missing, number = set(range(len(pieces))), 0
    if saved:
        for step in saved.steps():
            for i, result in _apart(saved.restore(step), saved.about(step), pieces):
                missing.remove(i)
                yield *pieces[i], result
            number = step + 1
    pending = {}
    with counting(grid.size, grid.size - sum(len(pieces[i][1]) for i in missing), "sweep") as advance:
        for i in sorted(missing):
            program, points = pieces[i]
            pending[i] = _compute(program, points, chunk, key, grid)
            yield program, points, pending[i]
            if saved and not (saved.is_due() or i == max(missing)):
                continue
            if saved:
                saved.save(number, *_together(pending, pieces))
            advance(sum(len(pieces[one][1]) for one in pending))
            number, pending = number + 1, {}


def _together(results: dict[int, dict[str, np.ndarray]], pieces) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """The results of some pieces in few arrays, as saving goes by their number; and which pieces are in which."""
    numbers: dict[str, list[int]] = {}
    first = {}
    for i in results:
        numbers.setdefault(first.setdefault(id(pieces[i][0]), str(i)), []).append(i)
    joined = {
        name: {array: np.concatenate([results[i][array] for i in inside]) for array in results[inside[0]]}
        for name, inside in numbers.items()
    }
    return joined, numbers


def _apart(joined: dict[str, Any], numbers: dict[str, list[int]], pieces):
    """The pieces that `_together` has put together."""
    for name, inside in numbers.items():
        ends = np.cumsum([len(pieces[i][1]) for i in inside])
        for i, end in zip(inside, ends, strict=True):
            yield i, {array: value[end - len(pieces[i][1]) : end] for array, value in joined[name].items()}


def _compute(program: _Program, points: np.ndarray, chunk: int, key, grid: Grid) -> dict[str, np.ndarray]:
    """One chunk, filled up to the length of all others by its last point."""
    devices = device_count("sweep")
    length = -(-min(chunk, len(program.points)) // devices) * devices
    full = np.pad(points, (0, length - len(points)), mode="edge")
    with program.context():
        result = gather(program.solve(*shard((as_float(grid.stacked(full)), full), "sweep"), key))
    return {name: np.asarray(value)[: len(points)] for name, value in result.items()}


def _dataset(grid: Grid, programs: list[_Program], results):
    """All points as one labelled dataset."""
    import xarray

    whole, dimensions = {}, {}
    for program in programs:
        for name, leaf in program.like.items():
            dimensions.setdefault(name, program.template[name].dims)
            shape, dtype = whole.get(name, (leaf.shape, leaf.dtype))
            if len(shape) != len(leaf.shape):
                raise ValueError(f"{name} has {len(shape)} axes at some points and {len(leaf.shape)} at others.")
            whole[name] = tuple(map(max, shape, leaf.shape)), dtype
    arrays = {
        name: np.full((grid.size, *shape), np.nan if np.issubdtype(dtype, np.inexact) else -1, dtype)
        for name, (shape, dtype) in whole.items()
    }
    for _, points, result in results:
        for name, value in result.items():
            arrays[name][(points, *(slice(length) for length in value.shape[1:]))] = value
    swept = tuple(axis.dimension for axis in grid.axes)
    variables: dict[str, Any] = {
        name: ((*swept, *dimensions[name]), array.reshape(*grid.shape, *array.shape[1:]))
        for name, array in arrays.items()
    }
    variables["status"] = (swept, np.asarray(STATUS)[variables["status_code"][1]])
    coordinates: dict[str, Any] = {}
    for axis in grid.axes:
        for variable in axis.variables:
            coordinates[variable.name] = ((axis.dimension,), variable.labels)
            rows = variable.values
            if not isinstance(rows, tuple) and rows.ndim > 1:
                schedule = rows.ndim == 2 and variable.slot.owner == "protocol"
                inner = ("step",) if schedule else tuple(f"{variable.name}_axis_{i}" for i in range(rows.ndim - 1))
                variables[f"{variable.name}_values"] = ((axis.dimension, *inner), rows)
    times = max((program.template.sizes["time"] for program in programs), default=0)
    conventions = {program.template.attrs["loss_convention"] for program in programs}
    return xarray.Dataset(
        variables,
        coords=coordinates | {"time": np.arange(times)},
        attrs={"loss_convention": ", ".join(sorted(conventions)), "model": "limit"},
    )


def _configuration(grid: Grid, wanted: tuple[str, ...], options: dict[str, Any], key) -> dict[str, Any]:
    """What is computed, as plain data."""
    swept = {axis.dimension: {v.name: describe(v.values) for v in axis.variables} for axis in grid.axes}
    about = {name: describe(grid.owners[name]) for name in ("limit", "task", "protocol")}
    return about | {
        "grid": swept,
        "record": list(wanted),
        "options": describe(options),
        "key": key_name(key),
        "precision": jnp.result_type(float).name,
    }
