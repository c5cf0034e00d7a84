"""Spectra of large sample covariance matrices with a given population spectrum."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def marchenko_pastur_nodes(
    ratio: Float[Array, ""], count: int
) -> tuple[Float[Array, " count"], Float[Array, " count"]]:
    r"""Nodes and weights for averages over the eigenvalues of $A^TA$ that are not zero; A has `ratio` times as many
    rows as columns and entries of variance one over the columns.

    The midpoint rule in the angle of $s = 1 + \kappa + 2\sqrt\kappa\cos\varphi$; it converges exponentially.
    """
    angle = (jnp.arange(count) + 0.5) * jnp.pi / count
    nodes = 1 + ratio + 2 * jnp.sqrt(ratio) * jnp.cos(angle)
    weights = 2 * ratio / jnp.minimum(ratio, 1.0) * jnp.sin(angle) ** 2 / nodes / count
    return nodes, weights


def sample_covariance_edge(population, weights, aspect) -> Float[Array, ""]:
    r"""Upper edge of the spectrum of $\frac1D W W^T$; the columns of W have covariance eigenvalues `population`.

    $z = y + c\int\frac{\tau y}{y - \tau}dH$ at its minimum over $y > \tau_{\max}$, $c$ = rows over columns (`aspect`).
    """
    import optimistix

    tau, h, c = jax.lax.stop_gradient((population, weights, aspect))
    largest = jnp.max(jnp.where(h > 0, tau, 0.0))

    def slope(y, _):
        return 1 - c * jnp.sum(h * (tau / (y - tau)) ** 2)

    limits = {"lower": largest * (1 + 1e-12), "upper": largest * (1 + jnp.sqrt(c)) * (1 + 1e-12)}
    bisection = optimistix.Bisection(rtol=1e-14, atol=0.0)
    y = optimistix.root_find(slope, bisection, limits["upper"], options=limits, max_steps=128, throw=False).value
    # stationary in y, whose derivative is therefore not needed
    y = jax.lax.stop_gradient(y)
    return y + aspect * jnp.sum(weights * population * y / (y - population))


def sample_covariance_density(x, population, weights, aspect):
    r"""Density of the eigenvalues of $\frac1D W W^T$ at `x > 0`, normalised over its rows.

    ${\rm Im}\, m / \pi c$ with $z = -1/m + c\int\frac{\tau\, dH}{1 + \tau m}$ just above the real axis, which is
    approached from far away by Newton's method.
    """
    heights = 4.0 * jnp.max(population) * 0.5 ** jnp.arange(40.0)

    def towards(m, height):
        z = x + 1j * height

        def newton(_, m):
            share = population / (1 + population * m[..., None])
            miss = -1 / m + aspect * jnp.sum(weights * share, axis=-1) - z
            slope = 1 / m**2 - aspect * jnp.sum(weights * share**2, axis=-1)
            return m - miss / slope

        return jax.lax.fori_loop(0, 6, newton, m), None

    m, _ = jax.lax.scan(towards, -1 / (x + 1j * heights[0]), heights)
    return jnp.maximum(m.imag, 0.0) / (jnp.pi * aspect)
