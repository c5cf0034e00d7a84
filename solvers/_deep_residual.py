"""Deep linear residual networks in the proportional limit; the stream through all layers is one site."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ._causal_sweep import causal_sweep
from ._deep_linear import DeepLinearInputs
from ._linear_data import FreshData, Now, ReusedData, dot, product


class ResidualHistory(NamedTuple):
    r"""All order parameters of a residual network.

    `K` and `G` `[time, layer, source, time]` are the fields of every layer as maps of all sources: first $\zeta^1 \dots
    \zeta^L$ and then $\psi^1 \dots \psi^L$, in the units of `Site`. `C_k` and `C_g` `[time, layer, time]` are lower
    triangles with half of the diagonal.
    """

    data: Any
    K: Any
    G: Any
    C_k: Any
    C_g: Any

    @property
    def depth(self) -> int:
        """Number of hidden layers."""
        return self.C_k.shape[1]

    def layer(self, l: int):
        """`C_k`, `C_g`, and the own `K_psi`, `G_zeta` of a hidden layer, 0..depth-1."""
        return self.C_k[:, l], self.C_g[:, l], self.K[:, l, self.depth + l], self.G[:, l, l]


def residual_row(data, inputs: DeepLinearInputs, history: ResidualHistory, time, x) -> ResidualHistory:
    """The row of one time: down the stream, through the data, and up again."""
    now, optimiser = Now.at(time, inputs.decay, x), x[0]
    K, G, C_k, C_g = (jnp.moveaxis(leaf.rows, 1, 0) for leaf in history[1:])
    depth = len(C_k)
    layers, is_psi = jnp.arange(depth), (jnp.arange(2 * depth) >= depth)[:, None]
    q, s = inputs.init_power, inputs.richness_squared
    powers = jnp.where(layers == depth - 1, inputs.readout_power, q)
    scales = jnp.full(depth, max(depth - 1, 1) ** -0.5)
    unit_at = lambda source: (jnp.arange(2 * depth) == source)[:, None] * now.unit  # noqa: E731

    # The sources zeta get their covariance from the layer below, psi from the one above: the last from the readout,
    # whose Gaussian does not change in time.
    below = jnp.concatenate([history.data.C_u.rows[None], C_k[:-1]])
    earlier = now.until - now.unit
    readout = jnp.tril(jnp.outer(earlier, now.until)) - jnp.diag(earlier) / 2
    above = jnp.concatenate([C_g[1:], readout[None]])
    product_each = jax.vmap(lambda rows, y, new: product(rows, y, (new, now.unit)))

    def images(y, new_below, new_above):
        zeta = q * now.decays * product_each(below, now.decays * y[:depth], new_below)
        psi = powers[:, None] * now.decays * product_each(above, now.decays * y[depth:], new_above)
        return jnp.concatenate([zeta, psi])

    def down(carry, layer):
        g, covariance, new_above = carry
        l, scale, known_K, known_G = layer
        last = l == depth - 1
        scale = jnp.where(last, 1.0, scale)
        response = jnp.where(last, 0.0, dot((jnp.arange(2 * depth) == l + 1).astype(g.dtype), g))
        B = powers[l] * now.decay * response + scale * optimiser * covariance
        g = g + scale * (jnp.where(is_psi, s, 1.0) * dot(B, known_K) + unit_at(depth + l))
        new_above = new_above.at[l].set(covariance)
        image = images(jnp.where(is_psi, 1.0, s) * g, jnp.zeros_like(new_above), new_above)
        covariance = now.row((known_G,), (g,), (image,))
        return (g, covariance, new_above), (g, covariance)

    nothing = jnp.zeros((2 * depth, len(now.unit)), now.unit.dtype)
    start = (nothing, now.until, nothing[:depth])
    (g, covariance, new_above), (G_now, C_g_now) = jax.lax.scan(down, start, (layers, scales, K, G), reverse=True)

    B = q * now.decay * g[0] + optimiser * covariance
    first = lambda y: product(C_g[0], y, (covariance, now.unit))  # noqa: E731
    psi = lambda y: inputs.output_power * q * now.decayed(first, y)  # noqa: E731
    row, response, C_u, _ = data.row(inputs, history.data, now, B, psi, x)

    def up(carry, layer):
        k, response, covariance, new_below = carry
        l, scale, known_K, known_G, g = layer
        scale = jnp.where(l == 0, 1.0, scale)
        A = q * now.decay * response + scale * optimiser * covariance
        k = k + scale * (jnp.where(is_psi, 1.0, s) * now.with_row(A, known_G, g) + unit_at(l))
        new_below = new_below.at[l].set(covariance)
        image = images(jnp.where(is_psi, s, 1.0) * k, new_below, new_above)
        covariance = now.row((known_K,), (k,), (image,))
        return (k, k[depth + l], covariance, new_below), (k, covariance)

    start = (nothing, inputs.output_power * response, C_u, nothing[:depth])
    _, (K_now, C_k_now) = jax.lax.scan(up, start, (layers, scales, K, G, G_now))
    return ResidualHistory(row, K_now, G_now, now.halved(C_k_now), now.halved(C_g_now))


def deep_residual(inputs: DeepLinearInputs, *, depth: int, fresh: bool, adjoint: str = "tape") -> ResidualHistory:
    r"""Solves the theory of a deep linear residual network with branches of size $a = 1/\sqrt{L-1}$.

    $$\begin{aligned}
    k^1 &= \zeta^1 + \tilde\gamma A^1 g^1, & k^{l+1} &= k^l + a\,\zeta^{l+1} + a\,\tilde\gamma A^{l+1} g^{l+1}, &
      A^{l+1} &= q R_k^l + a\, c \circ C_k^l, \\
    g^L &= \psi^L + \tilde\gamma B^L k^L, & g^l &= g^{l+1} + a\,\psi^l + a\,\tilde\gamma B^l k^l, &
      B^l &= q R_g^{l+1} + a\, c \circ C_g^{l+1}
    \end{aligned}$$

    with the first layer, the readout $\psi^L$ and the input side as in `deep_linear`. The responses are of order $a$,
    so that the solution converges as the depth grows, like 1/depth. Time is O(depth² · steps³), memory
    O(depth² · steps²).

    **Arguments:** those of `deep_linear`.

    ??? cite "Source"
        *Deep Linear Network Training Dynamics from Random Initialization: Data, Width, Depth, and Hyperparameter
        Transfer*, arXiv 2502.02531.
    """
    time, dtype = len(inputs.decay), inputs.decay.dtype
    data = FreshData if fresh else ReusedData
    shape = lambda *dims: jax.ShapeDtypeStruct(dims, dtype)  # noqa: E731
    maps, rows = shape(depth, 2 * depth, time), shape(depth, time)
    like = ResidualHistory(data.like(len(inputs.eigenvalues), time, dtype), maps, maps, rows, rows)
    params = inputs._replace(optimiser=None, inverse_ratio=None)
    xs = (inputs.optimiser, inputs.decay, inputs.inverse_ratio)
    return causal_sweep(partial(residual_row, data), like, params, xs, adjoint=adjoint)
