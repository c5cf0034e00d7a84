"""Orthonormal directions, revealed a few at a time, each paired with a fresh Gaussian."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._past import before
from ._precision import HIGHEST


def dot(a, b):
    # Not `jnp.matmul`: it names a result type, which its transpose cannot have where the precision context has ended.
    return jax.lax.dot(a, b, precision=HIGHEST)


class Directions(NamedTuple):
    """Orthonormal fields `hat` `[slots, axis]` on one side of a weight matrix, the Gaussians `noise` it maps them to
    (`None` where nothing is mapped), and those that an `other`, independent matrix maps them to, if there is one."""

    hat: Any
    noise: Any = None
    other: Any = None


class Expansion(NamedTuple):
    """A field in its basis: coefficients on the `old` directions (full rows) and on the ones `new` at this step."""

    old: Float[Array, "rows slots"]
    new: Float[Array, "rows fresh"]

    def row(self, start) -> Float[Array, "rows slots"]:
        """Both parts in one row, the new ones from slot `start` on."""
        return jax.lax.dynamic_update_slice(self.old, self.new, (0, start))


def guarded_sqrt(value, floor):
    """Square root where `value > floor`, else 0 with a zero derivative."""
    keep = value > floor
    return jnp.where(keep, jnp.sqrt(jnp.where(keep, value, 1.0)), 0.0)


def gram_schmidt(
    gram: Float[Array, "rows rows"], floor: Float[Array, " rows"]
) -> tuple[Float[Array, "rows rows"], Float[Array, "rows rows"], Bool[Array, " rows"]]:
    r"""Gram-Schmidt on a Gram matrix, column by column: $x = L\, e$ and $e = C x$ with orthonormal $e$.

    A column whose remaining variance is at most `floor` is dropped: its rows of $C$, its column of $L$ are zero, with
    zero derivative. There is no pivoting, so the order of the rows is the order of the directions.
    """
    index = jnp.arange(gram.shape[0])

    def column(carry, j):
        lower, inverse = carry
        known = lower[j]
        variance = gram[j, j] - dot(known, known)
        keep = variance > floor[j]
        scale = jnp.where(keep, 1.0 / jnp.sqrt(jnp.where(keep, variance, 1.0)), 0.0)
        entries = jnp.where(index >= j, (gram[:, j] - dot(lower, known)) * scale, 0.0)
        combination = ((index == j) - dot(known, inverse)) * scale
        return (lower.at[:, j].set(entries), inverse.at[j].set(combination)), keep

    zero = jnp.zeros_like(gram)
    (lower, inverse), keep = jax.lax.scan(column, (zero, zero), index)
    return lower, inverse, keep


def reveal(field, old: Directions, live, axis, tolerance, gaussians) -> tuple[Expansion, Directions, Float[Array, ""]]:
    r"""Expands `field` in the live directions and in as many new ones as it needs.

    $$x = R\,\hat x_{\rm old} + L\,\hat x_{\rm new}, \qquad R = \langle x\, \hat x_{\rm old}\rangle$$

    A row brings a new direction if its remaining variance exceeds `tolerance` times $\langle x x\rangle$. The
    projection is applied twice: once is not enough for orthogonality, and without the derivative of the second
    pass (which is the identity analytically) gradients grow without bound.

    **Arguments:**

    - `field`: $x$, shape `[rows, axis]`.
    - `old`: the directions so far; `live` is 1 for the slots that count and 0 for the others.
    - `gaussians`: `place -> ([rows, axis], ...)`, fresh Gaussians for `noise` and `other`, where there are such;
        `place` is each row's place among the new directions.

    **Returns:**

    The expansion, the new directions moved to the front (`rows` of them, zero behind the last), and their number.
    """
    first = axis.inner(field, old.hat) * live
    residual = field - before(first, old.hat)
    lower, inverse, keep = gram_schmidt(axis.inner(residual, residual), tolerance * axis.square(field))
    fresh = dot(inverse, residual)

    second = axis.inner(fresh, old.hat) * live
    fresh = fresh - before(second, old.hat)
    # Orthonormal up to rounding over pivot by now: two terms of the series of the square root of the Gram matrix do.
    kept = keep.astype(field.dtype)
    excess = axis.inner(fresh, fresh) - jnp.diag(kept)
    square, one = dot(excess, excess), jnp.eye(len(field), dtype=field.dtype)
    fresh = dot(one - excess / 2 + 3 * square / 8, fresh)
    lower, correction = dot(lower, one + excess / 2 - square / 8), dot(lower, second)

    place = jnp.cumsum(keep) - 1
    front = (place == jnp.arange(len(field))[:, None]) * kept
    expansion = Expansion(first + correction, dot(lower, front.T))
    noise = jax.tree.map(lambda fresh: dot(front, fresh), gaussians(place))
    return expansion, Directions(dot(front, fresh), *noise), jnp.sum(kept)


def project(field, old: Directions, new: Directions, live, axis) -> Expansion:
    """The expansion of a field that does not enter the basis, as far as it is inside."""
    return Expansion(axis.inner(field, old.hat) * live, axis.inner(field, new.hat))


def outside(field, expansion: Expansion, axis, tolerance) -> Float[Array, "rows 1"]:
    """The size of what a projected field leaves outside of the basis."""
    size = axis.square(field)
    left = size - sum(jnp.sum(part * part, axis=1) for part in expansion)
    return guarded_sqrt(left, tolerance * size)[:, None]
