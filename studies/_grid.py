"""The points of a sweep: which numbers they change, how they are arranged, and what can be solved in one program."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..problems import AbstractSteps, Slot, parameters, replace, resolve, schedules
from ..problems import _checks as checks

_POINTS = 10_000_000


class Variable(NamedTuple):
    """One name and its values: an array `[values, ...]` of numbers, or a tuple if every value needs its own program."""

    name: str
    slot: Slot
    values: np.ndarray | tuple[Any, ...]

    @property
    def is_static(self) -> bool:
        """Whether every value needs its own program."""
        return isinstance(self.values, tuple)

    @property
    def labels(self) -> np.ndarray:
        """One label a value, `[values]`; rows of numbers go by their place."""
        values = self.values
        if not isinstance(values, tuple):
            return values if values.ndim == 1 else np.arange(len(values))
        if all(isinstance(value, (bool, np.bool_)) for value in values) or all(_is_whole(value) for value in values):
            return np.asarray(values)
        return np.asarray([value if isinstance(value, str) else str(value) for value in values])


class Axis(NamedTuple):
    """One dimension: variables whose values go together."""

    dimension: str
    variables: tuple[Variable, ...]

    @property
    def length(self) -> int:
        """How many values there are."""
        return len(self.variables[0].values)


class Group(NamedTuple):
    """Points `[n]` that one program solves, and what that program starts from."""

    points: np.ndarray
    owners: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Grid:
    """All points, in the order of the axes: the last runs fastest."""

    axes: tuple[Axis, ...]
    owners: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return tuple(axis.length for axis in self.axes)

    @property
    def size(self) -> int:
        """How many points there are."""
        return int(np.prod(self.shape))

    @property
    def variables(self) -> tuple[Variable, ...]:
        """All that is swept."""
        return tuple(variable for axis in self.axes for variable in axis.variables)

    def groups(self) -> Iterator[Group]:
        """The points by their static values, each with protocol, limit and task at these."""
        places = np.indices(self.shape).reshape(len(self.axes), -1)
        fixed = [i for i, axis in enumerate(self.axes) if any(v.is_static for v in axis.variables)]
        for chosen in itertools.product(*(range(self.shape[i]) for i in fixed)):
            among = np.all([places[i] == place for i, place in zip(fixed, chosen, strict=True)], axis=0)
            points = np.flatnonzero(np.broadcast_to(among, (self.size,)))
            owners = dict(self.owners)
            for i, place in zip(fixed, chosen, strict=True):
                for variable in self.axes[i].variables:
                    if variable.is_static:
                        owner = owners[variable.slot.owner]
                        owners[variable.slot.owner] = _rebuilt(owner, variable.slot.field, variable.values[place])
            yield Group(points, owners)

    def stacked(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """The numbers at some points, by name, each `[n, ...]`."""
        places = np.unravel_index(points, self.shape)
        return {
            variable.name: np.asarray(variable.values)[place]
            for axis, place in zip(self.axes, places, strict=True)
            for variable in axis.variables
            if not variable.is_static
        }

    def at(self, owners: dict[str, Any], numbers: Mapping[str, Any]) -> dict[str, Any]:
        """Protocol, limit and task with the numbers of one point."""
        owners, slots = dict(owners), {variable.name: variable.slot for variable in self.variables}
        for name, value in numbers.items():
            owners[slots[name].owner] = _with_number(owners[slots[name].owner], slots[name].field, value)
        return owners

    def check(self) -> None:
        """Builds what the least and the largest values describe, so that what is wrong is said before any work."""
        first = next(self.groups())
        for variable in self.variables:
            if variable.is_static:
                continue
            for value in (np.min(variable.values, axis=0), np.max(variable.values, axis=0)):
                try:
                    self.at(first.owners, {variable.name: value})
                except (ValueError, TypeError) as error:
                    raise type(error)(f"sweep over {variable.name}: {error}") from None


def grid_of(swept: Mapping[Any, Any], *, protocol, limit, task) -> Grid:
    """The grid that names and their values describe; the values of a tuple of names go together, one row a point.

    **Raises:** `ValueError` and `TypeError` for names that are unknown or given twice, and for values that are none.
    """
    if not isinstance(swept, Mapping) or not swept:
        raise TypeError(f"sweep takes a dictionary of names and their values; {checks.shown(swept)} was given.")
    owners, axes = {"protocol": protocol, "limit": limit, "task": task}, []
    for key, values in swept.items():
        if not isinstance(key, tuple):
            axes.append(Axis(str(key), (_variable(key, values, owners),)))
            continue
        lists = sum(axis.dimension.startswith("point") for axis in axes)
        axes.append(Axis(f"point_{lists}" if lists else "point", _together(key, values, owners)))
    found = [variable.slot for axis in axes for variable in axis.variables]
    if len(set(found)) < len(found):
        raise ValueError(f"sweep names one thing twice: {', '.join(v.name for axis in axes for v in axis.variables)}.")
    grid = Grid(tuple(axes), owners)
    count = int(np.prod([float(axis.length) for axis in axes]))
    if count > _POINTS:
        raise ValueError(f"sweep has {count} points, more than {_POINTS}; sweep a part of them.")
    return grid


def _variable(name: str, values: Any, owners: dict[str, Any]) -> Variable:
    slot = resolve(name, **owners)
    owner = owners[slot.owner]
    listed = _listed(name, values)
    numbers = None if slot.field in _static(owner) else _numbers(listed)
    if numbers is None:
        return Variable(name, slot, tuple(listed))
    shape = np.shape(getattr(owner, slot.field))
    if numbers.ndim > 1 and numbers.ndim != 1 + len(shape):
        raise ValueError(
            f"{name} must be a list of numbers, or of arrays of shape {shape}; its shape is {numbers.shape}."
        )
    return Variable(name, slot, numbers)


def _together(names: tuple[str, ...], rows: Any, owners: dict[str, Any]) -> tuple[Variable, ...]:
    """Variables of several names, whose values are the columns of `rows`."""
    listed = [_listed(", ".join(map(str, names)), row) for row in _listed(", ".join(map(str, names)), rows)]
    if not names or any(len(row) != len(names) for row in listed):
        raise ValueError(f"rows for {', '.join(map(str, names))} must have {len(names)} values each.")
    return tuple(_variable(name, column, owners) for name, column in zip(names, zip(*listed, strict=True), strict=True))


def _listed(name: str, values: Any) -> list[Any]:
    single = getattr(values, "ndim", 1) == 0
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable) or single:
        raise TypeError(f"{name} must be a list of values to sweep; {checks.shown(values)} was given.")
    if checks.is_traced(values):
        raise TypeError(f"{name} must be a list of known values; a sweep runs outside of transformations.")
    listed = list(np.asarray(values) if isinstance(values, jax.Array) else values)
    if not listed:
        raise ValueError(f"{name} must have at least one value to sweep; its list is empty.")
    return listed


def _numbers(values: list[Any]) -> np.ndarray | None:
    """The values as float64, or `None` where they are not all numbers, or arrays of one shape."""
    try:
        array = np.asarray(values)
    except ValueError:
        return None
    return array.astype(np.float64) if array.dtype.kind in "iuf" else None


def _static(owner: Any) -> set[str]:
    """The arguments that are part of the program."""
    leaves = {field.name for field in dataclasses.fields(owner) if not field.metadata.get("static", False)}
    return set(parameters(owner)) - leaves


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _with_number(owner: Any, field: str, value: Any) -> Any:
    """A number, or an array, in the place of another; a number given for an array stands for all its entries."""
    shape = np.shape(getattr(owner, field))
    if shape and np.ndim(value) == 0:
        value = (jnp if isinstance(value, jax.Array) else np).broadcast_to(value, shape)
    return replace(owner, field, value)


def _rebuilt(owner: Any, field: str, value: Any) -> Any:
    """A copy with another static value; arrays whose length goes by it keep their shape in logit-time."""
    if field == "steps" and isinstance(owner, AbstractSteps):
        steps = checks.integer("steps", value)
        old = {name: getattr(owner, name) for name in parameters(owner) if name != "steps"}
        new = {n: schedules.resample(v, steps) if np.shape(v) == (owner.steps,) else v for n, v in old.items()}
        return type(owner)(**new)
    try:
        return replace(owner, field, value)
    except ValueError:
        single = {name: getattr(owner, name) for name in parameters(owner)}
        for name, array in single.items():
            if np.ndim(array) == 1 and np.all(np.asarray(array) == np.asarray(array)[0]):
                single[name] = np.asarray(array)[0]
        try:
            return type(owner)(**single | {field: value})
        except (ValueError, TypeError):
            pass
        raise
