r"""Gradient flow of a linear model whose features move: one scalar on every mode, and one number that couples them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Inexact

from ._flow_contour import flow_modes
from ._mode_bins import ModeBins
from ._precision import HIGHEST

STEPS = 512  # of the integrator, evenly in the logarithm of time; measured: 1e-9 over ten decades

_SWEEPS = 3  # of Newton's method for the coupling inside of a step, before the one that is differentiated
_SMALLEST, _SMALLEST_ON_CONTOUR = 1e-26, 1e-9  # losses over the first below which only the absolute error counts
_FIRST = 0.1  # the first step over the shortest time of the flow
_MARGIN = 2.0  # by which a contour reaches further than the clock of infinitely many features
_DEGREE, _SERIES, _SMALL = 3, 9, 0.25

# The coupling is a polynomial on every step, known at the four points of Lobatto.
_POINTS = np.array([0.0, 0.5 - np.sqrt(0.05), 0.5 + np.sqrt(0.05), 1.0])
_INTERPOLATION = np.linalg.inv(np.vander(_POINTS, increasing=True))
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(4)


class FeatureLearning(NamedTuple):
    r"""What the flow does at the given times, all `[times]`.

    - `loss`: the excess risk, without a factor of one half.
    - `scale`: $a = 1 + \gamma |w|^2$, the growth of the tangent kernel.
    - `square`: $|\theta|^2$ in the space of the features.
    - `clock`: $\tau = \int a\,dt$; lazy features would need this time.
    - `error`: relative error of the loss: of the integrator, of the contour, and of rounding on it; where a loss is
      below 1e-26 of the first, on a contour 1e-9, relative to that.
    """

    loss: Float[Array, " times"]
    scale: Float[Array, " times"]
    square: Float[Array, " times"]
    clock: Float[Array, " times"]
    error: Float[Array, " times"]


def learned_features(
    bins: ModeBins,
    richness: Float[Array, ""],
    times: Float[Array, " times"],
    inverse_features: Float[ArrayLike, ""] | None = None,
    *,
    steps: int = STEPS,
    nodes: int = 320,
) -> FeatureLearning:
    r"""Gradient flow of $f = w^TW_1Ax/\sqrt N$ in $w$ and $W_1$, from $0$ and $1$, $A$ frozen, on the population.

    With $K = A\Lambda A^T/N$, $\theta = W_1^Tw$, its optimum $\theta_\star$ and $g = K(\theta_\star - \theta)$,
    $\dot w = W_1g$ and $\dot W_1 = \gamma wg^T$ keep $W_1W_1^T - \gamma ww^T = 1$. So $a = 1 + \gamma|w|^2$ is the
    eigenvalue of $W_1^TW_1$ along $\theta$, all others are one, $\phi = \theta/\sqrt a$ has the length of $w$, and

    $$\dot\phi = \sqrt a\,g, \qquad \frac{d\phi}{d\tau} = K\left(c\,\theta_\star - \phi\right), \quad d\tau = a\,dt,
    \quad c = a^{-1/2} = (1 + \gamma|\phi|^2)^{-1/2}.$$

    Hence $\phi = \psi_\tau(K)\,\theta_\star$ with $\psi_\tau(z) = z\int_0^\tau e^{-z(\tau - s)}c(s)\,ds$: linear modes
    that see one another through $c$ only. $L = \sum_j\mu_j(1 - \psi_j/c)^2$ and
    $|w|^2 = \sum_j\mu_j\psi_j^2/z_j$ over the bins of the spectrum, or, for $N$ random features, over the nodes of a
    contour with $\mu = g\,dz/2\pi i$ (see `flow_modes`; relative error $O(1/N)$, from the features).

    The steps are exact in the modes, whatever their rates, and of high order in $c$: it is a polynomial of degree three
    on each. The steps are even in $\log(t + t_0)$. The error of the integrator is the difference from twice as long
    steps, many times larger than what is left.

    **Arguments:**

    - `bins`, `richness`: the spectrum and the teacher; $\gamma$.
    - `times`: increasing.
    - `inverse_features`: $1/N$; `None` for the modes themselves.
    - `steps`: of the integrator, an even number.
    - `nodes`: of the contour, both halves counted.

    ??? cite

        How Feature Learning Can Improve Neural Scaling Laws (arXiv 2409.17858).
    """
    spectrum, floor, missing = (bins.eigenvalues, bins.weights * bins.teacher_power), 0.0, 0.0
    if inverse_features is not None:
        horizon = _MARGIN * _horizon(spectrum, richness, times[-1])
        *spectrum, floor, missing = flow_modes(bins, inverse_features, horizon, nodes)
    # one after the other in one loop: two of them would compile for twice as long
    count = jnp.asarray([[steps - 1], [steps // 2 - 1]], times.dtype) - np.arange(steps)
    found = jax.lax.map(lambda left: _solve(spectrum, richness, times, left), jnp.maximum(count, 1))
    fine, coarse = jax.tree.map(lambda x: x[0], found), jax.tree.map(lambda x: x[1], found)
    loss, difference = fine.loss + floor, fine.loss - coarse.loss
    first = jnp.real(jnp.sum(spectrum[1]))
    beyond = 0.0 if inverse_features is None else (missing + 1e-16 * fine.error**2) * first
    resolved = (_SMALLEST if inverse_features is None else _SMALLEST_ON_CONTOUR) * first
    error = (jnp.abs(difference) + beyond) / jnp.maximum(jnp.abs(loss), resolved)
    return fine._replace(loss=loss, error=jax.lax.stop_gradient(error))


class _Step(NamedTuple):
    """A step of the integrator: the modes, the clock and the time at its start, its length on the clock, and $c$."""

    psi: Any
    rest: Any
    clock: Any
    time: Any
    length: Any
    coupling: Any


def _solve(spectrum, richness, times, remaining) -> FeatureLearning:
    """The flow with as many steps as `remaining` has entries; the n-th is one of `remaining[n]` that are still to come.
    Its `error` is the largest size of $1 - \\psi/c$."""
    z, mu = spectrum
    points, interpolation = (jnp.asarray(a, times.dtype) for a in (_POINTS[1:], _INTERPOLATION))
    first, final = jax.lax.stop_gradient((_first_time(spectrum, richness), times[-1]))
    final = jnp.maximum(final, first)

    def interpolate(now, values):
        # of the differences, so that a constant has no slope
        moved = jnp.matmul(interpolation[:, 1:], values - now, precision=HIGHEST)
        return jnp.concatenate([now[None], moved[1:]])

    def advance(start, length, coupling, part):
        """The modes when a step is done in `part`, and how $\\psi$ depends on the coefficients of $c$."""
        x = z * length * part
        moments, powers = _moments(x), part ** jnp.arange(_DEGREE + 1)
        slopes = x * jnp.stack(moments) * powers[:, None]
        decay = jnp.exp(-x)
        psi = decay * start[0] + jnp.sum(coupling[:, None] * slopes, 0)
        # what is left, not as a difference, which would have no digits
        moved = (k * coupling[k] * powers[k] * moments[k - 1] for k in range(1, _DEGREE + 1))
        return psi, decay * start[1] + sum(moved), slopes

    def step(carry, left):
        start, clock, time, now = carry
        sooner = jax.lax.stop_gradient(time) + first
        duration = sooner * jnp.expm1(jnp.log1p(jnp.maximum(final + first - sooner, 1e-9 * final) / sooner) / left)
        length = duration / jax.lax.stop_gradient(now) ** 2

        def newton(_, state):
            """One step of Newton's method for $c$ at the later points; its matrix needs no derivative of its own."""
            values, _ = state
            coupling = interpolate(now, values)
            psi, rest, slopes = jax.vmap(lambda part: advance(start, length, coupling, part))(points)
            scale = 1 + richness * jnp.sum(jnp.real(mu / z * psi**2), -1)
            response = 2 * jnp.sum(jnp.real(mu / z * psi[:, None] * slopes), -1)
            response = jnp.matmul(response, interpolation[:, 1:], precision=HIGHEST)
            matrix = jnp.eye(_DEGREE, dtype=times.dtype) + (richness * scale**-1.5 / 2)[:, None] * response
            change = jnp.linalg.solve(jax.lax.stop_gradient(matrix), scale**-0.5 - values)
            # the modes are linear in c
            gained = jnp.sum(jnp.matmul(interpolation[:, 1:], change, precision=HIGHEST)[:, None] * slopes[-1], 0)
            return values + change, (psi[-1] + gained, rest[-1] + change[-1] - gained)

        state = jnp.full_like(points, now), start
        state = newton(0, jax.lax.stop_gradient(jax.lax.fori_loop(0, _SWEEPS, newton, jax.lax.stop_gradient(state))))
        values, end = state
        coupling = interpolate(now, values)
        after = end, clock + length, time + length * _elapsed(coupling, 1.0), values[-1]
        return after, _Step(start[0], start[1], clock, time, length, coupling)

    one = jnp.ones((), times.dtype)
    start: Any = (jnp.zeros_like(z), jnp.ones_like(z)), 0 * one, 0 * one, one
    _, taken = jax.lax.scan(jax.checkpoint(step), start, remaining)

    def read(time):
        at = jnp.clip(jnp.searchsorted(taken.time, time, side="right") - 1, 0)
        now: Any = jax.tree.map(lambda x: x[at], taken)
        part = (time - now.time) / (now.length * now.coupling[0] ** 2)
        for _ in range(4):
            missing = now.length * _elapsed(now.coupling, part) - (time - now.time)
            part = part - missing / (now.length * _polynomial(now.coupling, part) ** 2)
        psi, rest, _ = advance((now.psi, now.rest), now.length, now.coupling, part)
        c = _polynomial(now.coupling, part)
        power = jnp.sum(jnp.real(mu / z * psi**2))
        loss = jnp.sum(jnp.real(mu * (rest / c) ** 2))
        scale = 1 + richness * power
        size = jnp.max(jnp.abs(rest / c))
        return FeatureLearning(loss, scale, power * scale, now.clock + part * now.length, size)

    return jax.vmap(read)(times)


def _first_time(spectrum, richness):
    """A part of the shortest time of the flow, in which nothing changes."""
    z, mu = spectrum
    # the kernel begins to grow after (gamma |K theta*|^2)^(-1/2)
    growth = jnp.sqrt(jnp.abs(richness * jnp.sum(jnp.real(mu * z))))
    return _FIRST / jnp.maximum(jnp.max(jnp.abs(z)), growth)


def _horizon(spectrum, richness, end):
    """The clock at the time `end`, to a factor of two, as if $|\\theta|$ there were the one of lazy features."""
    z, mu = spectrum
    # a < 1 + sqrt(gamma) |theta| and |theta|^2 < tau sum(mu)
    most = 4 * end * (1 + richness * jnp.sum(mu) * end)
    first = _first_time(spectrum, richness)
    clock = first * jnp.expm1(jnp.linspace(0, 1, 400) * jnp.log1p(most / first))
    square = jnp.sum(mu / z * jnp.expm1(-clock[:, None] * z) ** 2, -1)
    scale = (1 + jnp.sqrt(1 + 4 * richness * square)) / 2
    time = jnp.cumsum(jnp.diff(clock) * (1 / scale[1:] + 1 / scale[:-1]) / 2)
    return jax.lax.stop_gradient(jnp.interp(end, time, clock[1:]))


def _elapsed(coupling, part):
    """Time over length on the clock, $\\int_0^{part} c^2$."""
    nodes, weights = (jnp.asarray(a, coupling.dtype) for a in ((_NODES + 1) / 2, _NODE_WEIGHTS / 2))
    return part * jnp.sum(weights * _polynomial(coupling, part * nodes) ** 2)


def _polynomial(coefficients, x):
    value = coefficients[-1]
    for k in range(_DEGREE - 1, -1, -1):
        value = value * x + coefficients[k]
    return value


def _moments(x: Inexact[Array, " modes"]) -> list[Any]:
    r"""$\int_0^1 e^{-x(1-u)}u^k\,du$, $k = 0 \dots 3$; recursions in their stable directions."""
    small = jnp.abs(x) < _SMALL
    near, far = jnp.where(small, x, 0.0), jnp.where(small, 1.0, x)
    last = _DEGREE
    term = top = jnp.full_like(near, 1 / (last + 1))
    for m in range(1, _SERIES):
        term = -near * term / (last + 1 + m)
        top = top + term
    down, up = [top], [(1 - jnp.exp(-far)) / far]
    for k in range(last, 0, -1):
        down.insert(0, (1 - near * down[0]) / k)
    for k in range(1, _DEGREE + 1):
        up.append((1 - k * up[-1]) / far)
    return [jnp.where(small, a, b) for a, b in zip(down, up, strict=True)]
