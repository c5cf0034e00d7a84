r"""Outlier singular values of a trained random matrix: a bulk, and spikes that know the bulk.

The matrix is $\hat W = \sigma Z/\sqrt n + \frac1n G\,{\rm core}\,K^T$, $m\times n$ $c = m/n$, $Z$ of unit variance.
The columns of $G$ and $K$ are fields that were made with the help of $Z$ itself: they respond to it.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ._march_basis import dot, gram_schmidt


class SpikedMatrix(NamedTuple):
    r"""What the spectrum of a trained matrix depends on.

    The responses are to the unit Gaussians $\epsilon$ that the matrix makes of the fields on its other side: of $K$ to
    $Z^T G/\sqrt n$ and of $G$ to $Z K/\sqrt n$, $\langle\partial k\,/\,\partial\epsilon\rangle$.
    """

    correlation_k: Float[Array, "right right"]
    correlation_g: Float[Array, "left left"]
    response_k: Float[Array, "right left"]
    response_g: Float[Array, "left right"]
    core: Float[Array, "left right"]
    aspect: Float[Array, ""]  # c
    scale: Float[Array, ""]  # sigma


class Outliers(NamedTuple):
    """The largest singular values, in decreasing order. `margin` is positive where an outlier exists, and says by how
    much the spikes exceed the threshold; `residual` is that of the determinant's eigenvalue."""

    values: Float[Array, " count"]
    exist: Bool[Array, " count"]
    margin: Float[Array, ""]
    left_overlap: Float[Array, "count left"]
    right_overlap: Float[Array, "count right"]
    residual: Float[Array, ""]


def bulk_edge(scale, aspect):
    r"""Upper edge of the Marchenko-Pastur bulk, $\sigma(1 + \sqrt c)$."""
    return scale * (1 + jnp.sqrt(aspect))


def singular_value(strength, scale, aspect):
    r"""$z = \sqrt{(\theta^2 + \sigma^2)(\theta^2 + c\,\sigma^2)}\,/\,\theta$: the outlier of a spike of strength
    $\theta$ that is independent of the bulk, if $\theta^2 > \sigma^2\sqrt c$."""
    square = scale**2
    return jnp.sqrt((strength**2 + square) * (strength**2 + aspect * square)) / strength


def overlap_matrix(matrix: SpikedMatrix, strength: Float[Array, ""]) -> Float[Array, "both both"]:
    r"""$\Omega(z) = U^T (z - H)^{-1} U$, the resolvent of the bulk, $H = (0, \sigma Z; \sigma Z^T, 0)/\sqrt n$, between
    the spikes $U = (G, 0; 0, K)/\sqrt n$.

    Outliers are the $z$ at which $J\,\Omega(z)$ has the eigenvalue 1, $J$ the spikes' core. Here $z$ is given by the
    strength $\theta$ of `singular_value`, in which the traces of the resolvent are rational,

    $$r = (1 + c\,a)/z, \quad r' = (1 + a)/z, \quad a = \sigma^2/\theta^2,$$

    so that nothing is singular at the edge. It is symmetric and positive definite. The fields are in causal order: the
    products of the two responses are strictly lower triangular.
    """
    C_k, C_g, R_k, R_g, _, c, sigma = matrix
    a = (sigma / strength) ** 2
    z = singular_value(strength, sigma, c)
    r, r_left = (1 + c * a) / z, (1 + a) / z
    left, right = jnp.eye(len(C_g), dtype=C_g.dtype), jnp.eye(len(C_k), dtype=C_k.dtype)
    source = jnp.concatenate([left, r * sigma * R_k])
    solve = partial(jax.scipy.linalg.solve_triangular, lower=True, unit_diagonal=True)
    above = solve(left - c * a * dot(R_g, R_k), source.T, trans=1)  # (a + q S_q)^T
    own = jnp.concatenate([jnp.zeros_like(R_k), right], axis=1)
    below = own + c * sigma * r_left * dot(R_g.T, above)  # (b + c q S_p)^T
    driven = r * (dot(C_k, below) + c * sigma * r_left * dot(R_k, dot(C_g, above)))
    X = solve(right - c * a * dot(R_k, R_g), driven)
    Y = r_left * (dot(C_g, above) + sigma * dot(R_g, X))
    return jnp.concatenate([c * Y, X])


class Basis(NamedTuple):
    """Orthonormal fields behind correlated ones, `x = lower e` and `e = inverse x`; directions without variance are
    zero."""

    lower: Float[Array, "fields rank"]
    inverse: Float[Array, "rank fields"]


def orthonormal_basis(
    correlation: Float[Array, "fields fields"], rank: int, rounding: float = 2.0**-52
) -> tuple[Basis, Int[Array, ""]]:
    """The basis of fields in their order, moved to the front of `rank` slots, and how many directions there are, as far
    as correlations with this relative `rounding` tell."""
    tolerance = 1e3 * rounding
    lower, inverse, keep = gram_schmidt(correlation, tolerance * jnp.diag(correlation))
    front = jnp.argsort(~keep, stable=True)[:rank]
    return Basis(lower[:, front], inverse[front]), jnp.sum(keep)


def orthonormal(matrix: SpikedMatrix, left: Basis, right: Basis) -> SpikedMatrix:
    """The same matrix with orthonormal spikes: the correlations are one, and nothing is ill-conditioned."""
    return matrix._replace(
        correlation_k=jnp.eye(right.lower.shape[1], dtype=matrix.core.dtype),
        correlation_g=jnp.eye(left.lower.shape[1], dtype=matrix.core.dtype),
        response_k=dot(right.inverse, dot(matrix.response_k, left.lower)),
        response_g=dot(left.inverse, dot(matrix.response_g, right.lower)),
        core=dot(left.lower.T, dot(matrix.core, right.lower)),
    )


def outliers(matrix: SpikedMatrix, left: Basis, right: Basis, *, count: int) -> Outliers:
    r"""The `count` largest outliers of one matrix.

    They are found in the orthonormal basis: with $\Omega = F F^T$, the eigenvalues $\mu$ of $J\Omega$ are those of the
    symmetric $F^T J F$, each of which falls as $\theta$ grows, and reaches 1 at an outlier. $\log\mu$ is nearly linear
    in $\log\theta$ (exactly so for independent spikes), and Newton's method takes a few steps. Derivatives are those of

    $$w^T J w + x^T \Omega(\theta)\, x, \qquad w = \Omega x, \quad x = J w$$

    at fixed vectors, in the given fields: no inverse of a correlation, and of no rate that may be zero, is
    differentiated.
    """
    fixed = jax.lax.stop_gradient
    hat = fixed(orthonormal(matrix, left, right))
    spikes = jnp.sqrt(jnp.sum(hat.core**2) * hat.aspect)
    anything = spikes > 0
    largest = bulk_edge(hat.scale, hat.aspect) + jnp.where(anything, spikes, 1.0)
    # without a bulk every spike is an outlier
    floor = 1e-8 * fixed(largest)
    threshold = lambda matrix: jnp.maximum(matrix.scale * matrix.aspect**0.25, floor)  # noqa: E731
    zero_left, zero_right = jnp.zeros((len(hat.core),) * 2), jnp.zeros((hat.core.shape[1],) * 2)
    J = jnp.block([[zero_left, hat.core], [hat.core.T, zero_right]])

    def symmetric(log_strength):
        F = jnp.linalg.cholesky(overlap_matrix(hat, jnp.exp(log_strength)), symmetrize_input=True)
        return dot(F.T, dot(J, F)), F

    def excess(log_strength, index):
        mu = jnp.linalg.eigvalsh(symmetric(log_strength)[0])[-1 - index]
        return jnp.log(jnp.maximum(mu, 1e-3))

    start = jnp.log(threshold(hat))
    S, F_edge = symmetric(start)
    edge_mu, edge_vectors = jnp.linalg.eigh(S)

    def outlier(index):
        mu = edge_mu[-1 - index]
        exists = mu > 1
        u = fixed(
            _newton(
                lambda u: jnp.where(exists, excess(u, index), u - start),
                start + jnp.where(exists, jnp.log(jnp.where(exists, mu, 1.0)), 0.0),
                start,
                jnp.log(largest),
            )
        )
        S, F = symmetric(u)
        w, x = _vectors(matrix, left, right, dot(F, jnp.linalg.eigh(S)[1][:, -1 - index, None]), 1.0)
        form = lambda matrix, strength: _form(matrix, strength, w, x, 1.0)  # noqa: E731
        found = jnp.exp(u)
        value, slope = jax.jvp(lambda strength: form(fixed(matrix), strength), (found,), (jnp.ones_like(found),))
        slope = jnp.where(exists, slope, -1.0)
        strength = found - jnp.where(exists, form(matrix, found) - value, 0.0) / slope
        strength = jnp.maximum(strength, threshold(matrix))
        z = singular_value(strength, matrix.scale, matrix.aspect)
        overlaps = _overlaps(fixed(matrix), found, slope, fixed(w))
        overlaps = (jnp.where(exists, overlap, 0.0) for overlap in overlaps)
        return z, exists, *overlaps, jnp.where(exists, jnp.abs(excess(u, index)), 0.0)

    values, exist, left_overlap, right_overlap, residual = jax.lax.map(outlier, jnp.arange(count))
    mu = jnp.where(anything, edge_mu[-1], 1.0)
    w, x = _vectors(matrix, left, right, dot(F_edge, edge_vectors[:, -1:]), mu)
    form = _form(matrix, threshold(matrix), w, x, mu)
    margin = jnp.where(anything, mu - 1 + form - fixed(form), -1.0)
    return Outliers(jnp.where(exist, values, jnp.nan), exist, margin, left_overlap, right_overlap, jnp.max(residual))


_TOLERANCE = 1e-11  # of log strength


def _newton(function, start, lower, upper):
    """The zero of a scalar function between bounds.

    The linear solve in a general Newton method is lowered when the caller's program is, and then the precision context
    in which it was traced has ended.
    """

    def step(carry):
        u, _, count = carry
        value, slope = jax.jvp(function, (u,), (jnp.ones_like(u),))
        after = jnp.clip(u - value / slope, lower, upper)
        return after, jnp.abs(after - u), count + 1

    def unfinished(carry):
        _, moved, count = carry
        return (moved > _TOLERANCE) & (count < 32)

    return jax.lax.while_loop(unfinished, step, (start, jnp.inf * jnp.ones_like(start), jnp.int32(0)))[0]


def _vectors(matrix, left: Basis, right: Basis, w, mu):
    r"""$w$ in the given fields, from orthonormal coordinates `[left+right, 1]`, and $x = J w/\mu$."""
    core = matrix.core
    count = left.lower.shape[1]
    w_left, w_right = dot(left.lower, w[:count]), dot(right.lower, w[count:])
    x = jnp.concatenate([dot(core, w_right), dot(core.T, w_left)]) / mu
    return jax.lax.stop_gradient((jnp.concatenate([w_left, w_right])[:, 0], x[:, 0]))


def _form(matrix, strength, w, x, mu):
    r"""$w^TJw + \mu\, x^T\Omega x$, whose derivative is that of $\mu$ if $w \cdot x = 1$."""
    count = len(matrix.correlation_g)
    spikes = 2 * dot(w[None, :count], dot(matrix.core, w[count:, None]))
    return (spikes + mu * dot(x[None], dot(overlap_matrix(matrix, strength), x[:, None])))[0, 0]


def _overlaps(matrix, strength, slope, w):
    """Cosines between the singular vectors and the fields; both singular vectors have the norm -x dOmega/dz x / 2."""
    _, moved = jax.jvp(
        lambda s: singular_value(s, matrix.scale, matrix.aspect), (strength,), (jnp.ones_like(strength),)
    )
    norms = jnp.concatenate([matrix.aspect * jnp.diag(matrix.correlation_g), jnp.diag(matrix.correlation_k)])
    cosine = w * jnp.sqrt(2 * moved / -slope) / jnp.sqrt(jnp.where(norms > 0, norms, jnp.inf))
    count = len(matrix.correlation_g)
    return cosine[:count], cosine[count:]


def bulk_density(x, scale, aspect):
    r"""Density of the bulk's singular values, $\sqrt{(s_+^2 - x^2)(x^2 - s_-^2)}\,/\,(\pi\sigma^2 x \min(c, 1))$ with
    $s_\pm = \sigma(1 \pm \sqrt c)$ (Marchenko and Pastur)."""
    upper, lower = scale * (1 + jnp.sqrt(aspect)), scale * (1 - jnp.sqrt(aspect))
    inside = (upper**2 - x**2) * (x**2 - lower**2)
    within = (inside > 0) & (x > 0)
    norm = jnp.pi * scale**2 * jnp.where(x > 0, x, 1.0) * jnp.minimum(aspect, 1.0)
    return jnp.where(within, jnp.sqrt(jnp.where(within, inside, 0.0)) / norm, 0.0)
