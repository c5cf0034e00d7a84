r"""Large random matrices as numbers: what $N$ random features and $P$ samples make of a linear model.

Everything follows from one scale $\kappa$ and from one linear system of two unknowns for a pair of scales. An infinite
$N$ or $P$ is an inverse of zero.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Inexact

from ._mode_bins import ModeBins
from ._precision import HIGHEST

_FAR = 50.0  # in spectral edges: so far out, Newton's method from the ridge itself finds the right branch
_PATH_STEP = 0.25  # of log|z|, or of log|Im z|, on the way in
_BISECTIONS, _DECADES = 60, 30


class StationaryLoss(NamedTuple):
    """Excess test loss and train loss, both without a factor of one half."""

    test: Float[Array, ""]
    train: Float[Array, ""]


def degrees_of_freedom(bins: ModeBins, scale: Inexact[Array, "*points"], order: int = 1) -> Inexact[Array, "*points"]:
    r"""$\mathrm{df}_m(\kappa) = \sum_k (\lambda_k / (\lambda_k + \kappa))^m$ with $m$ the `order`."""
    return jnp.sum(bins.weights * bins.eigenvalues ** (order - 1) / (bins.eigenvalues + scale[..., None]) ** order, -1)


def unlearned_power(bins: ModeBins, scale: Inexact[Array, "*points"]) -> Inexact[Array, "*points"]:
    r"""$\sum_k \lambda_k w_k^2\, \kappa / (\lambda_k + \kappa)$: what is left of the target at scale $\kappa$.

    At infinite $P$ and $\mathrm{df}_1(\kappa) = N$ this is the least loss that $N$ features allow.
    """
    scale = scale[..., None]
    return jnp.sum(bins.weights * bins.teacher_power * (scale / (bins.eigenvalues + scale)), -1)


def spectral_edge(
    bins: ModeBins, inverse_features: Float[ArrayLike, ""], inverse_samples: Float[ArrayLike, ""]
) -> Float[Array, ""]:
    r"""The largest curvature of training, $\min_{q > \lambda_1} q\,(1 + S/N)(1 + S/P)$ with
    $S = \sum_k \lambda_k / (q - \lambda_k)$, to about 1e-3.

    Gradient descent needs rates below twice its inverse.
    """
    top, trace = jnp.max(bins.eigenvalues), jnp.sum(bins.weights)
    far = 10 * (1 + trace / top * (inverse_features + inverse_samples))
    # the value is flat at its minimum: steps of 6 per cent find it to a thousandth
    q = top * (1 + 1e-6 * (far * 1e6) ** jnp.linspace(0, 1, 400))
    below = -degrees_of_freedom(bins, -q)
    return jnp.min(q * (1 + below * inverse_features) * (1 + below * inverse_samples))


def ridgeless_scale(bins: ModeBins, inverse_count: Float[ArrayLike, ""]) -> Float[Array, ""]:
    r"""The $\kappa$ with $\mathrm{df}_1(\kappa) = n$, given $1/n$; zero where there are at most $n$ modes."""
    params = bins, jnp.asarray(inverse_count, bins.weights.dtype)
    frozen, inverse = jax.lax.stop_gradient(params)
    short = inverse * jnp.sum(frozen.weights / frozen.eigenvalues) > 1
    above = jnp.where(short, inverse * jnp.sum(frozen.weights), 1.0)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        left = inverse * degrees_of_freedom(frozen, above * jnp.exp(middle)) > 1
        return jnp.where(left, middle, low), jnp.where(left, high, middle)

    start = jnp.full_like(above, -_DECADES * jnp.log(10.0)), jnp.zeros_like(above)
    found = above * jnp.exp(jax.lax.fori_loop(0, _BISECTIONS, halve, start)[0])
    # where no mode is missing the equation has no root, and its derivative must not be asked for
    safe = jax.tree.map(lambda x, y: jnp.where(short, x, y), params, (bins, 1 / degrees_of_freedom(frozen, found)))
    return jnp.where(
        short, _implicit(_count_residual, _polish(_count_residual, found, (frozen, inverse), 2), safe), 0.0
    )


def self_consistent_scale(
    bins: ModeBins,
    inverse_features: Float[ArrayLike, ""],
    inverse_samples: Float[ArrayLike, ""],
    ridge: Inexact[Array, "*points"],
) -> Inexact[Array, "*points"]:
    r"""The scale $\kappa(z)$ of random features at ridge $-z$,

    $$\kappa \left(1 - \tfrac1N \mathrm{df}_1(\kappa)\right)\left(1 - \tfrac1P \mathrm{df}_1(\kappa)\right) = -z ,$$

    on the branch $\kappa \simeq -z$ of large $|z|$. It is continued from $\mathrm{Im}\,z \to \infty$ at fixed
    $\mathrm{Re}\,z$ (for real ridges from infinity): the distance from the spectrum, where branches meet, is at least
    $\mathrm{Im}\,z$ there, so that steps of a fixed ratio never lose the branch, however close to the spectrum $z$ is.
    Of all solutions it is the one with $\mathrm{Im}\,\kappa\,\mathrm{Im}\,z < 0$. Derivatives of all orders are
    implicit.

    **Arguments:**

    - `bins`: the spectrum.
    - `inverse_features`, `inverse_samples`: $1/N$, $1/P$.
    - `ridge`: $-z$, positive, or complex and not negative; for zero see `ridgeless_scale`.
    """
    params = bins, jnp.asarray(inverse_features), jnp.asarray(inverse_samples), ridge
    frozen = jax.lax.stop_gradient(params)
    # what shrinks on the way: all of a real ridge, the imaginary part of a complex one
    still, moving = (frozen[3].real, 1j * frozen[3].imag) if jnp.iscomplexobj(ridge) else (0.0, frozen[3])
    ratio = jnp.maximum(_FAR * spectral_edge(*frozen[:3]) / jnp.abs(moving), 1.0)
    steps = jnp.ceil(jnp.log(jnp.max(ratio)) / _PATH_STEP)

    def there(step):
        return still + moving * ratio ** (1 - step / jnp.maximum(steps, 1.0))

    def inwards(step, scale):
        return _polish(_scale_residual, scale, (*frozen[:3], there(step)), 3)

    scale = jax.lax.fori_loop(0, steps.astype(int), inwards, there(0.0))
    return _implicit(_scale_residual, _polish(_scale_residual, scale, frozen, 8), params)


def sample_factor(
    bins: ModeBins,
    inverse_features: Float[ArrayLike, ""],
    inverse_samples: Float[ArrayLike, ""],
    ridge: Inexact[Array, "*points"],
    scale: Inexact[Array, "*points"],
) -> Inexact[Array, "*points"]:
    r"""$r = 1 - \mathrm{df}_1(\kappa)/P$, the share of a residual that the samples leave in place."""
    df1 = degrees_of_freedom(bins, scale)
    # of the two factors the one that vanishes with the ridge has no digits left as a difference
    vanishes = jnp.greater(inverse_samples, inverse_features)
    return jnp.where(vanishes, ridge / (scale * (1 - df1 * inverse_features)), 1 - df1 * inverse_samples)


def two_point_risk(
    bins: ModeBins,
    noise_power: Float[ArrayLike, ""],
    scale: Inexact[Array, " rows"],
    other: Inexact[Array, " columns"],
    inverse_features: Float[ArrayLike, ""],
    inverse_samples: Float[ArrayLike, ""],
) -> Inexact[Array, "rows columns"]:
    r"""The excess risk $x$ between two ridges, for all pairs of their scales $\kappa, \kappa'$.

    With the sums $[f] = \sum_k \lambda_k f_k / ((\lambda_k + \kappa)(\lambda_k + \kappa'))$ it solves

    $$x = \kappa\kappa' \left([w^2] + \tfrac1N [1]\, c\right) + \tfrac1P [\lambda]\,(x + \sigma^2), \qquad
    c = [\lambda w^2] + \tfrac1N [\lambda]\, c + \tfrac1P [1]\,(x + \sigma^2) .$$

    Then $c_0 = x / (z z')$ and $c_1 = r r' (x + \sigma^2) / (z z')$, $r$ the `sample_factor`, are the transforms of
    the test and of the train correlation of gradient descent, and $x$ at $\kappa = \kappa'$ is the risk of ridge
    regression. Each of the terms in $1/N$ and $1/P$ is a chance that both sides met the same features or samples:
    for independent features pass `inverse_features=0.0` here (not in $\kappa$), for independent samples
    `inverse_samples=0.0`.

    ??? cite

        Two-Point Deterministic Equivalence for Stochastic Gradient Dynamics in Linear Models (arXiv 2502.05074).
    """
    lam, W, power = bins.eigenvalues, bins.weights, bins.teacher_power
    left, right = 1 / (lam + scale[:, None]), 1 / (lam + other[:, None])
    pair = partial(jnp.matmul, precision=HIGHEST)
    shared, df2, bias_slope = (pair(left * (W * f), right.T) for f in (jnp.ones_like(lam), lam, lam * power))
    # scaled mode by mode, not after the sum, so that a scale of zero is no special case
    left, right = left * scale[:, None], right * other[:, None]
    bias, unshared = (pair(left * (W * f), right.T) for f in (power, jnp.ones_like(lam)))
    from_features = 1 - df2 * inverse_features
    source = from_features * (bias + noise_power * df2 * inverse_samples)
    source += unshared * inverse_features * (bias_slope + shared * noise_power * inverse_samples)
    return source / (
        from_features * (1 - df2 * inverse_samples) - unshared * shared * inverse_features * inverse_samples
    )


def stationary_loss(
    bins: ModeBins,
    noise_power: Float[ArrayLike, ""],
    inverse_features: Float[ArrayLike, ""],
    inverse_samples: Float[ArrayLike, ""],
    ridge: Float[ArrayLike, ""] | None = None,
) -> StationaryLoss:
    r"""Losses of ridge regression on random features; without `ridge`, where gradient descent ends.

    Infinite $N$: $\mathrm{df}_1(\kappa) = P$, $L = \left(\sum_k \lambda_k w_k^2 \kappa^2/(\lambda_k+\kappa)^2 +
    \sigma^2 \mathrm{df}_2/P\right) / (1 - \mathrm{df}_2/P)$. Infinite $P$: $\mathrm{df}_1(\kappa) = N$,
    $L = \sum_k \lambda_k w_k^2 \kappa/(\lambda_k + \kappa)$. At equal finite $N$ and $P$ it is infinite.
    """
    sizes = inverse_features, inverse_samples
    if ridge is None:
        scale = ridgeless_scale(bins, jnp.maximum(*sizes))[None]
        factor = 1 - degrees_of_freedom(bins, scale) * inverse_samples
    else:
        ridge = jnp.asarray(ridge)[None]
        scale = self_consistent_scale(bins, *sizes, ridge)
        factor = sample_factor(bins, *sizes, ridge, scale)
    risk = two_point_risk(bins, noise_power, scale, scale, *sizes)[0, 0]
    return StationaryLoss(risk, factor[0] ** 2 * (risk + noise_power))


def _scale_residual(scale, params):
    bins, inverse_features, inverse_samples, ridge = params
    df1 = degrees_of_freedom(bins, scale)
    return scale * (1 - df1 * inverse_features) * (1 - df1 * inverse_samples) - ridge


def _count_residual(scale, params):
    bins, inverse_count = params
    return inverse_count * degrees_of_freedom(bins, scale) - 1


def _polish(residual: Callable[[Any, Any], Any], root, params, steps: int):
    """Steps of Newton's method, each element of `root` on its own."""

    def step(_, root):
        value, slope = jax.jvp(lambda root: residual(root, params), (root,), (jnp.ones_like(root),))
        return root - value / slope

    return jax.lax.fori_loop(0, steps, step, root)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _implicit(residual: Callable[[Any, Any], Any], root, params):
    """`root` as a function of `params` by `residual(root, params) = 0`, element by element."""
    return root


@_implicit.defjvp
def _implicit_jvp(residual, primals, tangents):
    root, params = primals
    root = _implicit(residual, root, params)
    _, moved = jax.jvp(lambda params: residual(root, params), (params,), (tangents[1],))
    _, slope = jax.jvp(lambda root: residual(root, params), (root,), (jnp.ones_like(root),))
    return root, -moved / slope
