"""Diagonal linear networks from small initial weights, trained by gradient flow."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import _checks as checks
from ..problems import default_key
from ..solvers import as_float, diagonal_coefficients, diagonal_flow, double, shard
from ._base import AbstractNet, Ensemble, Frozen
from ._batches import no_steps
from ._gradient_flow import check_inputs, check_problem, learned, losses, normal_equations


class DiagonalWeights(eqx.Module):
    """`plus` and `minus`, both `[dim]`."""

    plus: Any
    minus: Any


class DiagonalLinear(AbstractNet):
    r"""The linear function $f(x) = \hat\beta\cdot x$ with $\hat\beta_i = (w_{+i}^2 - w_{-i}^2)/2$.

    Its size is $\ln(1/a)$, a whole number: $\ln w_{\pm i}(0) = -\mathrm{size} + s\,\xi_{\pm i}$ with standard normal
    $\xi$ and the `init_spread` $s$ of its limit.

    ??? cite "Source"
        Alternating Gradient Flows, arXiv 2506.06489.
    """

    weights: DiagonalWeights
    frozen: Frozen = eqx.field(static=True)
    size: int = eqx.field(static=True)

    @classmethod
    def init(cls, design, dim: int, size: int, key) -> "DiagonalLinear":
        """One network; random where the design's `init_spread` is not zero."""
        size = _check_size(size)
        return cls(_draw(design, dim, size, default_key(key)), Frozen(design), size)

    @classmethod
    def ensemble(cls, design, dim: int, size: int, seeds: int, key) -> Ensemble:
        """`seeds` independent networks."""
        size, seeds = _check_size(size), checks.integer("seeds", seeds)
        keys = jax.random.split(default_key(key), seeds)
        weights = jax.vmap(lambda k: _draw(design, dim, size, k))(keys)
        return Ensemble(cls(weights, Frozen(design), size), paired=False)

    @property
    def coefficients(self):
        r"""$\hat\beta$ `[dim]`."""
        return (self.weights.plus**2 - self.weights.minus**2) / 2

    @property
    def learning_rate_scale(self) -> float:
        """Time of the weights over the time of the protocol, the size."""
        return float(self.size)

    def __call__(self, x):
        """The output, a scalar, for one input `[dim]`."""
        return self.coefficients @ x

    def learn(self, weights, task, protocol, *, key, steps):
        r"""Gradient flow on the half mean square over the samples; a unit of time is $\ln(1/a)$ of the weights' own.

        The record has `train_loss`, `test_loss` where the task has test targets, and in `extras` `coefficients`
        $\hat\beta$ and `progress` $z = G/\ln(1/a)$, `[time, dim]`, with $G$ the integral of the negative gradient.
        """
        del key
        no_steps(steps)
        check_problem(task, protocol, "a DiagonalLinear")
        single = jax.tree.map(lambda w: w[:, 0], weights)
        check_inputs(task, single.plus)
        with double():
            final, record = _run(single, task, protocol, np.asarray(float(self.size)))
        return learned(weights, final, record, self.size)


def _draw(design, dim: int, size: int, key) -> DiagonalWeights:
    exponents = jnp.asarray(design.init_spread, float) * jax.random.normal(key, (2, dim)) - size
    return DiagonalWeights(*jnp.exp(exponents))


def _check_size(size) -> int:
    size = checks.integer("size", size)
    dtype = jnp.result_type(float)
    most = -np.log(float(jnp.finfo(dtype).tiny)) - 7
    if size > most:
        raise ValueError(
            f"size is ln(1/a) here and must be at most {int(most)}, or the initial weights a are no {dtype} "
            f"numbers; it is {size}."
        )
    return size


@eqx.filter_jit
def _run(weights, task, protocol, size):
    gram, correlation = normal_equations(task)
    times, size = as_float((protocol.times, size))
    weights = as_float(weights)

    def run(weights):
        log_plus, log_minus = jnp.log(weights.plus), jnp.log(weights.minus)
        G: Any = diagonal_flow(gram, correlation, log_plus, log_minus, times * size)
        coefficients = diagonal_coefficients(G, log_plus, log_minus)
        final = DiagonalWeights(jnp.exp(log_plus + G[-1]), jnp.exp(log_minus - G[-1]))
        return final, losses(task, coefficients) | {"extras": {"coefficients": coefficients, "progress": G / size}}

    return jax.vmap(run)(shard(weights, "seeds"))
