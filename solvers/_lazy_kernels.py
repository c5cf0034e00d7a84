r"""Kernels of infinitely wide perceptrons at initialisation, without sampling."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._gaussian_averages import PairAverages


class LazyKernels(NamedTuple):
    r"""Kernels between two sets of inputs.

    `Phi[l]`, l = 0..depth, are $\langle\phi(h^l)\phi(h^l)\rangle$, with the inputs' own first; `G[l]`, l = 0..depth,
    are $\langle g^{l+1}g^{l+1}\rangle$, what the weights $W^l$ see, the readout's one last; `slopes[l]`, l < depth, are
    $\langle\phi'(h^{l+1})\phi'(h^{l+1})\rangle$. `tangent` $K$ moves outputs, $df/d\tau = \frac1PK\Delta$, and is the
    sum of what every layer adds, `of_layers[l]`. `truncation` is that of `PairAverages`, the largest.
    """

    Phi: tuple[Float[Array, "rows columns"], ...]
    G: tuple[Float[Array, "rows columns"], ...]
    slopes: tuple[Float[Array, "rows columns"], ...]
    of_layers: tuple[Float[Array, "rows columns"], ...]
    tangent: Float[Array, "rows columns"]
    truncation: Float[Array, ""] | float


@partial(jax.jit, static_argnames=("averages", "biased", "gated"))
def lazy_kernels(
    x: Float[Array, "rows dim"],
    z: Float[Array, "columns dim"],
    init_scale: Float[Array, " layers"],
    bias_scale: Float[Array, ""],
    taught: Float[Array, " layers"],
    averages: Callable[..., PairAverages],
    *,
    biased: bool = False,
    gated: bool = False,
) -> LazyKernels:
    r"""With the covariances $\Sigma^l = s_{l-1}^2\Phi^{l-1} + \sigma_b^2$ of preactivations,

    $$\Phi^l = \langle\phi\phi\rangle_{\Sigma^l}, \quad
      G^l = s_l^2\,G^{l+1}\,\langle\phi'\phi'\rangle_{\Sigma^l}, \quad
      K = \sum_l r_l\,G^{l+1}(\Phi^l + 1_{\rm biased})$$

    **Arguments:**

    - `taught`: $r_l$, the learning rate of every layer times the share of its gradient in what teaches it.
    - `biased`: whether there are biases, which every layer but the readout has. `gated`: whether $\phi(h)$ is a gate
        $\phi'(m)$ times $h$, with Gaussians m that have the covariance of the inputs.

    ??? cite "Source"
        Neural Tangent Kernel: Convergence and Generalization in Neural Networks, arXiv 1806.07572.
    """
    square = lambda rows: jnp.sum(rows**2, axis=1) / x.shape[1]  # noqa: E731
    # of x with z, of x with itself, of z with itself: the last two are needed at equal samples only
    kernels = x @ z.T / x.shape[1], square(x), square(z)
    gates = _of_pairs(averages, kernels) if gated else None
    Phi, slopes, truncation = [kernels[0]], [], []
    for scale in init_scale[:-1]:
        covariances = tuple(scale**2 * kernel + bias_scale**2 for kernel in kernels)
        found = gates or _of_pairs(averages, covariances)
        if gated:
            kernels = tuple(gate.slopes * covariance for gate, covariance in zip(found, covariances, strict=True))
        else:
            kernels = tuple(pair.values for pair in found)
        Phi, slopes = [*Phi, kernels[0]], [*slopes, found[0].slopes]
        truncation += [jnp.asarray(pair.truncation) for pair in found]
    G = [jnp.ones_like(Phi[0])]
    for scale, slope in zip(init_scale[:0:-1], slopes[::-1], strict=True):
        G = [scale**2 * slope * G[0], *G]
    ends = [float(biased)] * len(slopes) + [0.0]
    terms = tuple(r * g * (phi + end) for r, g, phi, end in zip(taught, G, Phi, ends, strict=True))
    tangent, largest = jnp.sum(jnp.stack(terms), axis=0), jnp.max(jnp.stack(truncation))
    return LazyKernels(tuple(Phi), tuple(G), tuple(slopes), terms, tangent, largest)


def _of_pairs(averages, covariances) -> tuple[PairAverages, ...]:
    both, first, second = covariances
    pairs = (first[:, None], second, both), (first, first, first), (second, second, second)
    return tuple(averages(*pair) for pair in pairs)
