"""Activation functions by name, the same for networks and their limits."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..problems import _checks as checks

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "erf": jax.scipy.special.erf,
    "gelu": lambda h: 0.5 * h * (1.0 + jax.scipy.special.erf(h * 0.5**0.5)),
    "identity": lambda h: h,
    "relu": lambda h: jnp.maximum(h, 0.0),
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
}


def check_activation(activation: str | Callable[[Any], Any]) -> str | Callable[[Any], Any]:
    """Returns a known name or a callable unchanged. **Raises:** `ValueError` naming what is known."""
    if callable(activation):
        return activation
    return checks.choice("activation", activation, ACTIVATIONS, extra=", or any callable")


def activation_function(activation: str | Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function behind a name; callables pass. It acts on every entry of an array."""
    return activation if callable(activation) else ACTIVATIONS[activation]
