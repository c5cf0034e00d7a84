"""Deep linear networks at width N: weight exp(N S) of all order parameters, and S to third order at its saddle."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ._linear_optimiser import linear_optimiser
from ._precision import HIGHEST


class LinearNetwork(NamedTuple):
    r"""Inputs `gram` $= xx^T/D$ on training samples, which come first, and test samples; `y` and `trained` are 0 on the
    latter. `biased` and `centred` are 1 or 0: whether there are biases, and whether predictions count from their start.
    """

    gram: Float[Array, "all all"]
    y: Float[Array, " all"]
    trained: Float[Array, " all"]
    learning_rate: Float[Array, " steps"]
    momentum: Float[Array, " steps"]
    weight_decay: Float[Array, " steps"]
    richness: Float[Array, ""]
    init_scale: Float[Array, " layers"]
    bias_scale: Float[Array, ""]
    rate_scale: Float[Array, " layers"]
    biased: Float[Array, ""]
    centred: Float[Array, ""]


class OrderParameters(NamedTuple):
    r"""Of layers 1..L, with a point standing for a time and a sample, and their conjugates.

    $H^l = \langle h^lh^l\rangle$; $G^l = \langle g^lg^l\rangle$, the same for all samples; responses
    $A^l = \langle\partial h^l/\partial r^l\rangle$, $B^l = \langle\partial g^{l+1}/\partial u^{l+1}\rangle$ at hidden
    weights; predictions f. Symmetric matrices are their lower triangles.
    """

    H: Float[Array, "depth lower_points"]
    G: Float[Array, "depth lower_times"]
    A: Float[Array, "hidden points time"]
    B: Float[Array, "hidden time points"]
    f: Float[Array, " points"]
    H_hat: Float[Array, "depth lower_points"]
    G_hat: Float[Array, "depth lower_times"]
    f_hat: Float[Array, " points"]


class LinearFluctuations(NamedTuple):
    """Covariances and mean shifts of all order parameters, flattened, times the width; the largest slope at the saddle
    says how well that was found."""

    saddle: OrderParameters
    covariance: Float[Array, "parameters parameters"]
    shift: Float[Array, " parameters"]
    slope: Float[Array, ""]


class _Site(NamedTuple):
    """The linear process of one layer: drives of h and g, and their maps onto each other, h = u + C g, g = r + D h."""

    H: Float[Array, "points points"]
    G: Float[Array, "time time"]
    C: Float[Array, "points time"]
    D: Float[Array, "time points"]


def lower(matrix):
    """The lower triangle of a matrix, as a vector."""
    return matrix[jnp.tril_indices(matrix.shape[-1])]


def from_lower(vector, size: int):
    """The symmetric matrix with this lower triangle."""
    rows, columns = jnp.tril_indices(size)
    matrix = jnp.zeros((size, size), vector.dtype).at[rows, columns].set(vector)
    return matrix + jnp.tril(matrix, -1).T


def linear_parameter_count(depth: int, points: int, times: int) -> int:
    """How many numbers `OrderParameters` are."""
    return depth * (points * (points + 1) + times * (times + 1)) + 2 * (depth - 1) * points * times + 2 * points


def _optimisers(network: LinearNetwork) -> list[tuple]:
    """The matrix and the vector of `linear_optimiser` for every layer of weights, the readout last."""
    rates, *rest = network.learning_rate, network.momentum, network.weight_decay
    return [linear_optimiser(scale * rates, *rest) for scale in network.rate_scale]


def _sites(network: LinearNetwork, q: OrderParameters, optimisers: list[tuple]) -> list[_Site]:
    """The process of every layer, driven by the order parameters of its neighbours."""
    depth, times = len(q.H), len(network.learning_rate) + 1
    samples = len(network.y)
    f = q.f.reshape(times, samples)
    f = f - network.centred * f[0]
    count = jnp.sum(network.trained)
    error = (network.trained * (network.y - f)).reshape(-1)
    at_point = lambda d: jnp.repeat(d, samples)  # noqa: E731

    sites = []
    for l in range(1, depth + 1):
        (c, d), (c_next, d_next) = optimisers[l - 1], optimisers[l]
        pad = lambda c: network.richness / count * jnp.pad(c, ((0, 0), (0, 1)))  # noqa: E731
        c, c_next = (jnp.repeat(pad(c), samples, axis=axis) for c, axis in ((c, 0), (c_next, 1)))
        H = jnp.tile(network.gram, (times, times)) if l == 1 else from_lower(q.H[l - 2], times * samples)
        G = jnp.ones((times, times)) if l == depth else from_lower(q.G[l], times)
        drift = (H + network.biased) * error
        C = c * drift.reshape(-1, times, samples).sum(-1)
        D = c_next * jnp.repeat(G, samples, axis=1) * error
        s, s_next = network.init_scale[l - 1], network.init_scale[l]
        if l > 1:
            C = C + s * at_point(d)[:, None] * q.A[l - 2]
        if l < depth:
            D = D + s_next * d_next[:, None] * q.B[l - 1]
        H = (s**2 * H + network.bias_scale**2) * jnp.outer(at_point(d), at_point(d))
        sites.append(_Site(H, s_next**2 * G * jnp.outer(d_next, d_next), C, D))
    return sites


def _product(*matrices):
    return partial(jnp.linalg.multi_dot, precision=HIGHEST)(matrices)


def _sweep(network: LinearNetwork, q: OrderParameters, optimisers: list[tuple]) -> OrderParameters:
    """The averages over every layer's process, once around."""
    sites = _sites(network, q, optimisers)
    times = len(network.learning_rate) + 1
    samples = len(network.y)
    depth, points = len(sites), times * samples
    H, G, A, B = [], [], [], []
    f = q.f
    for l, (drive, force, C, D) in enumerate(sites, start=1):
        Q = jnp.linalg.inv(jnp.eye(points) - _product(C, D))
        R = jnp.linalg.inv(jnp.eye(times) - _product(D, C))
        H.append(lower(_product(Q, drive + _product(C, force, C.T), Q.T)))
        G.append(lower(_product(R, force + _product(D, drive, D.T), R.T)))
        before, after = optimisers[l - 1][1], optimisers[l][1]
        if l < depth:
            A.append(_product(Q, C) * (network.init_scale[l] * after))
        else:
            cross = _product(R, _product(force, C.T) + _product(D, drive), Q.T)
            own = cross.reshape(times, times, samples)[jnp.arange(times), jnp.arange(times)]
            f = own.reshape(-1) / network.richness
        if l > 1:
            B.append(_product(R, D) * (network.init_scale[l - 1] * jnp.repeat(before, samples)))
    stacked = lambda found, old: jnp.stack(found) if found else old  # noqa: E731
    return q._replace(H=jnp.stack(H), G=jnp.stack(G), A=stacked(A, q.A), B=stacked(B, q.B), f=f)


def linear_saddle(network: LinearNetwork, depth: int) -> OrderParameters:
    """The infinite network: conjugates are zero, the rest is causal and found time after time."""
    times, samples = len(network.learning_rate) + 1, len(network.y)
    points = times * samples
    triangle = lambda n: jnp.zeros((depth, n * (n + 1) // 2))  # noqa: E731
    start = OrderParameters(
        H=triangle(points),
        G=triangle(times),
        A=jnp.zeros((depth - 1, points, times)),
        B=jnp.zeros((depth - 1, times, points)),
        f=jnp.zeros(points),
        H_hat=triangle(points),
        G_hat=triangle(times),
        f_hat=jnp.zeros(points),
    )

    optimisers = _optimisers(network)

    def grow(q, known):
        # What is later than the known times has not converged yet, and would overflow before it does.
        time = (jnp.arange(times) <= known).astype(start.f.dtype)
        point = jnp.repeat(time, samples)
        q = _sweep(network, q, optimisers)
        q = q._replace(
            H=q.H * lower(jnp.outer(point, point)),
            G=q.G * lower(jnp.outer(time, time)),
            A=q.A * jnp.outer(point, time),
            B=q.B * jnp.outer(time, point),
            f=q.f * point,
        )
        return q, None

    return jax.lax.scan(grow, start, jnp.repeat(jnp.arange(times), 2 * depth + 2))[0]


def _matrices(network: LinearNetwork, q: OrderParameters, optimisers: list[tuple]):
    """The quadratic forms M of all layers, whose Gaussian integrals are the averages over units."""
    times, samples = len(network.learning_rate) + 1, len(network.y)
    points = times * samples
    one, one_time = jnp.eye(points), jnp.eye(times)
    matrices = []
    for l, (H, G, C, D) in enumerate(_sites(network, q, optimisers), start=1):
        H_hat, G_hat = from_lower(q.H_hat[l - 1], points), from_lower(q.G_hat[l - 1], times)
        X = jnp.repeat(one_time, samples, axis=0) * (q.f_hat / network.richness)[:, None] * (l == len(q.H))
        rows = [
            [-H_hat, -X, one, -D.T],
            [-X.T, -G_hat, -C.T, one_time],
            [one, -C, H, jnp.zeros((points, times))],
            [-D, one_time, jnp.zeros((times, points)), G],
        ]
        matrices.append(jnp.concatenate([jnp.concatenate(row, axis=1) for row in rows]))
    return jnp.stack(matrices)


def linear_action(network: LinearNetwork, q: OrderParameters, saddle: OrderParameters) -> Float[Array, ""]:
    r"""The exponent of the weight of the order parameters per unit of width, to third order around the saddle.

    $$S = \hat f\cdot f + \sum_l\frac12\mathrm{tr}(H^l\hat H^l + G^l\hat G^l) - \sum_{l<L}\mathrm{tr}A^lB^l -
      \frac12\sum_l\log|\det M_l|,\quad
      M_l = \begin{pmatrix}-\hat H & -X & 1 & -D^T\\ -X^T & -\hat G & -C^T & 1\\
      1 & -C & H^{l-1} & 0\\ -D & 1 & 0 & G^{l+1}\end{pmatrix}$$

    with $X = \hat f/\gamma$ at equal times in the last layer, which is where predictions are read, and zero elsewhere.
    The logarithm is expanded in $Y = M_0^{-1}(M - M_0)$, $\mathrm{tr}(Y - Y^2/2 + Y^3/3)$, so that its derivatives
    are those of a polynomial.
    """
    optimisers = _optimisers(network)
    start = _matrices(network, saddle, optimisers)
    product = partial(jnp.einsum, precision=HIGHEST)
    Y = product("lij,ljk->lik", jnp.linalg.inv(start), _matrices(network, q, optimisers) - start)
    square = product("lij,ljk->lik", Y, Y)
    logarithm = product("lii->", Y) - product("lii->", square) / 2 + product("lij,lji->", square, Y) / 3
    triangles = ((q.H, q.H_hat), (q.G, q.G_hat))
    # An entry below the diagonal is there twice; n(n + 1)/2 entries make n rows.
    traces = [jnp.sum(a * b * (1 - lower(jnp.eye(int((2 * a.shape[1]) ** 0.5))) / 2)) for a, b in triangles]
    return jnp.sum(q.f * q.f_hat) - jnp.sum(q.A * jnp.swapaxes(q.B, 1, 2)) + sum(traces) - logarithm / 2


def linear_fluctuations(network: LinearNetwork, depth: int, batch: int = 64) -> LinearFluctuations:
    r"""Fluctuations of deep linear networks of width N, from the derivatives of the action at the saddle.

    $$N\,\mathrm{Cov}(q) = \Sigma = -(\partial^2S)^{-1}, \qquad
      N\,\mathrm E[q - q_\infty]_i = \frac12\sum_{jkm}\Sigma_{ij}\,\Sigma_{km}\,\partial_j\partial_k\partial_mS$$

    Both are exact to first order in 1/N for any data; the number n of order parameters is about
    `depth (steps samples)^2`, memory is n^2 and time n^3.

    **Arguments:**

    - `depth`: number of hidden layers.
    - `batch`: tangents that are computed side by side.

    ??? cite "Source"
        Dynamics of Finite Width Kernel and Prediction Fluctuations in Mean Field Neural Networks, arXiv 2304.03408.
    """
    saddle = linear_saddle(network, depth)
    flat, unravel = ravel_pytree(saddle)
    slope = jax.grad(lambda q: linear_action(network, unravel(q), saddle))
    # Whole batches: a remainder would be compiled as a second program.
    batch = min(batch, len(flat))
    pad = lambda rows: jnp.pad(rows, ((0, -len(flat) % batch), (0, 0)))  # noqa: E731
    unit = jnp.eye(len(flat))
    curvature = jax.lax.map(lambda e: jax.jvp(slope, (flat,), (e,))[1], pad(unit), batch_size=batch)[: len(flat)]
    Sigma = -jnp.linalg.inv(curvature)
    Sigma = (Sigma + Sigma.T) / 2

    def third(directions):
        along, across = directions
        return jax.jvp(lambda q: jax.jvp(slope, (q,), (along,))[1], (flat,), (across,))[1]

    pull = jnp.sum(jax.lax.map(third, (pad(unit), pad(Sigma)), batch_size=batch), axis=0)
    shift = jax.lax.dot(Sigma, pull, precision=HIGHEST) / 2
    return LinearFluctuations(saddle, Sigma, shift, jnp.max(jnp.abs(slope(flat))))
