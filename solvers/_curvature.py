"""The top eigenvalue of a deep linear network's Gauss-Newton matrix along training, outlier and edge of the bulk."""

import math
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._deep_linear import DeepLinearHistory, DeepLinearInputs, symmetric
from ._linear_data import FreshData, dot
from ._precision import first_true


class Layer(NamedTuple):
    """Correlations and responses of one layer at the times of the spikes."""

    C_k: Any
    C_g: Any
    C_kg: Any
    K_zeta: Any
    R_k: Any
    R_g: Any
    G_psi: Any


class Inputs(NamedTuple):
    """The same of the input side, isotropic: errors v, gradients u, and the residuals of a finite sample."""

    C_u: Any
    R_u: Any
    C_v: Any
    C_uv: Any
    V_psi: Any
    V_noise: Any
    U_noise: Any
    R_residual: Any
    C_residual: Any


class Curvature(NamedTuple):
    r"""`eigenvalue` $\lambda_{\max}$ and `edge` of the bulk below it (the same where no outlier `exists`)."""

    eigenvalue: Float[Array, "*time"]
    edge: Float[Array, "*time"]
    exists: Bool[Array, "*time"]


class _Problem(NamedTuple):
    layers: tuple[Layer, ...]
    inputs: Inputs
    spikes: Float[Array, " time"]  # kappa
    gradients: Float[Array, " depth+1"]  # C_g^1(t, t) ... C_g^{L+1}(t, t) = 1
    inverse_width: Float[Array, ""]
    inverse_ratio: Float[Array, ""]
    q: Float[Array, ""]


def _traces(problem: _Problem, response):
    r"""$\lambda$ and the traces of the resolvent at each layer, from the response of the top forward field.

    With $\rho_l = \partial k'_l/\partial\psi'_l$ below and $\tau_l = \partial g'_l/\partial\zeta'_l$ above, the layers
    are coupled both ways; from the top down, however, every equation gives its next unknown, and the spectral
    parameter comes last. So nothing is iterated, and the edge is where $\lambda$ is stationary.
    """
    c, q = problem.gradients, problem.q
    traces, above = [], c[-1]  # above: c_l + q tau_{l+1}
    for l in reversed(range(1, len(problem.layers) + 1)):
        below = q * response
        determinant = 1 - below * above
        traces.append((below, above, determinant))
        if l > 1:
            tau = above / determinant
            above = c[l - 1] + q * tau
            response = response / (q * (1 + response * above))
    tau = above / determinant
    c1 = c[0] + q * tau
    free = problem.inverse_width / response
    d = free + c1 * problem.inverse_ratio
    sample = d / free  # trace of the data matrix, 1 for infinitely many samples
    return d + c1 * sample, (traces[::-1], c1, d, sample)


class _Probe(NamedTuple):
    """Correlations with, and responses to, the fields of training: of the probe's field k' below and g' above each
    weight matrix, and of its residual a'."""

    X: Float[Array, "depth time"]  # <k'_l k_l(s)>, l = 0..L-1
    S: Float[Array, "depth time"]  # dk'_l / dpsi_l(s)
    Y: Float[Array, "depth time"]  # <g'_l g_l(s)>, l = 1..L
    P: Float[Array, "depth time"]  # dg'_l / dzeta_l(s)
    A: Float[Array, " time"]  # da' / da(s)
    E: Float[Array, " time"]  # <a' Delta(s)>


def _passed(problem: _Problem, lam, traces, v: _Probe) -> _Probe:
    """The same quantities, after the probe went through the network once; linear in `v`."""
    q, kappa, data = problem.q, problem.spikes, problem.inputs
    layers, c1, d, sample = traces
    depth = len(problem.layers)
    up = [q * v.S[l] + kappa * v.X[l] for l in range(depth)]  # a_{l+1}
    down = [q * v.P[l] + kappa * v.Y[l] for l in range(depth)]  # b_l
    X, S, Y, P = [], [], [], []
    for l, (layer, (below, above, determinant)) in enumerate(zip(problem.layers, layers, strict=True)):
        C_k, C_g, C_kg, K_zeta, R_k, R_g, G_psi = layer
        nothing = jnp.zeros_like(up[l])
        a, x = up[l], v.X[l]
        b, y = (down[l + 1], v.Y[l + 1]) if l + 1 < depth else (nothing, nothing)
        k = q * dot(K_zeta, x) + dot(C_kg, a) + below * (q * dot(R_k, y) + dot(C_k, b))
        g = q * dot(G_psi, y) + dot(C_kg.T, b) + above * (q * dot(R_g, x) + dot(C_g, a))
        Y.append(g / determinant)
        P.append((dot(K_zeta.T, b) + above * dot(R_g.T, a)) / determinant)
        if l + 1 < depth:
            X.append(k / determinant)
            S.append((dot(G_psi.T, a) + below * dot(R_k.T, b)) / determinant)
    b, y, ratio = down[0], v.Y[0], problem.inverse_ratio
    seen = ratio * (dot(data.U_noise.T, b) + c1 * dot(data.V_noise.T, v.A)) / d
    A = sample * dot(data.R_residual.T, seen)
    response = (lam * dot(data.V_psi.T, v.A) + sample * dot(data.R_u.T, b)) / d
    errors = dot(data.C_uv.T, b) + q * dot(data.V_psi, y) + c1 * (ratio * dot(data.V_noise, v.E) + dot(data.C_v, v.A))
    E = sample * (dot(data.R_residual, errors / d) + dot(data.C_residual, seen))
    gradient = lam * (ratio * dot(data.U_noise, v.E) + dot(data.C_uv, v.A))
    gradient = (gradient + sample * (dot(data.C_u, b) + q * dot(data.R_u, y))) / d
    return _Probe(jnp.stack([gradient, *X]), jnp.stack([response, *S]), jnp.stack(Y), jnp.stack(P), A, E)


def _singular(problem: _Problem, log_response):
    """1 minus the matrix of `_passed`: singular where the spectral parameter is an outlier."""
    lam, traces = _traces(problem, jnp.exp(log_response))
    time, depth = len(problem.spikes), len(problem.layers)
    rows, one = jnp.zeros((depth, time)), jnp.zeros(time)
    start, unflatten = jax.flatten_util.ravel_pytree(_Probe(rows, rows, rows, rows, one, one))
    through = lambda v: jax.flatten_util.ravel_pytree(_passed(problem, lam, traces, unflatten(v)))[0]  # noqa: E731
    return jnp.eye(len(start)) - jax.vmap(jax.linearize(through, start)[1], out_axes=1)(jnp.eye(len(start)))


def _top(problem: _Problem) -> Curvature:
    import optimistix

    fixed = jax.lax.stop_gradient
    still = fixed(problem)
    lam = lambda problem, u: _traces(problem, jnp.exp(u))[0]  # noqa: E731
    bisection = optimistix.Bisection(rtol=1e-14, atol=1e-14)
    highest = -jnp.log(still.q)
    highest = jnp.where(jnp.isfinite(highest), highest, 0.0)
    lowest = highest - 20.0
    slope = jax.grad(lam, argnums=1)
    limits = {"lower": lowest, "upper": highest - 1e-9}
    # in a history that has diverged there is no edge
    bracketed = slope(still, limits["lower"]) * slope(still, limits["upper"]) < 0
    bend = lambda u, _: jnp.where(bracketed, slope(still, u), u - highest + 1.0)  # noqa: E731
    edge = optimistix.root_find(bend, bisection, highest - 1.0, options=limits, throw=False).value

    def determinant(u, _=None):
        S = _singular(still, u)
        sign, log = jnp.linalg.slogdet(S)
        return sign * jnp.exp(log / len(S))

    # inwards from far away, where the determinant is 1, the first change of sign is the largest eigenvalue; from small
    # weights it is many orders of magnitude above the bulk
    end = fixed(edge)
    is_inside = lambda k: (determinant(end - k * _SPAN) < 0) & (k < _SPANS)  # noqa: E731
    k = jax.lax.while_loop(is_inside, lambda k: k + 1, jnp.ones_like(end))
    grid = jnp.linspace(end - k * _SPAN, end - (k - 1) * _SPAN, _GRID)
    determinants = jax.lax.map(determinant, grid)
    beyond = determinants[0] < 0
    exists = jnp.any(determinants < 0) & jnp.all(jnp.isfinite(determinants)) & ~beyond
    first = jnp.maximum(first_true(determinants < 0), 1)
    limits = {"lower": grid[first - 1], "upper": grid[first]}
    middle = 0.5 * (limits["lower"] + limits["upper"])
    safe = lambda u, _: jnp.where(exists, determinant(u), u - middle)  # noqa: E731
    u = fixed(optimistix.root_find(safe, bisection, middle, options=limits, max_steps=64, throw=False).value)
    singular = _singular(still, u)
    left, _, right = jnp.linalg.svd(jnp.where(exists, singular, jnp.eye(len(singular))))
    form = lambda problem, u: dot(fixed(left[:, -1]), dot(_singular(problem, u), fixed(right[-1])))  # noqa: E731
    value, moved = jax.jvp(lambda u: form(still, u), (u,), (jnp.ones_like(u),))
    u = u - jnp.where(exists, form(problem, u) - value, 0.0) / jnp.where(exists, moved, 1.0)
    # the edge is stationary in its parameter, which needs no derivative
    bulk = jnp.where(bracketed, lam(problem, fixed(edge)), jnp.nan)
    without = jnp.where(beyond, jnp.nan, bulk)
    return Curvature(jnp.where(exists, lam(problem, u), without), bulk, exists)


_SPAN = math.log(1e3)
_SPANS = 6
_GRID = 96  # over a span: a twelfth of an e-fold each


def top_curvature(
    inputs: DeepLinearInputs, history: DeepLinearHistory, *, inverse_width: Float[Array, ""]
) -> Curvature:
    r"""The largest eigenvalue of $M\,A^TA/\alpha$ at every time, isotropic inputs, any depth.

    One step of training moves the error by $-\eta M (A^TA/\alpha)$ times the error, with

    $$M = C_g^1(t,t) + \frac1\nu \sum_{l=1}^L C_g^{l+1}(t,t)\, F_l^T F_l, \quad
      F_l = W^{l-1} \cdots W^0 D^{-1/2} N^{(1-l)/2}$$

    so that a constant rate is stable below $2/\lambda_{\max}$. The eigenvector is a static probe that passes through
    all the weights at once. It meets the random matrices again that training has met: for every layer the cavity
    method gives two traces, and four vectors over the times of the spikes (`_Probe`), two more for the sample.

    - The traces come from the top layer's response, from which everything else follows explicitly (`_traces`);
      $\lambda$ falls as this response grows, until it is stationary at the edge of the bulk. The edge is bracketed by
      responses of $e^{-20}/q$ and $1/q$ and bisected on the derivative.
    - The vectors satisfy a homogeneous linear system (`_passed`). Its determinant is 1 far away; the first change of
      sign on a grid over the factor of a thousand above the edge, or over the first one further out that begins with
      the right sign, is bisected. Two eigenvalues within one cell of the grid (8 % of $\lambda$) would be missed
      together; one more than 1e18 times above the edge, in training that diverges, is `nan`.
    - Derivatives are those of the singular form between its null vectors.

    Time is O(steps⁴ · depth³).

    **Arguments:**

    - `inputs`, `history`: what `deep_linear` was given, and gave. For fresh samples the matrix is that of the
      population. There must be no weight decay.
    - `inverse_width`: $1/\nu > 0$.

    ??? cite "Source"
        *Spectral Dynamics in Deep Networks: Feature Learning, Outlier Escape, and Learning Rate Transfer*, arXiv
        2605.07870.
    """
    richness = jnp.sqrt(inputs.richness_squared)
    q, depth, time = inputs.init_power, len(history.sites), len(inputs.decay)
    data = history.data
    fresh = isinstance(data, FreshData)
    units = richness * inputs.output_power  # of responses to psi^0
    C_g = [symmetric(site.C_g) for site in history.sites]
    C_k = [symmetric(data.C_u), *(symmetric(site.C_k) for site in history.sites)]
    zero, ones = jnp.zeros((time, time)), jnp.ones((time, time))
    layers = []
    for l, site in enumerate(history.sites):
        psi = q * C_g[l + 1] if l + 1 < depth else inputs.readout_power * ones
        C_kg = dot(site.K_zeta, q * dot(C_k[l], site.G_zeta.T)) + dot(site.K_psi, dot(psi, site.G_psi.T))
        R_k, R_g = richness * site.K_psi, richness * site.G_zeta
        layers.append(Layer(C_k[l + 1], C_g[l], richness * C_kg, site.K_zeta, R_k, R_g, site.G_psi))
    R_u = units * jnp.mean(data.U_psi, axis=1)
    if fresh:
        side = Inputs(C_k[0], R_u, zero, zero, zero, zero, zero, zero, zero)
        inverse_ratio = jnp.zeros(())
    else:
        inverse_ratio = inputs.inverse_ratio[0]
        C_residual = symmetric(data.C_residual)
        U_teacher, V_teacher = data.U_teacher[:, 0], data.V_teacher[:, 0]
        C_uv = (
            inputs.teacher_power[0] * jnp.outer(U_teacher, V_teacher)
            + inputs.output_power * q * dot(data.U_psi[:, 0], dot(C_g[0], data.V_psi[:, 0].T))
            + inverse_ratio * dot(data.U_noise[:, 0], dot(C_residual, data.V_noise[:, 0].T))
        )
        maps = units * data.V_psi[:, 0], data.V_noise[:, 0], data.U_noise[:, 0]
        V_psi, V_noise, U_noise = maps
        side = Inputs(C_k[0], R_u, symmetric(data.C_v), C_uv, V_psi, V_noise, U_noise, data.R_residual, C_residual)

    def at(t):
        past = (jnp.arange(time) < t).astype(q.dtype)
        layers_now, side_now = jax.tree.map(lambda matrix: past[:, None] * matrix * past, (tuple(layers), side))
        gradients = jnp.stack([*(C[t, t] for C in C_g), jnp.ones(())])
        spikes = richness * inputs.optimiser[t] * past
        return _top(_Problem(layers_now, side_now, spikes, gradients, inverse_width, inverse_ratio, q))

    return jax.lax.map(at, jnp.arange(time))
