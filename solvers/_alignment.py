"""How much of a kernel points along the targets."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._precision import HIGHEST


def kernel_alignment(
    kernel: Float[Array, "... samples samples"], y: Float[Array, " samples"] | Float[Array, "samples outputs"]
) -> Float[Array, "..."]:
    r"""$y^TKy/(|y|^2|K|_F)$ of the symmetric part of a kernel; zero if the targets or the kernel vanish.

    For targets of several outputs the kernel is $K\otimes 1$, one for all of them.
    """
    kernel = (kernel + kernel.swapaxes(-1, -2)) / 2
    size = jnp.sqrt(_unless_zero(jnp.sum(kernel**2, axis=(-2, -1))))
    if y.ndim == 2:
        quadratic = jnp.einsum("mk,...mn,nk->...", y, kernel, y, precision=HIGHEST)
        return quadratic / (_unless_zero(jnp.sum(y**2)) * size * y.shape[1] ** 0.5)
    quadratic = jnp.einsum("m,...mn,n->...", y, kernel, y, precision=HIGHEST)
    return quadratic / (_unless_zero(jnp.sum(y**2)) * size)


def centred_alignment(kernel: Float[Array, "... samples samples"], y: Float[Array, " samples"]) -> Float[Array, "..."]:
    """`kernel_alignment` with the means over the samples taken off on all sides."""
    for side in (-2, -1):
        kernel = kernel - jnp.mean(kernel, axis=side, keepdims=True)
    return kernel_alignment(kernel, y - jnp.mean(y))


def _unless_zero(size):
    return jnp.where(size > 0, size, 1.0)
