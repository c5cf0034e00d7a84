"""Checks of arguments: each names the argument, what was given and what is allowed, before any work.

Values are looked at where they are concrete; tracers pass, so that everything here may be differentiated and batched.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def is_traced(value: Any) -> bool:
    """Whether any leaf of `value` is a tracer, so that its numbers are not known yet."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))


def concrete(value: Any) -> np.ndarray | None:
    """The numbers of an array as NumPy, or `None` inside a transformation."""
    return None if is_traced(value) else np.asarray(value)


def leaf(name: str, value: Any, what: str = "a number") -> Any:
    """A float array leaf: numbers and NumPy become float64, JAX arrays and tracers keep their own float type."""
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jnp.floating):
            return value
        if jnp.issubdtype(value.dtype, jnp.integer):
            return value.astype(float)
    elif is_traced(value) and isinstance(value, (list, tuple)):
        return leaf(name, jnp.stack([jnp.asarray(entry, float) for entry in value]), what)
    elif not isinstance(value, (bool, str, bytes)) and value is not None:
        try:
            array = np.asarray(value)
        except (ValueError, TypeError):
            array = np.asarray(None)
        if array.dtype.kind in "iuf":
            return array.astype(np.float64)
    raise TypeError(f"{name} must be {what}; {shown(value)} was given.")


def number(
    name: str, value: Any, *, low: float | None = None, high: float | None = None, above=None, below=None, finite=True
) -> Any:
    """A scalar leaf within `low <= value <= high` and `above < value < below`."""
    array = leaf(name, value)
    if array.ndim != 0:
        raise ValueError(f"{name} must be a single number; an array of shape {array.shape} was given.")
    _check_range(name, array, low, high, above, below, finite, place=None)
    return array


def array(
    name: str,
    value: Any,
    *,
    ndim: int | tuple[int, ...],
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    place: str = "entry",
    finite: bool = True,
) -> Any:
    """A leaf with `ndim` axes, at least one entry, all in range and, unless told otherwise, finite."""
    result = leaf(name, value, "an array of numbers")
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if result.ndim not in allowed:
        axes = " or ".join(str(n) for n in allowed)
        raise ValueError(f"{name} must have {axes} axes; an array of shape {result.shape} was given.")
    if result.size == 0:
        raise ValueError(f"{name} must not be empty; an array of shape {result.shape} was given.")
    _check_range(name, result, low, high, above, below, finite, place=place)
    return result


def integer(name: str, value: Any, *, low: int = 1, high: int | None = None) -> int:
    """A Python integer from `low` to `high`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number; {shown(value)} was given.")
    if value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"{name} must be {allowed}; it is {value}.")
    return int(value)


def sizes(value: Any, *, name: str = "sizes", least: int = 1) -> tuple[int, ...]:
    """Sizes of networks, or lengths, in increasing order: at least `least` different whole numbers."""
    try:
        given = tuple(value)
    except TypeError:
        raise TypeError(f"{name} must be a list of whole numbers; {shown(value)} was given.") from None
    given = tuple(sorted(integer(name, size) for size in given))
    if len(given) < least or len(set(given)) != len(given):
        raise ValueError(f"{name} must be {least} or more different whole numbers; {given} was given.")
    return given


def flag(name: str, value: Any) -> bool:
    """A Python boolean."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False; {shown(value)} was given.")
    return bool(value)


def choice(name: str, value: Any, options: Iterable[Any], extra: str = "") -> Any:
    """One of `options`."""
    known = tuple(options)
    if not any(type(value) is type(option) and value == option for option in known):
        shown = f'"{value}"' if isinstance(value, str) else repr(value)
        listed = ", ".join(str(o) for o in known)
        raise ValueError(f"{name} {shown} is unknown; one of: {listed}{extra}.")
    return value


def instance(name: str, value: Any, kinds: type | tuple[type, ...], allowed: str) -> Any:
    """A value of one of the given classes; `allowed` names them for the reader."""
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {allowed}; {shown(value)} was given.")
    return value


def schedules(
    steps: int | None, values: dict[str, Any], bounds: dict[str, dict[str, float]], optional: tuple[str, ...] = ()
) -> tuple[int, dict[str, Any]]:
    """Makes every entry of `values` an array with one value a step.

    Arrays fix the number of steps, scalars are repeated, `None` passes for the names in `optional`. `bounds[name]`
    holds `low`, `above`, `below`.
    """
    given = {name: value for name, value in values.items() if value is not None or name not in optional}
    leaves = {name: leaf(name, value, "a number or an array with one value a step") for name, value in given.items()}
    lengths = {}
    for name, value in leaves.items():
        if value.ndim > 1:
            raise ValueError(f"{name} must be a number or have one axis, the steps; its shape is {value.shape}.")
        if value.ndim == 1:
            lengths[name] = value.shape[0]
    if steps is not None:
        steps = integer("steps", steps)
    for name, length in lengths.items():
        if length == 0:
            raise ValueError(f"{name} has no entries: at least 1 step is needed.")
        if steps is not None and length != steps:
            other = next((f"{k} has {n}" for k, n in lengths.items() if n != length), f"steps is {steps}")
            raise ValueError(f"{name} must have one value a step; it has {length} and {other}.")
        steps = length
    if steps is None:
        first = next(iter(values))
        raise ValueError(f"steps is needed when no schedule is an array; give steps=... or {first} as an array.")
    result: dict[str, Any] = dict.fromkeys(values)
    for name, value in leaves.items():
        _check_range(name, value, place="step", finite=True, **{**_NO_BOUNDS, **bounds.get(name, {})})
        if value.ndim == 0:
            xp = np if isinstance(value, np.ndarray) else jnp
            value = xp.broadcast_to(value, (steps,))
        result[name] = value
    return steps, result


_NO_BOUNDS = {"low": None, "high": None, "above": None, "below": None}


def _check_range(name, value, low, high, above, below, finite, place):
    known = concrete(value)
    if known is None:
        return
    good = np.isfinite(known) if finite else ~np.isnan(known)
    words = ["finite"] if finite else ["a number"]
    for bound, test, word in (
        (low, np.greater_equal, "at least"),
        (above, np.greater, "above"),
        (high, np.less_equal, "at most"),
        (below, np.less, "below"),
    ):
        if bound is not None:
            with np.errstate(invalid="ignore"):
                good &= test(known, bound)
            words.append(f"{word} {bound:g}")
    if np.all(good):
        return
    allowed = words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
    if known.ndim == 0 or place is None:
        raise ValueError(f"{name} must be {allowed}; it is {known[()]:g}.")
    where = np.argwhere(~good)[0]
    index = int(where[0]) if where.size == 1 else tuple(int(i) for i in where)
    raise ValueError(f"{name} must be {allowed} at every {place}; {place} {index} is {known[tuple(where)]:g}.")


def shown(value: Any) -> str:
    """A value of the wrong kind as an error message shows it: its type and the beginning of its text."""
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"
