"""Functions of fresh inputs: what a network learns that never sees a sample twice."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from . import _checks as checks
from ._datasets import AbstractTask


class SphereFunction(AbstractTask):
    r"""Inputs uniform on the sphere $|x|^2 = D$, with the values of a function as targets.

    **Fields:** `dim` $D$, and `target`, which maps inputs `[samples, dim]` to targets `[samples]`; both static.
    """

    dim: int = eqx.field(static=True)
    target: Callable = eqx.field(static=True)

    def batch(self, key, count: int):
        """`count` fresh samples `(x, y)` of shapes `[count, dim]` and `[count]`, in the global float type."""
        x = jax.random.normal(key, (count, self.dim), float)
        x = x * (self.dim**0.5 / jnp.linalg.norm(x, axis=1, keepdims=True))
        return x, self.target(x)


def sphere_function(dim: int, target: Callable) -> SphereFunction:
    r"""A function of inputs that are uniform on the sphere $|x|^2 = $ `dim`.

    **Arguments:**

    - `dim`: input dimension, at least 2.
    - `target`: a function of inputs `[samples, dim]`, in `jax.numpy`, with values `[samples]`.

    Inputs of one length are what networks without biases need, if their activation is homogeneous as `"relu"` is: such
    networks grow in proportion to $|x|$, which a target seldom does.

    **Raises:** `ValueError` and `TypeError` for a `dim` or a `target` that is none.
    """
    checks.integer("dim", dim, low=2)
    if not callable(target):
        raise TypeError(f"target must be a function of inputs [samples, dim]; {checks.shown(target)} was given.")
    shape = jax.eval_shape(target, jax.ShapeDtypeStruct((3, dim), jnp.result_type(float))).shape
    if shape != (3,):
        raise ValueError(f"target must map inputs [3, {dim}] to values [3]; theirs have the shape {list(shape)}.")
    return SphereFunction(dim, target)
