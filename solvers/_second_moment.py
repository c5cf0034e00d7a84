"""One-pass SGD on a linear model, exactly: the second moments of the error, mode by mode."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._adjoint_scan import adjoint_scan
from ._blocked_scan import blocked_scan
from ._devices import shard
from ._mode_bins import ModeBins
from ._precision import HIGHEST


class Drive(NamedTuple):
    r"""What the optimiser does at each step: $v' = \beta v + g$, $u' = u - e_1 g - e_2 v'$, with $B$ fresh samples."""

    e1: Float[Array, "*steps"]
    e2: Float[Array, "*steps"]
    beta: Float[Array, "*steps"]
    inverse_batch: Float[Array, "*steps"]


class Transfer(NamedTuple):
    r"""The momentum step as polynomials of the eigenvalue, $y'_i = \sum_{jd} M_{ijd} \lambda^d y_j + f_i \lambda
    (L + \sigma^2)$, of the moments $y = (A, C, V)$."""

    polynomials: Float[Array, "*steps 3 3 3"]
    noise: Float[Array, "*steps 3"]


def transfer(drive: Drive) -> Transfer:
    """What `momentum_step` reads, for one step or many."""
    e1, e2, beta, inverse_batch = drive
    e, q, none, one = e1 + e2, 1 + inverse_batch, jnp.zeros_like(e1), jnp.ones_like(e1)
    rows = (
        ((one, -2 * e, e**2 * q), (-2 * e2 * beta, 2 * e * e2 * beta, none), ((e2 * beta) ** 2, none, none)),
        ((none, one, -e * q), (beta, -beta * (e + e2), none), (-e2 * beta**2, none, none)),
        ((none, none, q), (none, 2 * beta, none), (beta**2, none, none)),
    )
    polynomials = jnp.stack([jnp.stack([jnp.stack(cell, -1) for cell in row], -2) for row in rows], -3)
    return Transfer(polynomials, jnp.stack([e**2 * inverse_batch, -e * inverse_batch, inverse_batch], -1))


def momentum_step(params: tuple[ModeBins, Float[Array, ""]], y: Float[Array, "3 bins"], by: Transfer, L=None):
    r"""One step of the recursion with momentum; returns the new moments and the excess risk *before* the step.

    The rows of `y` are $A = E u^2$, $C = E u v$, $V = E v^2$ of one mode of each bin; $u$ is the error, $v$ the
    momentum buffer.
    """
    (bins, noise_power), (A, C, V), lam = params, y, params[0].eigenvalues
    if L is None:
        L, _ = _sums(bins, A)
    of_A, of_C, of_V = (by.polynomials[:, j, :, None] for j in range(3))
    after = A * (of_A[:, 0] + lam * (of_A[:, 1] + lam * of_A[:, 2])) + C * (of_C[:, 0] + lam * of_C[:, 1])
    return after + V * of_V[:, 0] + lam * (by.noise * (L + noise_power))[:, None], L


def momentum_transposed(params, by: Transfer, y, bar: Float[Array, "3 bins"], loss_bar: Float[Array, ""]):
    """The transpose of `momentum_step` in the moments; also leaves the cotangent `bar` of those after the step."""
    (bins, _), lam = params, params[0].eigenvalues
    to_noise = jax.lax.dot(bar, lam, precision=HIGHEST)
    before, to_loss = 0.0, loss_bar
    for of, noise, row, own in zip(by.polynomials[..., None], by.noise, bar, to_noise, strict=True):
        before += row * (of[:, 0] + lam * (of[:, 1] + lam * of[:, 2]))
        to_loss += noise * own
    before += jnp.where(np.arange(3)[:, None] == 0, bins.weights * to_loss, 0.0)
    return before, bar


def sgd_step(params: tuple[ModeBins, Float[Array, ""]], A: Float[Array, " bins"], drive: tuple[Array, Array], L=None):
    """The same without momentum, where only `A` matters; `drive` is the rate and the inverse batch size."""
    bins, noise_power = params
    lam, (eta, inverse_batch) = bins.eigenvalues, drive
    if L is None:
        L, _ = _sums(bins, A)
    return _decay(lam, eta, inverse_batch) * A + (inverse_batch * eta**2 * (L + noise_power)) * lam, L


def _decay(lam, eta, inverse_batch):
    return 1 + eta * lam * ((1 + inverse_batch) * eta * lam - 2)


def sgd_transposed(params, drive: tuple[Array, Array], A, bar: Float[Array, " bins"], loss_bar: Float[Array, ""]):
    r"""The transpose of `sgd_step` in `A`; also leaves $p = \bar A'$ and what the drive's cotangents need of it,
    $\sum_j p_j (\lambda_j, \lambda_j A_j, \lambda_j^2 A_j)$: one product of a matrix and a vector, see `_sums`."""
    bins, _ = params
    lam, (eta, inverse_batch), row = bins.eigenvalues, drive, np.arange(3)[:, None]
    rows = lam * jnp.where(row == 0, 1.0, A * jnp.where(row == 1, 1.0, lam))
    sums = jax.lax.dot(rows, bar, precision=HIGHEST)
    before = _decay(lam, eta, inverse_batch) * bar + bins.weights * (inverse_batch * eta**2 * sums[0] + loss_bar)
    return before, (bar, sums)


def _momentum_cotangents(params, states, drive: Drive, losses, states_bar, losses_bar):
    r"""The controls' own by hand, from what the final moments owe to $Q$, to $\lambda C$ and to $V$."""
    by = transfer(drive)
    _, transpose = jax.vjp(lambda params: jax.vmap(momentum_step, (None, 0, 0))(params, states, by), params)
    (params_bar,) = transpose((states_bar, losses_bar))
    (bins, noise_power), (A, C, V), (a, c, v) = params, jnp.unstack(states, axis=1), jnp.unstack(states_bar, axis=1)
    lam, (e1, e2, beta, inverse_batch) = bins.eigenvalues, (x[:, None] for x in drive)
    e, G, H = e1 + e2, lam * A, lam * C
    fresh = lam * (G + losses[:, None] + noise_power)  # of Q, by 1/B
    Q, Q_bar, V_bar = lam * G + inverse_batch * fresh, e**2 * a - e * c + v, e2**2 * a - e2 * c + v
    by_e, by_e2 = 2 * e * a - c, 2 * e2 * a - c
    e1_bar = by_e * Q + beta * by_e2 * H - 2 * a * G
    e2_bar = e1_bar + beta * (by_e * H - 2 * a * C) + beta**2 * by_e2 * V
    beta_bar = (e * by_e2 - e2 * c + 2 * v) * H - by_e2 * C + 2 * beta * V_bar * V
    by_bin, ones = Drive(e1_bar, e2_bar, beta_bar, Q_bar * fresh), jnp.ones_like(lam)
    return params_bar, jax.tree.map(lambda x: jax.lax.dot(x, ones, precision=HIGHEST), by_bin)


def sgd_cotangents(params, states, drive, losses, records, losses_bar):
    r"""The same without momentum, those of the drive by their sums,

    $$\bar\eta = \sum_j p_j (2 \eta Q_j - 2 \lambda_j A_j), \qquad
      \bar{(1/B)} = \eta^2 \sum_j p_j \left[\lambda_j^2 A_j + \lambda_j (L + \sigma^2)\right], \qquad p = \bar A' .$$
    """
    (_, noise_power), (eta, inverse_batch), (states_bar, sums) = params, drive, records
    _, transpose = jax.vjp(lambda params: jax.vmap(sgd_step, (None, 0, 0))(params, states, drive), params)
    (params_bar,) = transpose((states_bar, losses_bar))
    to_noise, slope, square = sums.T
    noise = square + (losses + noise_power) * to_noise
    return params_bar, (2 * (eta * (square + inverse_batch * noise) - slope), eta**2 * noise)


def _sums(bins: ModeBins, a: Float[Array, " bins"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""$\sum_j W_j a_j$ and $\sum_j \lambda_j a_j$.

    One product of a matrix and a vector is one call in compiled code; a sum, or a product of two vectors, is a chain
    of three, and with a few hundred bins these calls are most of a step.
    """
    both = jax.lax.dot(jnp.stack([bins.weights, bins.eigenvalues]), a, precision=HIGHEST)
    return both[0], both[1]


def second_moment(
    bins: ModeBins, noise_power: Float[Array, ""], drive: Drive, *, momentum: bool = True, adjoint: str = "blocked"
) -> Float[Array, " times"]:
    r"""Excess risk $L_t = \sum_j W_j A_j(t)$ of one-pass SGD from zero weights, before each step and after the last.

    With $e = e_1 + e_2$ and $Q = E g^2 = \lambda^2 A + \tfrac1B \left[\lambda^2 A + \lambda (L + \sigma^2)\right]$,

    $$\begin{aligned}
    A' &= (1 - 2 e \lambda) A + e^2 Q + 2 e_2 \beta (e \lambda - 1) C + e_2^2 \beta^2 V, \\
    C' &= \lambda A - e Q + \beta (1 - (e + e_2) \lambda) C - e_2 \beta^2 V, \\
    V' &= Q + 2 \beta \lambda C + \beta^2 V.
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
    bins = shard(bins, "modes")
    params, A = (bins, noise_power), bins.teacher_power
    if momentum:
        y, losses = adjoint_scan(
            momentum_step,
            params,
            jnp.stack([A, jnp.zeros_like(A), jnp.zeros_like(A)]),
            drive,
            transposed=momentum_transposed,
            cotangents=_momentum_cotangents,
            prepare=transfer,
            adjoint=adjoint,
        )
        A = y[0]
    else:
        rates = drive.e1 + drive.e2, drive.inverse_batch
        A, losses = adjoint_scan(
            sgd_step, params, A, rates, transposed=sgd_transposed, cotangents=sgd_cotangents, adjoint=adjoint
        )
    return jnp.append(losses, jnp.sum(bins.weights * A))


class NormalisedMoment(NamedTuple):
    """The excess risk, and the rates that plain SGD would have needed for the same."""

    loss: Float[Array, " times"]
    effective_rate: Float[Array, " steps"]


def normalised_second_moment(
    bins: ModeBins,
    noise_power: Float[Array, ""],
    rates: Float[Array, " steps"],
    inverse_batch: Float[Array, " steps"],
) -> NormalisedMoment:
    r"""The same for steps $u' = u - \eta g/\sqrt{E|g|^2}$, where the rate follows from the moments themselves,

    $$E|g|^2 = (1 + \tfrac1B) \sum_k \lambda_k^2 A_k + \tfrac1B (L + \sigma^2)\, \mathrm{tr} \Lambda .$$

    A gradient of exactly zero moves nothing.

    ??? cite

        Seesaw (arXiv 2510.14717).
    """
    bins = shard(bins, "modes")
    params = bins, noise_power

    def step(A, now):
        rate, inverse_batch = now
        L, _ = _sums(bins, A)
        signal = jnp.sum(bins.weights * bins.eigenvalues * A)
        power = (1 + inverse_batch) * signal + inverse_batch * (L + noise_power) * jnp.sum(bins.weights)
        some = power > 0
        effective = jnp.where(some, rate * jax.lax.rsqrt(jnp.where(some, power, 1.0)), 0.0)
        A_next, _ = sgd_step(params, A, (effective, inverse_batch))
        return A_next, (L, effective)

    losses, effective = blocked_scan(step, lambda outputs: outputs, bins.teacher_power, (rates, inverse_batch))
    return NormalisedMoment(losses, effective[:-1])


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
    fixed = jax.lax.stop_gradient((bins, batch_size))
    root = optimistix.root_find(
        excess,
        # for batches without end the root is within rounding of the pole, and the search ends at its lower end
        optimistix.Bisection(rtol=4 * rounding, atol=0.0, flip=True),
        jnp.asarray(0.5, bins.eigenvalues.dtype),
        fixed,
        options={"lower": 32 * rounding, "upper": 1.0},
        throw=False,
    )
    # one Newton step has the derivative of the root
    found = jax.lax.stop_gradient(root.value)
    move = excess(found, (bins, batch_size)) - excess(found, fixed)
    found = found - move / jax.grad(excess)(found, fixed)
    return jnp.where(anything, rate(found, bins, batch_size), jnp.inf)
