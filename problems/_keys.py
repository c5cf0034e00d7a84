"""Random keys: every stochastic entry takes `key=None`, and `None` is one fixed key."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from . import _checks as checks


def default_key(key=None) -> jax.Array:
    """Returns `key`, or the fixed `jax.random.key(0)` for `None`.

    Old-style `uint32` keys (`jax.random.PRNGKey`) are taken too.

    **Raises:** `TypeError` for anything that is not one random key.
    """
    if key is None:
        return jax.random.key(0)
    if isinstance(key, jax.Array):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            if key.ndim == 0:
                return key
            raise ValueError(f"key must be a single random key; an array of keys of shape {key.shape} was given.")
        if key.dtype == jnp.uint32 and key.shape == (2,):
            return jax.random.wrap_key_data(key)
    raise TypeError(f"key must be a random key such as jax.random.key(0); {checks.shown(key)} was given.")


def key_name(key) -> str:
    """The bits of a key as text, for the record of a result; `"traced"` inside a transformation."""
    if checks.is_traced(key):
        return "traced"
    return "-".join(str(int(word)) for word in jax.random.key_data(key).ravel())


def normal_double(key, shape: tuple[int, ...]) -> Any:
    """Standard normal numbers in float64 whatever the global flag: NumPy for a concrete key, traced for a traced one.

    Made from 32-bit words: JAX cannot lower 64-bit random words inside a `jit` that began in single precision.
    """
    with jax.enable_x64(True):
        words = jax.random.bits(key, (2, *shape), jnp.uint32) >> 6
        if not checks.is_traced(words):
            words = np.asarray(words)
        words = words.astype(np.float64)
        uniform = (words[0] * 2.0**26 + words[1] + 0.5) * 2.0**-52
        inverse = scipy.special.erfinv if isinstance(words, np.ndarray) else jax.scipy.special.erfinv
        return np.sqrt(2.0) * inverse(2.0 * uniform - 1.0)
