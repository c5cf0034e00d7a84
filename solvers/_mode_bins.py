"""A power-law spectrum of any length as a few hundred numbers: the first modes exactly, then geometric bins."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_ALL_EXACT = 1024  # up to here every mode is kept
_EXACT_HEAD = 64  # beyond, this many are kept and the rest is binned
_BINS_PER_OCTAVE = 6
_INFINITY = 2**40  # modes=None: bins up to here, one frozen bin for the rest
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(10)


class ModeBins(eqx.Module):
    r"""A spectrum in bins; inside a bin of $n$ modes all modes share one eigenvalue and one second moment.

    A single mode is a bin with $n = 1$, so nothing that works on bins needs to know which modes are exact. The excess
    risk is $L = \sum_j W_j A_j$ with $A_j$ the second moment of the error of *one* mode of bin $j$.

    - `eigenvalues`: $\lambda_j$, the $\lambda$-weighted mean over the bin, $\sum\lambda^2 / \sum\lambda$.
    - `weights`: $W_j = \sum_{k \in j} \lambda_k$, that is $n \lambda$ for equal modes.
    - `teacher_power`: $w_j^2 = \sum \lambda w^2 / \sum \lambda$.
    """

    eigenvalues: Float[Array, " bins"]
    weights: Float[Array, " bins"]
    teacher_power: Float[Array, " bins"]


def exact_bins(eigenvalues: Float[Array, " modes"], teacher: Float[Array, " modes"]) -> ModeBins:
    """One bin for every mode of a given spectrum."""
    return ModeBins(eigenvalues, eigenvalues, teacher**2)


def power_law_bins(modes: int | None, capacity: Float[Array, ""], decay: Float[Array, ""]) -> ModeBins:
    r"""The spectrum $\lambda_k = k^{-b}$, $\lambda_k w_k^2 = k^{-a}$, $k = 1 \dots M$, differentiable in $a$ and $b$.

    Up to 1024 modes are exact. Beyond, the first 64 are, and the rest falls into 6 bins an octave, whose sums
    $\sum_{k \in \mathrm{bin}} k^{-p}$ are exact to rounding (differences of Hurwitz zeta functions, see `power_sums`).

    **Arguments:**

    - `modes`: $M$; `None` for infinitely many: bins up to $2^{40}$ and one more that holds the whole tail.
    - `capacity`: $b$; more than 1 if `modes` is `None`.
    - `decay`: $a$; more than 1 if `modes` is `None`.

    **Returns:**

    The bins, ordered by decreasing eigenvalue: 64, and 6 for every octave beyond.

    ??? cite

        Binning changes losses by less than 1e-3 relative; setting of *Learning Curves for SGD on Structured Features*
        (arXiv 2106.02713).
    """
    head = modes if modes is not None and modes <= _ALL_EXACT else _EXACT_HEAD
    k = jnp.arange(1, head + 1, dtype=jnp.result_type(float))
    eigenvalue, count_power, signal = k**-capacity, k ** (-2 * capacity), k**-decay
    sums = [eigenvalue], [count_power], [signal]
    if head != modes:
        edges = _edges(head + 1, (_INFINITY if modes is None else modes) + 1)
        for total, power in zip(sums, (capacity, 2 * capacity, decay), strict=True):
            total.append(power_sums(power, edges))
            if modes is None:
                total.append(_tail(power, edges[-1])[None])
    weights, squares, energy = (jnp.concatenate(total) for total in sums)
    return ModeBins(squares / weights, weights, energy / weights)


def power_sums(power: Float[Array, ""], edges: np.ndarray) -> Float[Array, " bins"]:
    r"""The sums $\sum_{k=l}^{h-1} k^{-p}$ between integer edges, each at least 50 and at most twice the one before.

    Equal to $\zeta(p, l) - \zeta(p, h)$, but written as midpoint Euler-Maclaurin, $\int_{l-1/2}^{h-1/2} f -
    \tfrac{1}{24} [f'] + \tfrac{7}{5760} [f'''] - \tfrac{31}{967680} [f^{(5)}]$ with $f = x^{-p}$ and the integral by
    Gauss-Legendre in $\log x$. No large numbers are subtracted, $p = 1$ is not special, and the derivative with
    respect to $p$ is that of elementary functions.
    """
    x = jnp.asarray(edges - 0.5)
    log_edges = jnp.log(x)
    middle, half = (log_edges[1:] + log_edges[:-1]) / 2, (log_edges[1:] - log_edges[:-1]) / 2
    # one NumPy array in operations of both precisions has confused the cache of compiled operations
    nodes, weights = (jnp.asarray(a, log_edges.dtype) for a in (_NODES, _NODE_WEIGHTS))
    log_x = middle[:, None] + half[:, None] * nodes
    integral = half * jnp.sum(weights * jnp.exp((1 - power) * log_x), axis=1)
    first = -power * jnp.exp(-(power + 1) * log_edges)
    third = first * (power + 1) * (power + 2) / x**2
    fifth = third * (power + 3) * (power + 4) / x**2
    return integral - jnp.diff(first) / 24 + 7 / 5760 * jnp.diff(third) - 31 / 967680 * jnp.diff(fifth)


def _tail(power: Float[Array, ""], start: float) -> Float[Array, ""]:
    # the next Euler-Maclaurin term is smaller by 1 / start**2, far below rounding
    return jnp.exp((1 - power) * np.log(start - 0.5)) / (power - 1)


def _edges(start: int, stop: int) -> np.ndarray:
    count = max(1, int(np.ceil(np.log2(stop / start) * _BINS_PER_OCTAVE)))
    edges = np.ceil(start * 2.0 ** (np.arange(count) / _BINS_PER_OCTAVE))
    return np.append(edges[edges < stop], float(stop))
