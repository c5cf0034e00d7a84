r"""Training of random features in the time domain: causal response and correlation matrices, exact in one march."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._mode_bins import ModeBins
from ._precision import HIGHEST


class FeatureResponses(NamedTuple):
    r"""How a mode answers a push, lower triangular in time.

    - `integrated`: $G_k = (I + \lambda_k Q)^{-1} Q$, the answer to a force on the gradient.
    - `transfer`: $H_k = (I + \lambda_k Q)^{-1}$, to a push of the error itself.
    - `samples`: $R_1$, of the residuals on the samples to a change of their labels.
    - `residual`: by how much the self-consistent equation for $Q$ fails; rounding, unless training diverges.
    """

    integrated: Float[Array, "bins times times"]
    transfer: Float[Array, "bins times times"]
    samples: Float[Array, "times times"]
    residual: Float[Array, ""]


class FeatureDynamics(NamedTuple):
    """Learning curves without a factor of one half, and what they are the diagonal of.

    - `test`: the excess risk; `train`: the mean square residual on the samples, or on the next batch.
    - `correlation`: of the error between two times, positive semidefinite.
    - `residual`: see `FeatureResponses`.
    """

    test: Float[Array, " times"]
    train: Float[Array, " times"]
    correlation: Float[Array, "times times"]
    residual: Float[Array, ""]


_product = partial(jnp.matmul, precision=HIGHEST)


def feature_responses(
    bins: ModeBins,
    integrator: Float[Array, "times times"],
    inverse_features: Float[ArrayLike, ""],
    inverse_samples: Float[ArrayLike, ""],
) -> FeatureResponses:
    r"""Solves $Q = S R_1 R_3$, $R_1 = I - D/P$, $R_3 = I - D/N$, $D = \sum_k \lambda_k (I + \lambda_k Q)^{-1} Q$.

    All these are power series in the `integrator` $S$: they commute, and Newton's method for the inverse
    $\kappa = Q^{-1}$, which is $\kappa R_1 R_3 = S^{-1}$, needs products and triangular inverses only. $S$
    is nilpotent, so each step doubles the number of exact subdiagonals, and $\log_2$ of the number of times is all
    of them. It starts at large $\kappa$, from where every step overshoots to the safe side.
    """
    S, one = integrator, jnp.eye(integrator.shape[0], dtype=integrator.dtype)

    def trace(weights, a):
        return jnp.tensordot(weights, a, axes=1, precision=HIGHEST)

    # Every iterate is a function of S, so the loop itself is what to differentiate: a last step alone, from an iterate
    # held fixed, would meet changes of S with which that iterate does not commute.
    @partial(jax.checkpoint, prevent_cse=False)
    def newton(ratio, _):
        """One step for $Q = S$ `ratio`."""
        Q = _product(S, ratio)
        G = _product(_transfer(bins, Q), Q)
        D = trace(bins.weights, G)
        R1, R3 = one - D * inverse_samples, one - D * inverse_features
        # kappa d/dkappa of R1 R3, from -kappa d/dkappa of D
        falls = D - trace(bins.weights * bins.eigenvalues, _product(G, G))
        slope = _product(falls, R3 * inverse_samples + R1 * inverse_features)
        target = _product(R1, R3)
        improved = _product(_inverse(ratio + slope), _product(ratio, target + slope))
        return improved, jnp.max(jnp.abs(target - ratio))

    far = jnp.sum(bins.weights) * (inverse_features + inverse_samples)
    steps = math.ceil(math.log2(one.shape[0])) + 1
    ratio, residuals = jax.lax.scan(newton, _inverse(one + far * S), length=steps)
    Q = _product(S, ratio)
    H = _transfer(bins, Q)
    G = _product(H, Q)
    R1 = one - trace(bins.weights, G) * inverse_samples
    return FeatureResponses(G, H, R1, residuals[-1])


def feature_dynamics(
    bins: ModeBins,
    noise_power: Float[ArrayLike, ""],
    integrator: Float[Array, "times steps"],
    inverse_features: Float[ArrayLike, ""],
    inverse_samples: Float[ArrayLike, ""],
    inverse_batch: Float[ArrayLike, "*steps"] = 0.0,
    *,
    shared_features: bool = True,
    shared_samples: bool = True,
) -> FeatureDynamics:
    r"""Learning curves of gradient descent with $N$ random features, on $P$ samples, batches of them, or fresh batches.

    With $\mathbf 1$ the vector of ones over times, the error correlation $C$ and that of the features' field, $X$, obey

    $$\begin{aligned}
    C &= \sum_k \lambda_k \left[ w_k^2 (H_k \mathbf 1)(H_k \mathbf 1)^T + \tfrac1N G_k X G_k^T
         + \lambda_k G_k K G_k^T \right], \\
    X &= \sum_k \lambda_k \left[ \lambda_k w_k^2 (H_k \mathbf 1)(H_k \mathbf 1)^T + \tfrac{\lambda_k}N G_k X G_k^T
         + H_k K H_k^T \right],
    \end{aligned}$$

    $$K = \tfrac1P (C + \sigma^2 \mathbf 1 \mathbf 1^T) + D, \qquad
    \ell_t = \left[ R_1 (C + \sigma^2 \mathbf 1 \mathbf 1^T) R_1^T + P (I - R_1) D (I - R_1)^T \right]_{tt} .$$

    $\ell$ is the train loss and $D$ diagonal, $D_{tt} = \ell_t/B_t$: the choice of a batch is white noise on the
    residuals that trained, of $1/B$ with replacement and of $(1 - B/P)/B$ without. $G_k$ and $I - R_1$ are strictly
    causal, so the rows follow from each other: no iteration.

    Time is $O(\mathrm{bins} \times \mathrm{steps}^3)$, memory $O(\mathrm{bins} \times \mathrm{steps}^2)$: for a few
    hundred steps; `two_point_loss` and `one_point_loss` go further. With batches the own-mode term of order
    $\lambda_k^2/B$ of `second_moment` is not in this limit.

    **Arguments:**

    - `bins`, `noise_power`: the spectrum and the teacher; $\sigma^2$.
    - `integrator`: what a force at a step does at each time, `c` of `linear_optimiser`; any optimiser without decay.
    - `inverse_features`: $1/N$.
    - `inverse_samples`: $1/P$; zero for batches that are never seen again.
    - `inverse_batch`: the $1/B_t$ above; zero if a step sees all samples.
    - `shared_features`, `shared_samples`: as for `two_point_loss`.

    ??? cite

        A Dynamical Model of Neural Scaling Laws (arXiv 2402.01092).
    """
    S = jnp.pad(integrator, ((0, 0), (0, 1)))
    inverse_samples = jnp.asarray(inverse_samples, S.dtype)
    G, H, R1, residual = feature_responses(bins, S, inverse_features, inverse_samples)
    inverse_batch = jnp.pad(jnp.broadcast_to(jnp.asarray(inverse_batch, S.dtype), integrator.shape[1:]), (0, 1))
    # (I - R1) P, which is finite for infinitely many samples
    kept = jnp.tensordot(bins.weights, G, axes=1, precision=HIGHEST)
    if not shared_samples:
        inverse_samples, inverse_batch = jnp.zeros_like(inverse_samples), jnp.zeros_like(inverse_batch)
    shared = inverse_features if shared_features else 0.0
    correlation, train = _march(bins, noise_power, G, H, R1, kept, shared, inverse_samples, inverse_batch)
    if not shared_samples:
        train = jnp.full_like(train, jnp.nan)
    return FeatureDynamics(jnp.diagonal(correlation), train, correlation, residual)


def _march(bins: ModeBins, noise_power, G, H, R1, kept, inverse_features, inverse_samples, inverse_batch):
    """The error correlation, row by row, and the train loss; a row is complete up to its own time, then the column
    follows by symmetry."""
    lam, W = bins.eigenvalues, bins.weights
    decay = jnp.sum(H, axis=2)
    times = jnp.arange(R1.shape[0])

    def start(weights):
        return jnp.einsum("k,kt,ks->ts", weights, decay, decay, precision=HIGHEST)

    def weigh(a, response):
        """$\\sum_k \\lambda_k a_k R_k^T$, row by row of `a`."""
        return jnp.einsum("k,...ks,kts->...t", W, a, response, precision=HIGHEST)

    @partial(jax.checkpoint, prevent_cse=False)
    def step(state, now):
        X, C, K, choice = state
        t, C_start, X_start, inverse_batch = now

        def insert(a, row):
            row = jnp.where(times <= t, row, 0.0)
            return a.at[t].set(row).at[:, t].set(row)

        g, h = G[:, t], H[:, t]
        through = inverse_features * _product(g, X)
        to_C, to_X = weigh(jnp.stack([through + lam[:, None] * _product(g, K), lam[:, None] * through]), G)
        C_row = C_start + to_C
        C = insert(C, C_row + noise_power)
        train = _product(_product(R1[t], C), R1[t]) + inverse_samples * _product(kept[t] ** 2, choice)
        choice = choice.at[t].set(inverse_batch * train)
        K = insert(K, inverse_samples * C[t]).at[t, t].add(choice[t])
        X_row = X_start + to_X + weigh(_product(h, K), H)
        return (insert(X, X_row), C, K, choice), (jnp.where(times <= t, C_row, 0.0), train)

    nothing = jnp.zeros_like(R1)
    inputs = times, start(W * bins.teacher_power), start(W * lam * bins.teacher_power), inverse_batch
    _, (C, train) = jax.lax.scan(step, (nothing, nothing, nothing, nothing[0]), inputs)
    return C + jnp.tril(C, -1).T, train


def _transfer(bins: ModeBins, Q: Float[Array, "times times"]) -> Float[Array, "bins times times"]:
    return _inverse(jnp.eye(Q.shape[0], dtype=Q.dtype) + bins.eigenvalues[:, None, None] * Q)


def _inverse(a: Float[Array, "*batch times times"]) -> Float[Array, "*batch times times"]:
    """Of lower triangular matrices with a unit diagonal, half by half.

    Products only: a reverse pass through many triangular solves inside a loop can wait forever for itself in the
    thread pool of JAX 0.10.2 on a processor (2026-11-22).
    """
    size = a.shape[-1]
    padding = 2 ** math.ceil(math.log2(size)) - size
    fill = jnp.concatenate([jnp.zeros((padding, size), a.dtype), jnp.eye(padding, dtype=a.dtype)], axis=1)
    a = jnp.pad(a, [(0, 0)] * (a.ndim - 2) + [(0, 0), (0, padding)])
    a = jnp.concatenate([a, jnp.broadcast_to(fill, (*a.shape[:-2], padding, size + padding))], axis=-2)
    return _halves(a)[..., :size, :size]


def _halves(a):
    half = a.shape[-1] // 2
    if not half:
        return jnp.ones_like(a)
    first, second = _halves(jnp.stack([a[..., :half, :half], a[..., half:, half:]]))
    below = -_product(second, _product(a[..., half:, :half], first))
    top = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
    return jnp.concatenate([top, jnp.concatenate([below, second], axis=-1)], axis=-2)
