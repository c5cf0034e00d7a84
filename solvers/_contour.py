r"""Training of random features in the frequency domain: any schedule is a polynomial on one contour of fixed nodes."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float

from ._blocked_scan import blocked_scan
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

_HEIGHT, _HEIGHT_SHARE = 0.7, 0.6  # of the ellipse, and of the way to where steps no longer contract
_OFFSET = 4.0  # the ellipse is logarithmic down to this many inverse horizons
_BEYOND_ZERO, _BEYOND_EDGE = 1.5, 0.15  # it passes the ends of the spectrum at these logarithmic distances
_EDGE_SHARE = 0.3  # of that way at the right end; measured
_NODES = 0.7  # measured, in units of log(2 steps) log(1 / tolerance)


class Contour(NamedTuple):
    r"""The upper half of a contour: $\oint f(z)\, dz / 2\pi i = 2\,\mathrm{Re} \sum_j q_j f(z_j)$ for real $f$.

    `error` estimates what the sum misses, relative to the losses: right to a digit where momentum limits the height,
    too large by up to three digits for rates near the stability edge. Its logarithm is proportional to the nodes.
    """

    z: Complex[Array, " nodes"]
    q: Complex[Array, " nodes"]
    error: Float[Array, ""]


class TwoPointLoss(NamedTuple):
    r"""Learning curves, before each step and after the last, without a factor of one half.

    - `test`: the excess risk.
    - `train`: the mean square residual on the training samples.
    - `monitor`: $\max |p_t(z_j)|$. Rounding is about `1e-16 * monitor**2` of the first loss; a schedule beyond the
      stability edge shows here first.
    - `error`: see `Contour`; it is large for rates so close to the stability edge that more `nodes` are needed.
    """

    test: Float[Array, " times"]
    train: Float[Array, " times"]
    monitor: Float[Array, ""]
    error: Float[Array, ""]


class OnePointLoss(NamedTuple):
    """The excess risk of one-pass SGD, before each step and after the last; `error` is that of the `Contour` and of
    rounding, times the square of the growth of the moments at its nodes: they cancel in the loss, which drives them."""

    test: Float[Array, " times"]
    error: Float[Array, ""]


class ComplexModes(NamedTuple):
    r"""The spectrum that one-pass SGD meets at finite $N$: $L = \mathrm{Re} \sum_j W_j A_j$, as in `ModeBins`."""

    z: Complex[Array, " nodes"]
    weights: Complex[Array, " nodes"]
    teacher_power: Complex[Array, " nodes"]


def contour_nodes(steps: int, tolerance: float = 1e-8) -> int:
    """How many nodes, both halves counted, reach a relative `tolerance` of the first loss; always even."""
    return 2 * math.ceil(_NODES / 2 * math.log(2 * max(steps, 1000)) * math.log(1 / tolerance))


def log_graded_contour(edge: Float[Array, ""], drive: Drive, nodes: int) -> Contour:
    r"""An ellipse in $\zeta = \log(z + \delta)$ around $[0, \mathrm{edge}]$, $\delta = 4/\tau$ with $\tau$ the horizon.

    Its nodes are spread evenly over the decades between $1/\tau$ and the edge, so one set resolves all times up to
    the horizon; it passes the origin at $-0.78\,\delta$, where $|p_t| < e^{0.78 \cdot 4} = 22$. The integral does not
    depend on the contour, hence no derivative passes through it.
    """
    edge, drive = jax.lax.stop_gradient((edge, drive))
    # a training of no length has no scale of its own
    delta = _OFFSET / jnp.maximum(_horizon(drive), 1 / edge)
    low = jnp.log(delta) - _BEYOND_ZERO

    # A step of rate r and momentum b contracts for r z in an ellipse around 1 + b of half axes 1 + b and 1 - b.
    # Elsewhere p grows, so that the contour has to pass between the spectrum and the border of this ellipse.
    momentum = drive.beta * drive.e2 / jnp.maximum(drive.e1 + drive.e2, jnp.finfo(edge.dtype).tiny)
    flatness = (1 - momentum) / (1 + momentum)
    room = jnp.clip(jnp.log(2 / edge) - jnp.log(drive.e1 + drive.e2 / (1 + drive.beta)), 0.07, 40.0)
    beyond = jnp.minimum(_EDGE_SHARE * jnp.min(room), _BEYOND_EDGE)
    half = (jnp.log(edge + delta) + beyond - low) / 2
    x = np.linspace(0, 1, 17)[1:]  # from the right end to the middle
    border = jax.lax.map(lambda x: jnp.min(flatness * jnp.sqrt(jnp.expm1(room - beyond + x * half))), jnp.asarray(x))
    border = jnp.min(border / np.sqrt(x * (2 - x)))
    height = jnp.minimum(_HEIGHT, _HEIGHT_SHARE * border)

    theta = 2 * np.pi * (np.arange(nodes // 2) + 0.5) / nodes
    zeta = low + half * (1 + np.cos(theta)) + 1j * height * np.sin(theta)
    velocity = (1j * height * np.cos(theta) - half * np.sin(theta)) / (1j * nodes)

    # the sum converges like exp(-nodes * strip): the strip of theta around the contour without singularity or growth
    inside = height - jnp.sqrt(jnp.maximum(height**2 - 2 * half * beyond, 0.0))
    outside = jnp.sqrt(height**2 + 2 * half * (jnp.min(room) - beyond)) - height
    strip = jnp.min(jnp.stack([inside, outside, height, border - height])) / half
    return Contour(jnp.exp(zeta) - delta, jnp.exp(zeta) * velocity, jnp.exp(-nodes * strip))


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

    $$L = \oint\!\!\oint \frac{dz\, dz'}{(2\pi i)^2}\, p(z)\, p(z')\, c(z, z') = 2\,\mathrm{Re} \sum_{ij}
    q_i p_i \left(c(z_i, z_j)\, q_j p_j + c(z_i, \bar z_j)\, \bar q_j \bar p_j\right)$$

    over the upper half. They hold for every schedule within the contour's horizon; `rows` is twice the nodes.
    """
    sizes = inverse_features, inverse_samples
    z, q, _ = contour
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
    return 2 * jnp.block([[jnp.real(mixed + same), off], [jnp.swapaxes(off, -1, -2), jnp.real(mixed - same)]])


def two_point_losses(tables: Float[Array, "2 rows rows"], contour: Contour, drive: Drive) -> TwoPointLoss:
    r"""Losses of one schedule: $p_t(z)$ by $q' = \beta q + z p$, $p' = p - e_1 z p - e_2 q'$, then the quadratic forms.

    Time is $O(\mathrm{steps} \times \mathrm{nodes}^2)$; in reverse mode memory is $O(\sqrt{\mathrm{steps}})$ states.
    """

    z = contour.z

    def step(state, now):
        p, q = state
        q = now.beta * q + z * p
        return (p - now.e1 * z * p - now.e2 * q, q), p

    def record(p):
        rows = jnp.concatenate([p.real, p.imag], -1)
        return jnp.sum(jnp.matmul(rows, tables, precision=HIGHEST) * rows, -1).T, jnp.max(
            jnp.abs(jax.lax.stop_gradient(p)), -1
        )

    losses, sizes = blocked_scan(step, record, (jnp.ones_like(z), jnp.zeros_like(z)), drive)
    return TwoPointLoss(losses[:, 0], losses[:, 1], jnp.max(sizes), contour.error)


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

    $f = \theta \cdot x$, $\theta = A^T w / \sqrt N$ with frozen $A_{ij} \sim N(0, 1)$ and $w$ trained from zero on half
    the mean square, up to $O(1/N + 1/P)$. Equal to `feature_dynamics` at a cost linear in the number of steps.

    **Arguments:**

    - `bins`, `noise_power`: the spectrum and the teacher; $\sigma^2$ of the labels.
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
    contour = log_graded_contour(spectral_edge(bins, *sizes), drive, nodes or contour_nodes(drive.e2.size))
    tables = two_point_tables(
        bins, noise_power, contour, *sizes, shared_features=shared_features, shared_samples=shared_samples
    )
    losses = two_point_losses(tables, contour, drive)
    return losses if shared_samples else losses._replace(train=jnp.full_like(losses.test, jnp.nan))


def complex_modes(bins: ModeBins, contour: Contour, inverse_features: Float[ArrayLike, ""]) -> ComplexModes:
    r"""$N$ random features as modes at the nodes, at infinite $P$, where $-z = \kappa(1 - \mathrm{df}_1(\kappa)/N)$.

    The trace $m = -\mathrm{df}_1(\kappa)/z$ counts the modes of the feature covariance and
    $g = \tfrac1z \sum_k \lambda_k w_k^2 \kappa/(\lambda_k + \kappa)$ measures the target on them; the pole of $g$ at
    zero is what no feature can express. A mode has weight $2 q\, m z$ and teacher power $g / (m z)$.
    """
    z, q, _ = contour
    scale = self_consistent_scale(bins, inverse_features, 0.0, -z)
    count = -degrees_of_freedom(bins, scale)
    return ComplexModes(z, 2 * q * count, unlearned_power(bins, scale) / (z * count))


def one_point_losses(
    modes: ComplexModes, noise_power: Float[ArrayLike, ""], drive: Drive
) -> tuple[Float[Array, " times"], Float[Array, " times"]]:
    r"""The recursion of `second_moment` on complex modes, which share the loss $L = \mathrm{Re} \sum_j W_j A_j$, and
    the largest $|W_j A_j|$."""
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

    def record(A):
        return loss(A), jnp.max(jnp.abs(weights * A), -1)

    return blocked_scan(step, record, (A, jnp.zeros_like(z), jnp.zeros_like(z)), drive)


def one_point_loss(
    bins: ModeBins,
    noise_power: Float[ArrayLike, ""],
    drive: Drive,
    inverse_features: Float[ArrayLike, ""],
    *,
    nodes: int | None = None,
) -> OnePointLoss:
    r"""Excess risk of one-pass SGD with $N$ random features, before each step and after the last.

    Without momentum $L = \mathrm{Re} \sum_j q_j [g\, a + m z\, b](z_j)$ over both halves, with

    $$a' = \left((1 - \eta z)^2 + \tfrac1B \eta^2 z^2\right) a, \qquad
    b' = \left((1 - \eta z)^2 + \tfrac1B \eta^2 z^2\right) b + \tfrac1B \eta^2 z\,(L + \sigma^2) .$$

    Exact in the noise of Gaussian batches; relative error $O(1/N)$ from the features, none at infinite $N$, where it
    is `second_moment`.

    **Arguments:** as those of `two_point_loss`; `drive` has $e_1, e_2, \beta, 1/B$, each `[steps]`.

    Source: that of `two_point_loss`.
    """
    edge = spectral_edge(bins, inverse_features, 0.0)
    contour = log_graded_contour(edge, drive, nodes or contour_nodes(drive.e2.size))
    modes = complex_modes(bins, contour, inverse_features)
    losses, largest = one_point_losses(modes, noise_power, drive)
    growth = jnp.maximum(jnp.max(largest) / largest[0], 1.0)
    return OnePointLoss(losses, (contour.error + 1e-16) * growth**2)


def _horizon(drive: Drive) -> Float[Array, ""]:
    """How far a constant unit force would carry a parameter."""

    def step(state, now):
        position, velocity = state
        velocity = now.beta * velocity + 1
        return (position + now.e1 + now.e2 * velocity, velocity), None

    nothing = jnp.zeros_like(drive.e2[0])
    return jax.lax.scan(step, (nothing, nothing), drive)[0][0]
