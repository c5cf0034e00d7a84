r"""Training of random features in the frequency domain: any schedule is a polynomial on one contour of fixed nodes."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float

from ._deterministic_equivalent import (
    degrees_of_freedom,
    sample_factor,
    self_consistent_scale,
    spectral_edge,
    two_point_risk,
    unlearned_power,
)
from ._mode_bins import ModeBins
from ._precision import HIGHEST
from ._second_moment import Drive

_ASPECT = 0.7  # height of the ellipse; small enough for |1 - eta z| <= 1 on most of it
_OFFSET = 4.0  # the ellipse is logarithmic down to this many inverse horizons
_MARGIN_LEFT, _MARGIN_RIGHT = 1.5, 0.15  # it passes the origin and the edge at these logarithmic distances
_NODES_PER_DIGIT = 0.7  # measured: of log(2 steps) log(1 / tolerance)


class Contour(NamedTuple):
    r"""The upper half of a contour: $\oint f(z)\, dz / 2\pi i = 2\,\mathrm{Re} \sum_j q_j f(z_j)$ for real $f$."""

    z: Complex[Array, " nodes"]
    q: Complex[Array, " nodes"]


class TwoPointLoss(NamedTuple):
    r"""Learning curves, before each step and after the last, without a factor of one half.

    - `test`: the excess risk.
    - `train`: the mean square residual on the training samples.
    - `monitor`: $\max |p_t(z_j)|$. The losses carry an absolute error of about `1e-16 * monitor**2` of the first
      one; a schedule beyond the stability edge shows here first.
    """

    test: Float[Array, " times"]
    train: Float[Array, " times"]
    monitor: Float[Array, ""]


class ComplexModes(NamedTuple):
    r"""The spectrum that one-pass SGD meets at finite $N$: $L = \mathrm{Re} \sum_j W_j A_j$, as in `ModeBins`."""

    z: Complex[Array, " nodes"]
    weights: Complex[Array, " nodes"]
    teacher_power: Complex[Array, " nodes"]


def contour_nodes(steps: int, tolerance: float = 1e-8) -> int:
    """How many nodes, both halves counted, reach a relative `tolerance` of the first loss; always even."""
    return 2 * math.ceil(_NODES_PER_DIGIT / 2 * math.log(2 * max(steps, 8)) * math.log(1 / tolerance))


def training_horizon(drive: Drive) -> Float[Array, ""]:
    r"""How far a constant unit force would carry a parameter: $\sum_t \eta_t$ without momentum."""

    def step(state, now):
        position, velocity = state
        velocity = now.beta * velocity + 1
        return (position + now.e1 + now.e2 * velocity, velocity), None

    (position, _), _ = jax.lax.scan(step, (jnp.zeros_like(drive.e2[0]), jnp.zeros_like(drive.e2[0])), drive)
    return position


def log_graded_contour(edge: Float[Array, ""], horizon: Float[Array, ""], nodes: int) -> Contour:
    r"""An ellipse in $\log(z + \delta)$, $\delta = 4/\tau$, around $[0, \mathrm{edge}]$ with $\tau$ the `horizon`.

    Its nodes are spread evenly over the decades between $1/\tau$ and the edge, so one set resolves all times up to
    the horizon; it passes the origin at $-0.78\,\delta$, where $|p_t| < e^{0.78 \cdot 4} = 22$. The integral does not
    depend on the contour, hence no derivative passes through it.
    """
    # a training of no length has no scale of its own
    delta = _OFFSET / jnp.maximum(horizon, 1 / edge)
    low, high = jnp.log(delta) - _MARGIN_LEFT, jnp.log(edge + delta) + _MARGIN_RIGHT
    theta = 2 * np.pi * (np.arange(nodes // 2) + 0.5) / nodes
    zeta = (low + high) / 2 + (high - low) / 2 * np.cos(theta) + 1j * _ASPECT * np.sin(theta)
    velocity = (1j * _ASPECT * np.cos(theta) - (high - low) / 2 * np.sin(theta)) / (1j * nodes)
    return jax.lax.stop_gradient(Contour(jnp.exp(zeta) - delta, jnp.exp(zeta) * velocity))


def two_point_tables(
    bins: ModeBins,
    noise_power: Float[ArrayLike, ""],
    contour: Contour,
    inverse_features: Float[ArrayLike, ""],
    inverse_samples: Float[ArrayLike, ""],
    *,
    shared_features: bool = True,
    shared_samples: bool = True,
) -> Float[Array, "2 rows rows"]:
    r"""Quadratic forms of the test and of the train loss in the real vector $(\mathrm{Re}\,p, \mathrm{Im}\,p)$.

    $$L = \oint\!\!\oint \frac{dz\, dz'}{(2\pi i)^2}\, p(z)\, p(z')\, c(z, z')
    = 2\,\mathrm{Re} \sum_{ij} p_i \left(q_i q_j\, c(z_i, z_j)\, p_j + q_i \bar q_j\, c(z_i, \bar z_j)\, \bar p_j\right)$$

    over the upper half. They hold for every schedule within the contour's horizon; `rows` is twice the nodes.
    """
    sizes = inverse_features, inverse_samples
    z, q = contour
    scale = self_consistent_scale(bins, *sizes, -z)
    factor = sample_factor(bins, *sizes, -z, scale)
    couplings = inverse_features if shared_features else 0.0, inverse_samples if shared_samples else 0.0

    def table(conjugate):
        risk = two_point_risk(bins, noise_power, scale, conjugate(scale), *couplings)
        left, right = q / z, conjugate(q / z)
        test = left[:, None] * risk * right
        train = (left * factor)[:, None] * (risk + noise_power) * (right * conjugate(factor))
        return jnp.stack([test, train])

    same, mixed = table(lambda x: x), table(jnp.conj)
    off = jnp.imag(mixed - same)
    top = jnp.concatenate([jnp.real(mixed + same), off], -1)
    bottom = jnp.concatenate([jnp.swapaxes(off, -1, -2), jnp.real(mixed - same)], -1)
    return 2 * jnp.concatenate([top, bottom], -2)


def two_point_losses(tables: Float[Array, "2 rows rows"], z: Complex[Array, " nodes"], drive: Drive) -> TwoPointLoss:
    r"""Losses of one schedule: $p_t(z)$ by $q' = \beta q + z p$, $p' = p - e_1 z p - e_2 q'$, then the quadratic forms.

    Time is $O(\mathrm{steps} \times \mathrm{nodes}^2)$; in reverse mode memory is $O(\sqrt{\mathrm{steps}})$ states.
    """

    def step(state, now):
        p, q = state
        q = now.beta * q + z * p
        return (p - now.e1 * z * p - now.e2 * q, q), p

    def record(p):
        rows = jnp.concatenate([p.real, p.imag], -1)
        losses = jnp.sum(jnp.matmul(rows, tables, precision=HIGHEST) * rows, -1)
        return losses.T, jnp.max(jnp.abs(jax.lax.stop_gradient(p)), -1)

    losses, sizes = _blocked(step, record, (jnp.ones_like(z), jnp.zeros_like(z)), drive)
    return TwoPointLoss(losses[:, 0], losses[:, 1], jnp.max(sizes))


def two_point_loss(
    bins: ModeBins,
    noise_power: Float[ArrayLike, ""],
    drive: Drive,
    inverse_features: Float[ArrayLike, ""],
    inverse_samples: Float[ArrayLike, ""],
    *,
    nodes: int | None = None,
    shared_features: bool = True,
    shared_samples: bool = True,
) -> TwoPointLoss:
    r"""Learning curves of full-batch gradient descent on $P$ samples with $N$ random features.

    $f = \theta \cdot x$, $\theta = A^T w / \sqrt N$ with frozen $A_{ij} \sim N(0, 1)$ and $w$ trained from zero on the
    half mean square of the residuals, for large $N$ and $P$ (relative error $O(1/N + 1/P)$). Equal to
    `feature_dynamics` with the matrix of the same optimiser, at a cost linear in the number of steps.

    **Arguments:**

    - `bins`: the spectrum and the teacher.
    - `noise_power`: $\sigma^2$, the variance of the label noise.
    - `drive`: $e_1, e_2, \beta$, each `[steps]`; there is no batch to be read from it.
    - `inverse_features`, `inverse_samples`: $1/N$, $1/P$; zero for infinitely many.
    - `nodes`: of the contour, both halves counted; 128 reach 1e-8 in 10,000 steps, see `contour_nodes`.
    - `shared_features`, `shared_samples`: whether two networks have them in common. `False` gives the correlation of
      the two in place of the loss of one, and an ensemble of $E$ has loss $L/E + (1 - 1/E) L_\times$. Without shared
      samples there is no common train loss; it is not a number.

    ??? cite

        Two-Point Deterministic Equivalence for Stochastic Gradient Dynamics in Linear Models (arXiv 2502.05074).
    """
    sizes = inverse_features, inverse_samples
    contour = log_graded_contour(
        spectral_edge(bins, *sizes), training_horizon(drive), nodes or contour_nodes(drive.e2.size)
    )
    tables = two_point_tables(
        bins, noise_power, contour, *sizes, shared_features=shared_features, shared_samples=shared_samples
    )
    losses = two_point_losses(tables, contour.z, drive)
    return losses if shared_samples else losses._replace(train=jnp.full_like(losses.test, jnp.nan))


def complex_modes(bins: ModeBins, contour: Contour, inverse_features: Float[ArrayLike, ""]) -> ComplexModes:
    r"""$N$ random features as modes at the nodes, at infinite $P$, where $-z = \kappa(1 - \mathrm{df}_1(\kappa)/N)$.

    The trace $m = -\mathrm{df}_1(\kappa)/z$ counts the modes of the feature covariance and
    $g = \tfrac1z \sum_k \lambda_k w_k^2 \kappa/(\lambda_k + \kappa)$ measures the target on them; the pole of $g$ at
    zero is what no feature can express. A mode has weight $2 q\, m z$ and teacher power $g / (m z)$.
    """
    z, q = contour
    scale = self_consistent_scale(bins, inverse_features, 0.0, -z)
    count = -degrees_of_freedom(bins, scale)
    return ComplexModes(z, 2 * q * count, unlearned_power(bins, scale) / (z * count))


def one_point_losses(modes: ComplexModes, noise_power: Float[ArrayLike, ""], drive: Drive) -> Float[Array, " times"]:
    r"""The recursion of `second_moment` on complex modes, coupled by the real loss $L = \mathrm{Re} \sum_j W_j A_j$."""
    z, weights, A = modes

    def loss(A):
        return jnp.sum(weights.real * A.real - weights.imag * A.imag, -1)

    def step(state, now):
        A, C, V = state
        e1, e2, beta, inverse_batch = now
        Q = z**2 * A + inverse_batch * z * (z * A + loss(A) + noise_power)
        V_next = beta**2 * V + 2 * beta * z * C + Q
        G = beta * C + z * A
        Z = beta * z * C + Q
        A_next = A - 2 * e1 * z * A - 2 * e2 * G + e1**2 * Q + 2 * e1 * e2 * Z + e2**2 * V_next
        return (A_next, G - e1 * Z - e2 * V_next, V_next), A

    return _blocked(step, loss, (A, jnp.zeros_like(z), jnp.zeros_like(z)), drive)


def one_point_loss(
    bins: ModeBins,
    noise_power: Float[ArrayLike, ""],
    drive: Drive,
    inverse_features: Float[ArrayLike, ""],
    *,
    nodes: int | None = None,
) -> Float[Array, " times"]:
    r"""Excess risk of one-pass SGD with $N$ random features, before each step and after the last.

    Without momentum $L = \mathrm{Re} \sum_j q_j [g\, a + m z\, b](z_j)$ over both halves, with

    $$a' = \left((1 - \eta z)^2 + \tfrac1B \eta^2 z^2\right) a, \qquad
    b' = \left((1 - \eta z)^2 + \tfrac1B \eta^2 z^2\right) b + \tfrac1B \eta^2 z\,(L + \sigma^2) .$$

    Exact in the noise of Gaussian batches; the features enter by their large-$N$ spectrum, relative error $O(1/N)$.
    At infinite $N$ it is `second_moment`.

    **Arguments:** as those of `two_point_loss`; `drive` has $e_1, e_2, \beta, 1/B$, each `[steps]`.

    ??? cite

        Two-Point Deterministic Equivalence for Stochastic Gradient Dynamics in Linear Models (arXiv 2502.05074).
    """
    edge = spectral_edge(bins, inverse_features, 0.0)
    contour = log_graded_contour(edge, training_horizon(drive), nodes or contour_nodes(drive.e2.size))
    return one_point_losses(complex_modes(bins, contour, inverse_features), noise_power, drive)


def _blocked(step: Callable[[Any, Any], tuple[Any, Any]], record: Callable[[Any], Any], state: Any, drive: Drive):
    """`record` of the outputs of `step`, at all `steps + 1` times, in blocks that reverse mode computes again.

    Steps without force fill the last block; the state after the true last step is the output of the first of them.
    """
    steps = drive.e2.size
    size = math.isqrt(steps) + 1
    count = steps // size + 1
    drive = jax.tree.map(lambda x: jnp.pad(x, (0, count * size - steps)).reshape(count, size), drive)

    @partial(jax.checkpoint, prevent_cse=False)
    def block(state, drive):
        state, outputs = jax.lax.scan(step, state, drive)
        return state, record(outputs)

    _, records = jax.lax.scan(block, state, drive)
    return jax.tree.map(lambda x: x.reshape(count * size, *x.shape[2:])[: steps + 1], records)
