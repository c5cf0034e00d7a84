"""One switch for precision: noise-free theory computes in float64 whatever the global flag says."""

from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._devices import gather

HIGHEST = jax.lax.Precision.HIGHEST

# Backends that only imitate float64, or lack what is built on it, such as decompositions.
_SINGLE_ONLY = ("tpu", "METAL")


@contextmanager
def double():
    """Every new array is float64 here; it works inside `jit`, `grad`, `vmap` of the caller.

    Where the default accelerator has no float64, it is the host that computes.
    """
    with jax.enable_x64(True), _host() if jax.default_backend() in _SINGLE_ONLY else nullcontext():
        yield


def _host():
    return jax.default_device(jax.local_devices(backend="cpu")[0])


def single():
    """Context manager under which every new array is float32."""
    return jax.enable_x64(False)


def context(precision: str):
    """The context manager named by `precision`: `"double"` or `"single"`."""
    return double() if precision == "double" else single()


def precision_of(tree: Any) -> str:
    """`"double"` if a leaf is: what a reverse pass needs, which begins when the caller's context has been left."""
    wide = any(leaf.dtype in (np.float64, np.complex128) for leaf in jax.tree.leaves(tree))
    return "double" if wide else "single"


def in_precision(function: Callable, precision: str) -> Callable:
    """`function(floats, rest)`, differentiable in `floats`, with its reverse pass in the same precision context.

    Derivatives are traced where the caller asks for them, when the context of the forward pass has ended.
    """

    @jax.custom_vjp
    def run(floats, rest):
        with context(precision):
            return function(floats, rest)

    def forward(floats, rest):
        with context(precision):
            return jax.vjp(lambda floats: function(floats, rest), floats)

    def backward(pull, bar):
        with context(precision):
            return *pull(bar), None

    run.defvjp(forward, backward)
    return run


def as_float(tree: Any) -> Any:
    """Converts every numeric leaf to the default float dtype of the current context; other leaves pass unchanged."""

    def convert(leaf):
        is_array = isinstance(leaf, (jax.Array, np.ndarray, np.generic, int, float)) and not isinstance(leaf, bool)
        if is_array and jnp.issubdtype(jnp.result_type(leaf), jnp.number):
            return jnp.asarray(leaf, jnp.result_type(float))
        return leaf

    return jax.tree.map(convert, tree)


def first_true(flags):
    """Index of the first true entry of a vector, 0 if there is none.

    `argmax` of float64 numbers, or with indices of 64 bits, is lowered when the caller's program is, and then the
    context in which it was traced has ended.
    """
    return jax.lax.argmax(flags, 0, jnp.int32)


def to_host(tree: Any) -> Any:
    """Turns concrete float64 arrays into NumPy arrays where the global flag is off.

    There, `jax.numpy` would warn about, and then truncate, every float64 array that it meets; NumPy keeps all digits.
    Tracers pass, so gradients and batching see nothing of this.
    """
    if jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        return tree

    def convert(leaf):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer) and leaf.dtype == np.float64:
            return np.asarray(gather(leaf))
        return leaf

    return jax.tree.map(convert, tree)


def without_derivative(tree: Any, sentence: str) -> Any:
    """The same numbers; whoever differentiates through them gets a `TypeError` with this sentence."""

    @jax.custom_jvp
    def same(leaf):
        return leaf

    @same.defjvp
    def refuse(primals, tangents):
        raise TypeError(sentence)

    return jax.tree.map(same, tree)
