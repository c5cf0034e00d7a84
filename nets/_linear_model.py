"""Linear models on given features: one run of minibatch SGD each."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..problems import Dataset, GradientDescent, MinibatchSGD, OnlineSGD, schedules
from ..problems import _checks as checks
from ..solvers import spread_map
from ._base import AbstractNet, Ensemble, Frozen
from ._batches import check_batch, drawn_samples, no_steps, runs_at_once, whole_batch_size

# Samples held side by side, over runs: enough to fill the cores, few enough to stay in cache and memory.
_NUMBERS_AT_ONCE = 2**21


class LinearModel(AbstractNet):
    r"""$f(x) = \theta\cdot x$, `weights` $\theta$ `[features]` that start at zero; the raw step is the learning rate.

    ??? cite "Source"
        Learning Curves for SGD on Structured Features, arXiv 2106.02713.
    """

    weights: Any
    frozen: Frozen = eqx.field(static=True)

    @classmethod
    def init(cls, design, dim: int) -> "LinearModel":
        """Zero weights."""
        return cls(jnp.zeros(dim), Frozen(design))

    @classmethod
    def ensemble(cls, design, dim: int, seeds: int) -> Ensemble:
        """`seeds` times zero weights."""
        return Ensemble(cls(jnp.zeros((checks.integer("seeds", seeds), dim)), Frozen(design)), paired=False)

    @property
    def learning_rate_scale(self) -> float:
        """Raw step over learning rate, 1."""
        return 1.0

    def __call__(self, x):
        """The output, a scalar, for one input `[features]`."""
        return x @ self.weights

    def learn(self, weights, task, protocol, *, key, steps):
        """See `nets.train`. Every seed draws its own batches from the data set.

        Records `train_loss`, the mean square residual over the data set, and `test_loss` where it has test targets.
        """
        no_steps(steps)
        check_problem(task, protocol)
        weights = weights[:, 0]
        if weights.shape[-1] != task.dim:
            raise ValueError(f"task must have the network's {weights.shape[-1]} features; it has {task.dim}.")
        batch = None if isinstance(protocol, GradientDescent) else whole_batch_size(protocol)
        final, losses = _run(weights, task, protocol, jax.random.split(key, len(weights)), batch)
        return final[:, None], losses | {"loss_convention": "mean_square"}


def check_problem(task, protocol) -> None:
    """**Raises:** `TypeError` and `ValueError` for what a linear model on given features does not learn."""
    checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays)")
    known = (GradientDescent, MinibatchSGD, OnlineSGD)
    checks.instance("protocol", protocol, known, "GradientDescent, MinibatchSGD or OnlineSGD for LinearModel")
    if task.y.ndim != 1:
        raise ValueError(f"y must have shape [samples] for a model with one output; its shape is {task.y.shape}.")
    if isinstance(protocol, OnlineSGD) and protocol.batch_size is None:
        raise ValueError("batch_ratio is for limits of many dimensions; LinearModel takes batch_size, samples a step.")
    if isinstance(protocol, MinibatchSGD):
        check_batch(protocol, task.x.shape[0])


@eqx.filter_jit
def _run(weights, task, protocol, keys, batch: int | None):
    """Final weights `[seeds, features]` and losses `[seeds, steps + 1]`."""
    dtype = weights.dtype
    x, y = jnp.asarray(task.x, dtype), jnp.asarray(task.y, dtype)
    sides = {"train_loss": (x, y)}
    if task.has_test and task.y_test is not None:
        sides["test_loss"] = jnp.asarray(task.x_test, dtype), jnp.asarray(task.y_test, dtype)
    optimiser = schedules.transformation(protocol, 1.0)

    def observe(theta):
        return {name: jnp.mean((x @ theta - y) ** 2) for name, (x, y) in sides.items()}

    def run(inputs):
        theta, key = inputs

        def step(carry, inputs):
            theta, state = carry
            if batch is None:
                g = (x @ theta - y) @ x / len(y)
            else:
                drawn, shares = drawn_samples(protocol, inputs[0], inputs[1], len(y), batch, dtype)
                seen = x[drawn]
                g = (shares * (seen @ theta - y[drawn])) @ seen
            moves, state = optimiser.update(g, state, theta)
            return (theta + moves, state), observe(theta)

        over = jnp.arange(protocol.steps), jax.random.split(key, protocol.steps)
        (theta, _), rows = jax.lax.scan(step, (theta, optimiser.init(theta)), over)
        return theta, jax.tree.map(jnp.append, rows, observe(theta))

    together = runs_at_once(len(weights), _NUMBERS_AT_ONCE // x.size)
    return spread_map(run, (weights, keys), "seeds", batch_size=together)
