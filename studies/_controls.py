"""Controls: the numbers of a problem that are set free, on scales on which they have no walls."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import _checks as checks
from ..problems import continuous, replace, resolve
from ..solvers import as_float

_SMALLEST_MOMENTUM = 0.01  # where the search starts if there is none: at 0 its scale ends
_NEAR = 1e-3  # how close to a bound, on the scale of the search, counts as at it
_REAL = ("capacity", "decay")  # exponents; whatever else is not named here is positive
_FRACTION = ("momentum",)
_AT_LEAST_ONE = ("batch_size", "samples")


class Control(eqx.Module):
    r"""One field of the protocol, the limit or the task, and the scale on which it is searched.

    The scale is $u = v$ for exponents, $u = \log\frac{v}{1-v}$ for momentum and $u = \log v$ for everything else. Bounds cut the line
    of $u$, and a sigmoid or a softplus makes a whole line of what is left.
    """

    name: str = eqx.field(static=True)
    owner: str = eqx.field(static=True)
    field: str = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    bounded: tuple[bool, bool] = eqx.field(static=True)
    low: Any
    high: Any

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def value(self, x):
        """The value of the field at a point of the search."""
        low, high = self.low, self.high
        if all(self.bounded):
            x = low + (high - low) * jax.nn.sigmoid(x)
        elif self.bounded[0]:
            x = low + jax.nn.softplus(x)
        elif self.bounded[1]:
            x = high - jax.nn.softplus(x)
        return _from_scale(self.field, x).reshape(self.shape)

    def variable(self, value, margin: float = 0.0):
        """The point of the search at which the field has this value, kept `margin` away from the bounds."""
        u, (low, high) = _to_scale(self.field, jnp.ravel(value)), (self.low, self.high)
        if all(self.bounded):
            return jax.scipy.special.logit(jnp.clip((u - low) / (high - low), margin, 1 - margin))
        if self.bounded[0]:
            return _inverse_softplus(jnp.maximum(u - low, margin))
        if self.bounded[1]:
            return _inverse_softplus(jnp.maximum(high - u, margin))
        return u

    def at_bound(self, value) -> np.ndarray:
        """Where a value touches one of its bounds, in the shape of the field."""
        with np.errstate(divide="ignore"):
            u = _to_scale(self.field, np.asarray(value, np.float64), np)
        touches = np.zeros(self.shape, bool)
        for is_bounded, bound in zip(self.bounded, (self.low, self.high), strict=True):
            if is_bounded:
                touches |= np.abs(u - bound) <= _NEAR
        return touches


def controls(over: str | Sequence[str], owners: dict[str, Any], bounds: dict[str, Any] | None) -> tuple[Control, ...]:
    """The controls named by `over`, looked up in protocol, limit and task.

    **Raises:** `ValueError` for a name that is unknown, given twice, or not a continuous number, and for bounds that leave no room.
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
        bounded = bool(np.isfinite(low)), bool(np.isfinite(high))
        found.append(Control(name, slot.owner, slot.field, shape, bounded, low, high))
    if bounds:
        raise ValueError(f"bounds are given for {', '.join(bounds)}, which over does not name.")
    return tuple(found)


def start(found: tuple[Control, ...], owners: dict[str, Any]):
    """Where the search begins, as one vector: the values that the problem came with, moved off the ends of their scales."""
    parts = []
    for control in found:
        value = as_float(getattr(owners[control.owner], control.field))
        if control.field in _FRACTION:
            value = jnp.maximum(value, _SMALLEST_MOMENTUM)
        elif control.field not in _REAL:
            # rates that end at zero begin a little above it, or they could never move
            largest = float(jnp.max(value))
            if largest <= 0:
                raise ValueError(f"{control.name} is 0 everywhere and is searched on a log scale; give a positive start.")
            value = jnp.maximum(value, _NEAR * largest)
        parts.append(control.variable(value, margin=_NEAR))
    return jnp.concatenate(parts)


def position(found: tuple[Control, ...], owners: dict[str, Any]):
    """The point of the search that a problem is at, exactly; infinite at the ends of a scale."""
    return jnp.concatenate([c.variable(as_float(getattr(owners[c.owner], c.field))) for c in found])


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


def _inverse_softplus(y):
    return y + jnp.log(-jnp.expm1(-y))
