"""One-pass SGD on a linear model, exactly: the second moments of the error, mode by mode."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._adjoint_scan import adjoint_scan
from ._mode_bins import ModeBins
from ._precision import HIGHEST


class Drive(NamedTuple):
    r"""What the optimiser does at each step: $v' = \beta v + g$, $u' = u - e_1 g - e_2 v'$, with $B$ fresh samples."""

    e1: Float[Array, "*steps"]
    e2: Float[Array, "*steps"]
    beta: Float[Array, "*steps"]
    inverse_batch: Float[Array, "*steps"]


class Moments(NamedTuple):
    r"""$A = E u^2$, $C = E u v$, $V = E v^2$ of one mode of each bin; $u$ is the error, $v$ the momentum buffer."""

    A: Float[Array, " bins"]
    C: Float[Array, " bins"]
    V: Float[Array, " bins"]


def momentum_step(params: tuple[ModeBins, Float[Array, ""]], state: Moments, drive: Drive):
    """One step of the recursion with momentum; returns the new moments and the excess risk *before* the step."""
    bins, noise_power = params
    lam, (A, C, V), (e1, e2, beta, inverse_batch) = bins.eigenvalues, state, drive
    L, _ = _sums(bins, A)
    Q = lam**2 * A + inverse_batch * lam * (lam * A + L + noise_power)  # E g g
    V_next = beta**2 * V + 2 * beta * lam * C + Q
    G = beta * C + lam * A  # E u v'
    Z = beta * lam * C + Q  # E g v'
    A_next = A - 2 * e1 * lam * A - 2 * e2 * G + e1**2 * Q + 2 * e1 * e2 * Z + e2**2 * V_next
    C_next = G - e1 * Z - e2 * V_next
    return Moments(A_next, C_next, V_next), L


def momentum_transposed(params, drive: Drive, bar: Moments, loss_bar: Float[Array, ""]) -> Moments:
    """The transpose of `momentum_step` in the moments; every name with `_bar` is the cotangent of that quantity."""
    bins, _ = params
    lam, (e1, e2, beta, inverse_batch) = bins.eigenvalues, drive
    V_bar = e2**2 * bar.A - e2 * bar.C + bar.V
    Z_bar = 2 * e1 * e2 * bar.A - e1 * bar.C
    G_bar = bar.C - 2 * e2 * bar.A
    Q_bar = e1**2 * bar.A + Z_bar + V_bar
    _, through_loss = _sums(bins, Q_bar)
    return Moments(
        bar.A * (1 - 2 * e1 * lam)
        + lam * G_bar
        + (1 + inverse_batch) * lam**2 * Q_bar
        + bins.weights * (inverse_batch * through_loss + loss_bar),
        beta * (G_bar + lam * (Z_bar + 2 * V_bar)),
        beta**2 * V_bar,
    )


def sgd_step(params: tuple[ModeBins, Float[Array, ""]], A: Float[Array, " bins"], drive: tuple[Array, Array]):
    """The same without momentum, where only `A` matters; `drive` is the rate and the inverse batch size."""
    bins, noise_power = params
    lam, (eta, inverse_batch) = bins.eigenvalues, drive
    L, _ = _sums(bins, A)
    Q = lam**2 * A + inverse_batch * lam * (lam * A + L + noise_power)
    return A - 2 * eta * lam * A + eta**2 * Q, L


def sgd_transposed(params, drive: tuple[Array, Array], bar: Float[Array, " bins"], loss_bar: Float[Array, ""]):
    """The transpose of `sgd_step` in `A`."""
    bins, _ = params
    lam, (eta, inverse_batch) = bins.eigenvalues, drive
    _, through_loss = _sums(bins, bar)
    own = bar * (1 - 2 * eta * lam + (1 + inverse_batch) * (eta * lam) ** 2)
    return own + bins.weights * (inverse_batch * eta**2 * through_loss + loss_bar)


def _sums(bins: ModeBins, a: Float[Array, " bins"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""$\sum_j W_j a_j$ and $\sum_j \lambda_j a_j$.

    One product of a matrix and a vector is one call in compiled code; a sum, or a product of two vectors, is a chain
    of three, and with a few hundred bins these calls are most of a step.
    """
    both = jnp.matmul(jnp.stack([bins.weights, bins.eigenvalues]), a, precision=HIGHEST)
    return both[0], both[1]


def second_moment(
    bins: ModeBins, noise_power: Float[Array, ""], drive: Drive, *, momentum: bool = True, adjoint: str = "blocked"
) -> Float[Array, " steps+1"]:
    r"""Excess risk $L_t = \sum_j W_j A_j(t)$ of one-pass SGD from zero weights, before each step and after the last.

    $$\begin{aligned}
    Q &= \lambda^2 A + \tfrac1B \left[\lambda^2 A + \lambda (L + \sigma^2)\right], \quad
    V' = \beta^2 V + 2\beta\lambda C + Q, \quad G = \beta C + \lambda A, \quad Z = \beta\lambda C + Q, \\
    A' &= A - 2 e_1 \lambda A - 2 e_2 G + e_1^2 Q + 2 e_1 e_2 Z + e_2^2 V', \quad C' = G - e_1 Z - e_2 V'
    \end{aligned}$$

    Exact for Gaussian inputs and fresh batches. Time and memory are $O(\mathrm{bins} \times \mathrm{steps})$.

    **Arguments:**

    - `bins`: the spectrum and the teacher; the moments start at $A = w^2$, $C = V = 0$.
    - `noise_power`: $\sigma^2$, the variance of the label noise.
    - `drive`: $e_1, e_2, \beta, 1/B$, each `[steps]`.
    - `momentum`: `False` promises $\beta = 0$ everywhere; then $A$ alone is carried, with rate $e_1 + e_2$.
    - `adjoint`: see `adjoint_scan`.

    ??? cite

        *Learning Curves for SGD on Structured Features* (arXiv 2106.02713).
    """
    params, A = (bins, noise_power), bins.teacher_power
    if momentum:
        final, losses = adjoint_scan(
            momentum_step,
            params,
            Moments(A, jnp.zeros_like(A), jnp.zeros_like(A)),
            drive,
            transposed=momentum_transposed,
            adjoint=adjoint,
        )
        A = final.A
    else:
        rates = drive.e1 + drive.e2, drive.inverse_batch
        A, losses = adjoint_scan(sgd_step, params, A, rates, transposed=sgd_transposed, adjoint=adjoint)
    return jnp.append(losses, jnp.sum(bins.weights * A))


def stability_bound(bins: ModeBins, batch_size: Float[Array, ""]) -> Float[Array, ""]:
    r"""Largest constant rate at which plain one-pass SGD is stable: the $\eta$ at which
    $\sum_j W_j \eta / (2B - (B+1) \eta \lambda_j) = 1$.

    There the spectral radius of the recursion is 1. For $B = 1$ it is about $2 / (\mathrm{tr}\Lambda + 2\lambda_1)$,
    far below $2/\lambda_1$. Differentiable; `inf` where all eigenvalues vanish.
    """
    import optimistix

    anything = jnp.max(bins.eigenvalues) > 0
    bins = jax.tree.map(lambda a: jnp.where(anything, a, 1.0), bins)

    def rate(slack, bins, B):
        return 2 * B * (1 - slack) / ((B + 1) * jnp.max(bins.eigenvalues))

    # Searched as its distance from the pole of the top mode, so that rounding never steps over the pole.
    def excess(slack, problem):
        bins, B = problem
        distance = 1 - (1 - slack) * bins.eigenvalues / jnp.max(bins.eigenvalues)
        return jnp.sum(bins.weights / distance) * rate(slack, bins, B) / (2 * B) - 1

    rounding = float(jnp.finfo(bins.eigenvalues.dtype).eps)
    root = optimistix.root_find(
        excess,
        optimistix.Bisection(rtol=4 * rounding, atol=0.0),
        jnp.asarray(0.5, bins.eigenvalues.dtype),
        (bins, batch_size),
        options={"lower": 32 * rounding, "upper": 1.0},
        throw=False,
    )
    return jnp.where(anything, rate(root.value, bins, batch_size), jnp.inf)
