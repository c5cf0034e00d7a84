"""Minibatch SGD on a fixed set of samples, exactly: the moments of the weights over the choice of batches."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._blocked_scan import blocked_scan
from ._precision import HIGHEST


class SampleDrive(NamedTuple):
    r"""What the optimiser does at each step: $v' = \beta v + g + \lambda\theta$, $\theta' = \theta - e_1 (g +
    \lambda\theta) - e_2 v'$; `batch_noise` is $1/B$ with replacement, $(P-B)/(B(P-1))$ without."""

    e1: Float[Array, " steps"]
    e2: Float[Array, " steps"]
    beta: Float[Array, " steps"]
    decay: Float[Array, " steps"]
    batch_noise: Float[Array, " steps"]


class Samples(NamedTuple):
    """Features and targets."""

    x: Float[Array, "samples features"]
    y: Float[Array, " samples"]


def sample_moments(
    train: Samples,
    test: Samples | None,
    reference: Float[Array, " features"],
    drive: SampleDrive,
    *,
    momentum: bool = True,
) -> tuple[Float[Array, " times"], Float[Array, " times"] | None]:
    r"""Mean squared residuals on the samples and on a test set, before each step and after the last.

    The linear model $\theta\cdot x$ starts at $\theta = 0$ and sees, at each step, $B$ of the $P$ samples. With
    $S = X^TX/P$, the mean gradient $\bar g = S\theta - X^Ty/P$ and $\Delta_\mu = \theta\cdot x_\mu - y_\mu$,

    $$E\, g g^T = E\, \bar g \bar g^T + n \Big(\tfrac1P \sum_\mu E\Delta_\mu^2\, x_\mu x_\mu^T - E\bar g\bar g^T\Big),$$

    with $n$ the `batch_noise`, so that $E\theta$, $E\theta\theta^T$ and, with momentum, $E\theta v^T$, $E v v^T$ and
    $Ev$ close, for any features and any targets. A step costs $O(P M^2 + M^3)$ for $M$ features.

    **Arguments:**

    - `train`, `test`: the samples that are drawn from, and others.
    - `reference`: weights from which moments are counted. The result does not depend on it; near the end of training
      rounding does, and the least-squares solution is best.
    - `drive`: the schedules, each `[steps]`.
    - `momentum`: `False` promises $\beta = 0$ everywhere; then the moments of $\theta$ alone are carried.

    ??? cite

        *Learning Curves for SGD on Structured Features* (arXiv 2106.02713).
    """
    x, y = train
    count, size = x.shape
    S = _matmul(x.T, x) / count
    residual = y - _matmul(x, reference)
    force = _matmul(x.T, residual) / count

    def squares(samples: Samples, A, m):
        """Expected squared residuals, sample by sample; `A` and `m` may have a leading axis time."""
        left = samples.y - _matmul(samples.x, reference)
        quadratic = jnp.sum(_matmul(samples.x, A) * samples.x, -1)
        return quadratic - 2 * left * _matmul(m, samples.x.T) + left**2

    def gradients(A, m, now):
        """E u g^T, E g g^T and E g, weight decay included; `u` counts from the reference."""
        S_now = S + now.decay * jnp.eye(size, dtype=S.dtype)
        h = force - now.decay * reference
        ug = _matmul(A, S_now) - jnp.outer(m, h)
        gg = _matmul(S_now, ug) - jnp.outer(h, _matmul(S_now, m) - h)
        plain = _matmul(S, _matmul(A, S) - jnp.outer(m, force)) - jnp.outer(force, _matmul(S, m) - force)
        choice = _matmul(x.T * squares(train, A, m), x) / count - plain
        return ug, gg + now.batch_noise * choice, _matmul(S_now, m) - h, S_now, h

    def plain_step(state, now):
        A, m = state
        ug, gg, g, _, _ = gradients(A, m, now)
        e = now.e1 + now.e2
        return (_symmetric(A - 2 * e * ug + e**2 * gg), m - e * g), (A, m)

    def momentum_step(state, now):
        A, C, V, m, m_v = state
        e1, e2, beta = now.e1, now.e2, now.beta
        ug, gg, g, S_now, h = gradients(A, m, now)
        vg = _matmul(C.T, S_now) - jnp.outer(m_v, h)
        uv = beta * C + ug  # E u v'
        gv = beta * vg.T + gg  # E g v'
        V_next = _symmetric(beta**2 * V + 2 * beta * vg + gg)
        A_next = A - 2 * e1 * ug - 2 * e2 * uv + e1**2 * gg + 2 * e1 * e2 * gv + e2**2 * V_next
        m_v_next = beta * m_v + g
        state = _symmetric(A_next), uv - e1 * gv - e2 * V_next, V_next, m - e1 * g - e2 * m_v_next, m_v_next
        return state, (A, m)

    def record(moments):
        sides = (train,) if test is None else (train, test)
        return [jnp.mean(squares(side, *moments), -1) for side in sides]

    A, m = jnp.outer(reference, reference), -reference
    if momentum:
        nothing = jnp.zeros_like(A)
        losses = blocked_scan(momentum_step, record, (A, nothing, nothing, m, jnp.zeros_like(m)), drive)
    else:
        losses = blocked_scan(plain_step, record, (A, m), drive)
    return losses[0], None if test is None else losses[1]


def _matmul(a, b):
    return jnp.matmul(a, b, precision=HIGHEST)


def _symmetric(a):
    return (a + a.T) / 2
