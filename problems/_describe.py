"""What a problem is, as plain data: to be read in a file, and to tell one computation from another."""

import dataclasses
import hashlib
import importlib.metadata
import math
import types
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._keys import key_name

_SHORT = 16  # numbers that are written out
_within: list[Any] = []  # the functions that are being described


def describe(value: Any) -> Any:
    """Tasks, protocols, limits, options and numbers as JSON data, equal for what is equal; digests of large arrays."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return key_name(value)
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return _array(np.asarray(value))
    if isinstance(value, dict):
        return {str(name): describe(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(entry) for entry in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__} | fields
    if isinstance(value, partial):
        return [describe(value.func), describe(value.args), describe(value.keywords)]
    if callable(value):
        return _function(value)
    return repr(value)


def versions() -> dict[str, str]:
    """Versions of limitax and of what its numbers depend on."""
    names = ("limitax", "jax", "jaxlib", "equinox", "optax", "numpy")
    return {name: importlib.metadata.version(name) for name in names}


def _function(value: Any) -> Any:
    """A function by its name, its code and what it closes over, such as the rates of an optimiser."""
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    code = getattr(value, "__code__", None)
    if code is None:
        return name
    described = f"{name} {hashlib.sha256(repr(_code(code)).encode()).hexdigest()[:16]}"
    if any(value is one for one in _within):  # functions may close over themselves, and over one another
        return described
    inner = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
    inner += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    _within.append(value)
    try:
        return [described, *map(describe, inner)] if inner else described
    finally:
        _within.pop()


def _code(code: types.CodeType) -> list[Any]:
    """What a function does, with its constants, without where it stands."""
    constants = [_code(entry) if isinstance(entry, types.CodeType) else _constant(entry) for entry in code.co_consts]
    return [code.co_code, code.co_names, constants]


def _constant(value: Any) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _array(value: np.ndarray) -> Any:
    if value.size <= _SHORT:
        return describe(value.tolist())
    about: dict[str, Any] = {"shape": list(value.shape), "dtype": value.dtype.name}
    if np.all(value == value.flat[0]):
        return about | {"all": describe(value.flat[0].item())}
    return about | {"sha256": hashlib.sha256(value.tobytes()).hexdigest()}
