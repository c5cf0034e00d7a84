"""Names: one way to say which number of a protocol, a limit or a task is meant."""

import inspect
from typing import Any, NamedTuple

import jax
import numpy as np


class Slot(NamedTuple):
    """Where a name leads: `owner` is `"protocol"`, `"limit"` or `"task"`, `field` its constructor's argument."""

    owner: str
    field: str


def parameters(obj: Any) -> tuple[str, ...]:
    """The constructor's arguments of `obj` that are also its attributes."""
    signature = inspect.signature(type(obj).__init__)
    return tuple(name for name in signature.parameters if name != "self" and hasattr(obj, name))


def continuous(obj: Any) -> tuple[str, ...]:
    """Those of `parameters` that are arrays of numbers, which may be differentiated and swept."""
    return tuple(name for name in parameters(obj) if isinstance(getattr(obj, name), (jax.Array, np.ndarray)))


def resolve(name: str, *, protocol: Any = None, limit: Any = None, task: Any = None) -> Slot:
    """Looks `name` up in protocol, limit and task; a name that several have goes with its owner, `limit.richness`.

    **Raises:** `TypeError` when `name` is no text; `ValueError` when nothing, or more than one thing, has the name.
    """
    if not isinstance(name, str):
        raise TypeError(f"a name must be text such as 'learning_rate'; {type(name).__name__} {name!r} was given.")
    owners = {
        key: value for key, value in (("protocol", protocol), ("limit", limit), ("task", task)) if value is not None
    }
    owner, _, field = name.rpartition(".")
    if owner and owner not in owners:
        raise ValueError(f'name "{name}" is unknown: before the dot stands one of: {", ".join(owners)}.')
    found = [key for key, value in owners.items() if owner in ("", key) and field in parameters(value)]
    if len(found) == 1:
        return Slot(found[0], field)
    if found:
        choices = " or ".join(f'"{key}.{field}"' for key in found)
        raise ValueError(f'name "{name}" is not unique; write {choices}.')
    known = "; ".join(f"{key}: {', '.join(parameters(value))}" for key, value in owners.items() if parameters(value))
    raise ValueError(f'name "{name}" is unknown; there are {known}.')


def replace(obj: Any, field: str, value: Any) -> Any:
    """A copy of `obj` with one constructor argument changed; the constructor checks it as it checks a new one."""
    names = parameters(obj)
    if field not in names:
        raise ValueError(f'{type(obj).__name__} has no argument "{field}"; there are: {", ".join(names)}.')
    return type(obj)(**{name: getattr(obj, name) for name in names} | {field: value})
