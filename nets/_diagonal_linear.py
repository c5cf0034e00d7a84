"""Diagonal linear networks from small initial weights, trained by gradient flow."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import Dataset, GradientFlow, default_key
from ..problems import _checks as checks
from ..solvers import as_float, diagonal_coefficients, diagonal_flow, double
from ._base import AbstractNet, Ensemble, Frozen
from ._batches import no_steps


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
        check_problem(task, protocol)
        single = jax.tree.map(lambda w: w[:, 0], weights)
        if single.plus.shape[-1] != task.dim:
            raise ValueError(
                f"task must have the network's {single.plus.shape[-1]} input dimensions; it has {task.dim}."
            )
        dtype = single.plus.dtype
        with double():
            final, record = _run(single, task, protocol, np.asarray(float(self.size)))
        final, record = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), dtype), (final, record))
        record["loss_convention"] = "half_mean_square"
        record["attributes"] = (("size", self.size),)
        return jax.tree.map(lambda w: w[:, None], final), record


def check_problem(task, protocol) -> None:
    """**Raises:** `TypeError` and `ValueError` for what a diagonal linear network cannot learn."""
    checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays)")
    checks.instance("protocol", protocol, GradientFlow, "GradientFlow for a DiagonalLinear")
    if task.y.ndim != 1:
        raise ValueError(f"y must have shape [samples] for a network with one output; its shape is {task.y.shape}.")


def losses(task, coefficients) -> dict[str, Any]:
    """Half mean squares of linear functions `[..., dim]`, on the training side and on the test side if there is one."""
    found = {"train_loss": _half_mean_square(task.x, task.y, coefficients)}
    if task.has_test and task.y_test is not None:
        found["test_loss"] = _half_mean_square(task.x_test, task.y_test, coefficients)
    return found


def normal_equations(task: Any):
    """$X^TX/P$ and $X^Ty/P$."""
    x, y = as_float((task.x, task.y))
    return (
        jnp.matmul(x.T, x, precision="highest") / x.shape[0],
        jnp.matmul(x.T, y, precision="highest") / x.shape[0],
    )


def _half_mean_square(x, y, coefficients):
    x, y = as_float((x, y))
    return jnp.mean((jnp.matmul(coefficients, x.T, precision="highest") - y) ** 2, axis=-1) / 2


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

    return jax.vmap(run)(weights)
