"""Sums of powers between any two numbers, which may be known at run time only."""

import jax.numpy as jnp
from jaxtyping import Array, Float

_DIRECT = 64  # up to here term by term; beyond, Euler-Maclaurin is exact to rounding


def power_sum(power: Float[Array, ""], first: Float[Array, ""], last: Float[Array, ""] | None) -> Float[Array, ""]:
    r"""$\sum_{k=l}^{h} k^{-p}$ for whole numbers $1 \le l$ and $h$; zero if $h < l$.

    The terms beyond 64 are their integral between half-integers with the midpoint corrections of Euler and Maclaurin.
    Differentiable in $p$, any real number.

    **Arguments:**

    - `power`: $p$; more than 1 if `last` is `None`.
    - `first`, `last`: $l$ and $h$; `None` for infinity.
    """
    k = jnp.arange(1, _DIRECT + 1, dtype=power.dtype)
    inside = k >= first if last is None else (k >= first) & (k <= last)
    low = jnp.maximum(first, _DIRECT + 1) - 0.5
    direct = jnp.sum(jnp.where(inside, k**-power, 0.0))
    if last is None:
        return direct + low ** (1 - power) / (power - 1) - _corrections(power, low)
    high = jnp.maximum(last + 0.5, low)
    octaves = jnp.log(high / low)
    integral = low ** (1 - power) * octaves * _growth((1 - power) * octaves)
    # chosen, as equal corrections need not cancel exactly in compiled code
    return direct + jnp.where(high > low, integral + _corrections(power, high) - _corrections(power, low), 0.0)


def _corrections(power, x):
    """What the antiderivative of the sum has beyond that of $x^{-p}$."""
    first = -power * x ** (-power - 1)
    third = first * (power + 1) * (power + 2) / x**2
    fifth = third * (power + 3) * (power + 4) / x**2
    return -first / 24 + 7 / 5760 * third - 31 / 967680 * fifth


def _growth(z):
    """$(e^z - 1) / z$, smooth through zero."""
    small = jnp.abs(z) < 1e-3
    safe = jnp.where(small, 1.0, z)
    return jnp.where(small, 1 + z / 2 + z**2 / 6 + z**3 / 24, jnp.expm1(safe) / safe)
