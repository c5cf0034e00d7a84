"""Linear regression on the features of a spectrum: what a random-feature model with infinitely many features is."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..problems import Gaussian, OnlineSGD, PowerLaw
from ..problems import _checks as checks
from ._base import AbstractNet, Ensemble, Frozen
from ._batches import no_steps, whole_batch_size

_MOST_MODES = 2**20

# Inputs drawn side by side, over runs: enough to fill the cores, few enough to stay in cache and memory.
_INPUTS_AT_ONCE = 2**20


class LinearRegression(AbstractNet):
    r"""The linear function $f(x) = \theta \cdot x$ of features $x_k \sim N(0, \lambda_k)$, trained from $\theta = 0$.

    One number is trained for each mode of the task, and the raw step is the protocol's learning rate.

    ??? cite "Source"
        Learning Curves for SGD on Structured Features, arXiv 2106.02713.
    """

    weights: Any
    frozen: Frozen = eqx.field(static=True)

    @classmethod
    def init(cls, design, task) -> "LinearRegression":
        """Zero weights, one for each mode of `task`."""
        return cls(jnp.zeros(_modes(task)), Frozen(design))

    @classmethod
    def ensemble(cls, design, task, seeds: int) -> Ensemble:
        """`seeds` such networks; all start at zero and differ in the samples that they will see."""
        return Ensemble(cls(jnp.zeros((checks.integer("seeds", seeds), _modes(task))), Frozen(design)), paired=False)

    @property
    def learning_rate_scale(self) -> float:
        """Raw step over learning rate, 1."""
        return 1.0

    def __call__(self, x):
        """The output, a scalar, for one input `[modes]`."""
        return x @ self.weights

    def learn(self, weights, task, protocol, *, key, steps):
        r"""See `nets.train`. Fresh samples at every step of every run; records the excess risk
        $\sum_k \lambda_k (\theta_k - w_k)^2$ over the population, whose mean over runs is the theory's `test_loss`."""
        checks.instance("task", task, (PowerLaw, Gaussian), "power_law or gaussian for a nets.LinearRegression")
        no_steps(steps)
        checks.instance("protocol", protocol, OnlineSGD, "OnlineSGD for a nets.LinearRegression")
        if protocol.batch_size is None:
            raise ValueError(
                "batch_ratio is for limits of many dimensions; give batch_size, the number of samples a step."
            )
        largest = whole_batch_size(protocol)
        problem, weights = task.draw(1), weights[:, 0]
        if weights.shape[-1] != problem.dim:
            raise ValueError(f"task must have the network's {weights.shape[-1]} modes; it has {problem.dim}.")
        final, test_loss = _run(weights, problem, protocol, jax.random.split(key, len(weights)), largest)
        fields = {"test_loss": test_loss, "loss_convention": "mean_square", "attributes": (("size", problem.dim),)}
        return final[:, None], fields


def _modes(task) -> int:
    checks.instance("task", task, (PowerLaw, Gaussian), "power_law or gaussian")
    modes = task.modes if isinstance(task, PowerLaw) else task.eigenvalues.shape[0]
    if modes is None or modes > _MOST_MODES:
        raise ValueError(
            f"modes must be at most {_MOST_MODES} for a finite network, which holds every mode; "
            f"it is {modes}. The theory alone takes any number."
        )
    return modes


@eqx.filter_jit
def _run(weights, problem, protocol: OnlineSGD, keys, largest: int):
    """Final weights `[seeds, modes]` and excess risks `[seeds, steps + 1]`."""
    dtype = weights.dtype
    eigenvalues, teacher = (jnp.asarray(a, dtype) for a in (problem.eigenvalues, problem.teacher))
    fields = protocol.extra_gradient, protocol.learning_rate, protocol.momentum, protocol.batch_size
    drive = tuple(jnp.asarray(field, dtype) for field in fields)

    def risk(theta):
        return jnp.sum(eigenvalues * (theta - teacher) ** 2)

    def step(carry, inputs):
        theta, v = carry
        key, (extra_gradient, learning_rate, momentum, batch_size) = inputs
        x, y = problem.batch(key, largest)
        # a smaller batch is the head of the largest one
        taken = (jnp.arange(largest) < batch_size) / batch_size
        gradient = (taken * (x @ theta - y)) @ x
        v = momentum * v + gradient
        return (theta - extra_gradient * gradient - learning_rate * v, v), risk(theta)

    def run(inputs):
        theta, key = inputs
        over = jax.random.split(key, protocol.steps), drive
        (theta, _), risks = jax.lax.scan(step, (theta, jnp.zeros_like(theta)), over)
        return theta, jnp.append(risks, risk(theta))

    together = max(1, min(len(weights), _INPUTS_AT_ONCE // (largest * weights.shape[-1])))
    return jax.lax.map(run, (weights, keys), batch_size=together)
