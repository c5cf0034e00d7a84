"""Controls: the numbers of a problem that are set free, on scales on which they have no walls."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import continuous, replace, resolve, schedules
from ..solvers import as_float

_SMALLEST_MOMENTUM = 0.1  # where the search starts if there is none: at 0 its scale ends, and all is flat near it
_SMALLEST_SHARE = 1e-3  # of its largest value, where the search starts for a rate of 0
_FAR = 23.0  # from every start: a factor of 1e10; where all is flat a search would leave what floating point can hold
_NEAR = 1e-9  # how close to a bound, on the scale of the search, counts as at it
_REAL = ("capacity", "decay")  # exponents; whatever else is not named here is positive
_FRACTION = ("momentum",)
_AT_LEAST_ONE = ("batch_size", "samples")


class Control(eqx.Module):
    r"""One field of the protocol, the limit or the task, and the scale $u$ on which it is searched.

    $u = v$ for exponents, $u = \log\frac{v}{1-v}$ for momentum and $u = \log v$ for everything else; `low` and `high`
    bound $u$. With `knots`, the search has (at most) so many values of a schedule, and $u$ is linear in logit-time
    between them.
    """

    name: str = eqx.field(static=True)
    owner: str = eqx.field(static=True)
    field: str = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    low: Any
    high: Any
    knots: int | None = eqx.field(static=True, default=None)

    @property
    def size(self) -> int:
        """How many numbers the search has for the field."""
        return int(np.prod(self.shape)) if self.knots is None else len(self._places(self.knots))

    def _places(self, knots: int) -> np.ndarray:
        """The steps nearest to even places in logit-time, so that a schedule holds the values of its knots."""
        times, places = schedules.knot_times(self.shape[0], knots)
        return np.unique(np.abs(times - places[:, None]).argmin(axis=1))

    def value(self, u):
        """The value of the field at a point `[size]` of the search."""
        if self.knots is not None:
            times, _ = schedules.knot_times(self.shape[0], self.knots)
            u = jnp.interp(times, times[self._places(self.knots)], u)
        return _from_scale(self.field, u).reshape(self.shape)

    def position(self, value):
        """The point `[size]` of the search for a value of the field; infinite at the ends of its scale."""
        u = _to_scale(self.field, value).ravel()
        return u if self.knots is None else u[self._places(self.knots)]

    def at_resolution(self, knots: int | None) -> "Control":
        """The same control with so many knots, if it is a schedule with more steps than that."""
        fits = knots is not None and len(self.shape) == 1 and 1 < knots < self.shape[0]
        return dataclasses.replace(self, knots=knots if fits else None)

    @property
    def upper(self) -> float:
        """The upper bound of the value; infinite where there is none."""
        with np.errstate(over="ignore"):
            if self.field in _FRACTION:
                return float(1 / (1 + np.exp(-self.high)))
            return float(self.high if self.field in _REAL else np.exp(self.high))

    def at_bound(self, value) -> np.ndarray:
        """Where a value touches one of its bounds, in the shape of the field."""
        with np.errstate(divide="ignore"):
            u = _to_scale(self.field, np.asarray(value, np.float64), np)
        return touching(u, self.low, self.high)


def controls(over: str | Sequence[str], owners: dict[str, Any], bounds: dict[str, Any] | None) -> tuple[Control, ...]:
    """The controls named by `over`, looked up in protocol, limit and task.

    **Raises:** `ValueError` for a name that is unknown, given twice, or not a continuous number, and for bounds that
    leave no room.
    """
    names = (over,) if isinstance(over, str) else tuple(over)
    if not names:
        raise ValueError("over names nothing to optimise; give a name such as 'learning_rate'.")
    slots = {name: resolve(name, **owners) for name in names}
    if len(set(slots.values())) < len(names):
        raise ValueError(f"over names one thing twice: {', '.join(names)}.")
    bounds = dict(bounds or {})
    found = []
    for name, slot in slots.items():
        owner = owners[slot.owner]
        if slot.field not in continuous(owner):
            free = ", ".join(continuous(owner))
            raise ValueError(
                f"{name} of this {slot.owner} is not a continuous number and cannot be optimised; these can: {free}."
            )
        low, high = _bounds(name, slot.field, bounds.pop(name, None))
        shape = tuple(np.shape(getattr(owner, slot.field)))
        found.append(Control(name, slot.owner, slot.field, shape, low, high))
    if bounds:
        raise ValueError(f"bounds are given for {', '.join(bounds)}, which over does not name.")
    return tuple(found)


def start(found: tuple[Control, ...], owners: dict[str, Any]):
    """Where the search begins, as one vector: the values that the problem came with, off the ends of their scales."""
    parts = []
    for control in found:
        value = as_float(getattr(owners[control.owner], control.field))
        if control.field in _FRACTION:
            value = jnp.maximum(value, _SMALLEST_MOMENTUM)
        elif control.field not in _REAL:
            # rates that end at zero begin a little above it, or they could never move
            largest = float(jnp.max(value))
            if largest <= 0:
                raise ValueError(
                    f"{control.name} is 0 everywhere and is searched on a log scale; give a positive start."
                )
            value = jnp.maximum(value, _SMALLEST_SHARE * largest)
        parts.append(control.position(value))
    return jnp.concatenate(parts)


def position(found: tuple[Control, ...], owners: dict[str, Any]):
    """The point of the search that a problem is at, exactly; infinite at the ends of a scale."""
    return jnp.concatenate([c.position(as_float(getattr(owners[c.owner], c.field))) for c in found])


def box(found: tuple[Control, ...]):
    """The lowest and the highest point of the search."""
    sizes = [control.size for control in found]
    return np.repeat([c.low for c in found], sizes), np.repeat([c.high for c in found], sizes)


def within_reach(x, low, high):
    """The part of a box that is not too far from starts `[starts, size]`."""
    x = jnp.clip(x, low, high)
    return jnp.maximum(low, jnp.min(x, axis=0) - _FAR), jnp.minimum(high, jnp.max(x, axis=0) + _FAR)


def touching(x, low, high):
    """Where a point of the search is at a finite bound."""
    return (x <= low + _NEAR) & np.isfinite(low) | (x >= high - _NEAR) & np.isfinite(high)


def values(found: tuple[Control, ...], x) -> list[Any]:
    """The values of the fields at a point of the search."""
    ends = np.cumsum([control.size for control in found])
    return [control.value(part) for control, part in zip(found, jnp.split(x, ends[:-1]), strict=True)]


def with_values(found: tuple[Control, ...], new: list[Any], owners: dict[str, Any]) -> dict[str, Any]:
    """Protocol, limit and task with new values of the controlled fields."""
    owners = dict(owners)
    for control, value in zip(found, new, strict=True):
        owners[control.owner] = replace(owners[control.owner], control.field, value)
    return owners


def _bounds(name: str, field: str, pair):
    low, high = (None, None) if pair is None else pair
    low, high = (-np.inf if low is None else float(low)), (np.inf if high is None else float(high))
    if not low < high:
        raise ValueError(f"bounds of {name} must be (low, high) with low below high; they are ({low:g}, {high:g}).")
    if field not in _REAL:
        least = 1.0 if field in _AT_LEAST_ONE else 0.0
        low, high = max(low, least), min(high, 1.0) if field in _FRACTION else high
        if high <= least:
            raise ValueError(f"bounds of {name} must leave room above {least:g}; the upper one is {high:g}.")
    with np.errstate(divide="ignore"):
        return tuple(np.asarray(_to_scale(field, np.float64(bound), np)) for bound in (low, high))


def _to_scale(field: str, value, xp=jnp):
    if field in _REAL:
        return value
    return xp.log(value) - xp.log1p(-value) if field in _FRACTION else xp.log(value)


def _from_scale(field: str, u):
    if field in _REAL:
        return u
    return jax.nn.sigmoid(u) if field in _FRACTION else jnp.exp(u)
