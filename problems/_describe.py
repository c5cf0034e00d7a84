"""What a problem is, as plain data: to be read in a file, and to tell one computation from another."""

import dataclasses
import hashlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._keys import key_name

_SHORT = 16  # numbers that are written out


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
    if callable(value):
        code = getattr(getattr(value, "__code__", None), "co_code", b"")
        name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))}"
        return f"{name} {hashlib.sha256(code).hexdigest()[:16]}" if code else name
    return repr(value)


def _array(value: np.ndarray) -> Any:
    if value.size <= _SHORT:
        return describe(value.tolist())
    about: dict[str, Any] = {"shape": list(value.shape), "dtype": value.dtype.name}
    if np.all(value == value.flat[0]):
        return about | {"all": describe(value.flat[0].item())}
    return about | {"sha256": hashlib.sha256(value.tobytes()).hexdigest()}
