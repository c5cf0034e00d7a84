"""Units with a quadratic activation under full-batch descent: the moments of their weights, exactly at every width."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._blocked_scan import blocked_scan
from ._precision import HIGHEST
from ._sample_moments import Samples


class UnitMoments(NamedTuple):
    """Averages over the units of their weights $w$ and of $ww^T$."""

    mean: Float[Array, " dim"]
    second: Float[Array, "dim dim"]


class DescentDrive(NamedTuple):
    r"""What the optimiser does at each step: $v' = \beta v + F(w) - \lambda w$, $w' = w + \eta v'$."""

    rate: Float[Array, " steps"]
    beta: Float[Array, " steps"]
    decay: Float[Array, " steps"]


def quadratic_moments(
    train: Samples,
    start: UnitMoments,
    drive: DescentDrive,
    output_scale: Float[Array, ""],
    curvature: Float[Array, ""],
    observe: Callable[[UnitMoments], Any],
    *,
    momentum: bool = True,
    static_kernel: bool = False,
) -> tuple[Float[Array, " times"], Any]:
    r"""Half the mean squared residual, and what `observe` sees, before each step and after the last.

    The outputs are $f = \frac\alpha N\sum_i\big(w_i\cdot x + \frac\epsilon2(w_i\cdot x)^2\big)$. With residuals
    $e = y - f$ every unit feels the same affine force

    $$F(w) = a + Gw, \quad a = \frac1{\alpha P}\sum_\mu e_\mu x_\mu, \quad
      G = \frac\epsilon{\alpha P}\sum_\mu e_\mu x_\mu x_\mu^T,$$

    and the residuals need $\bar w$ and $M = \overline{ww^T}$ only, so that these close, with momentum together with
    $\bar v$, $\overline{wv^T}$ and $\overline{vv^T}$. A step costs $O(PD^2 + D^3)$.

    **Arguments:**

    - `train`: the samples.
    - `start`: moments of the initial weights; momentum starts from rest.
    - `drive`: the schedules, each `[steps]`.
    - `output_scale`, `curvature`: $\alpha$ and $\epsilon$.
    - `observe`: what to record of the moments, one time at a time.
    - `momentum`: `False` promises $\beta = 0$ everywhere.
    - `static_kernel`: keeps the tangent kernel of the start, for which the moments move at first order only; without
      decay.

    ??? cite

        *Grokking as the Transition from Lazy to Rich Training Dynamics* (arXiv 2310.06110).
    """
    x, y = train
    count, dim = x.shape
    identity = jnp.eye(dim, dtype=x.dtype)

    def force(moments, decay):
        """Residuals, a and G."""
        residual = y - quadratic_output(x, moments, output_scale, curvature)
        scaled = residual / (output_scale * count)
        turn = curvature * _matmul(x.T * scaled, x) - decay * identity
        return residual, _matmul(scaled, x), turn

    def exact(moments, past, a, G, now):
        m, M = moments
        mean_force = a + _matmul(G, m)
        wv = _matmul(M, G) + jnp.outer(m, a)  # E w F^T
        vv = _matmul(G, wv) + jnp.outer(a, mean_force)  # E F F^T
        mean_v = mean_force
        if momentum:
            mean_old, C, V = past
            vF = _matmul(C.T, G) + jnp.outer(mean_old, a)
            wv = now.beta * C + wv  # E w v'^T
            vv = now.beta**2 * V + now.beta * (vF + vF.T) + vv
            mean_v = now.beta * mean_old + mean_force
            past = mean_v, wv + now.rate * vv, vv
        M = M + now.rate * (wv + wv.T) + now.rate**2 * vv
        return UnitMoments(m + now.rate * mean_v, _symmetric(M)), past

    def linearised(moments, past, a, G, now):
        turned = _matmul(start.second, G) + jnp.outer(start.mean, a)
        gradient = UnitMoments(a + _matmul(G, start.mean), turned + turned.T)
        past = jax.tree.map(lambda v, g: now.beta * v + g, past, gradient)
        return jax.tree.map(lambda w, v: w + now.rate * v, moments, past), past

    def step(state, now):
        moments, past = state
        residual, a, G = force(moments, now.decay)
        state = (linearised if static_kernel else exact)(moments, past, a, G, now)
        return state, (moments, jnp.mean(residual**2) / 2)

    def record(outputs):
        moments, loss = outputs
        return loss, jax.lax.map(observe, moments)

    rest = jax.tree.map(jnp.zeros_like, start)
    past = rest if static_kernel else (*rest, rest.second) if momentum else None
    return blocked_scan(step, record, (start, past), drive)


def quadratic_output(x, moments: UnitMoments, output_scale, curvature):
    """The outputs `[samples]` for inputs `[samples, dim]`."""
    square = jnp.sum(_matmul(x, moments.second) * x, -1)
    return output_scale * (_matmul(x, moments.mean) + curvature / 2 * square)


def quadratic_kernel(x, other, moments: UnitMoments, curvature):
    r"""The tangent kernel times $N/\alpha^2$, $x\cdot x'\,(1 + \epsilon\,\bar w\cdot(x + x') + \epsilon^2x^TMx')$."""
    left, right = _matmul(x, moments.mean), _matmul(other, moments.mean)
    bent = _matmul(_matmul(x, moments.second), other.T)
    return _matmul(x, other.T) * (1 + curvature * (left[:, None] + right) + curvature**2 * bent)


def _matmul(a, b):
    return jnp.matmul(a, b, precision=HIGHEST)


def _symmetric(a):
    return (a + a.T) / 2
