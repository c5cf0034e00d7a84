"""One-pass SGD in finite networks: every step of every run sees samples that nobody has seen before."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import DIVERGED, OnlineSGD, Trajectory, check, first_divergence, key_name
from ..problems import _checks as checks
from ._base import Ensemble
from ._linear_regression import LinearRegression

# Inputs drawn side by side, over runs: enough to fill the cores, few enough to stay in cache and memory.
_INPUTS_AT_ONCE = 2**20


def train_online(net, task, protocol: OnlineSGD, *, key, return_net: bool = False, throw: bool = True):
    r"""Trains a linear regression, or an ensemble, on fresh samples, and records the excess risk
    $\sum_k \lambda_k (\theta_k - w_k)^2$ over the population, whose mean over runs is the theory's `test_loss`.

    **Returns:** the trajectory, with `test_loss` `[steps + 1]` (a leading axis `seed` for an ensemble); with
    `return_net` the pair `(trajectory, trained net)`.
    """
    members = net.members if isinstance(net, Ensemble) else net
    checks.instance("net", members, LinearRegression, "a nets.LinearRegression or an ensemble of them on this task")
    largest = _largest_batch(protocol)
    problem = task.draw(1)
    weights = members.weights if isinstance(net, Ensemble) else members.weights[None]
    if weights.shape[-1] != problem.dim:
        raise ValueError(f"task must have the network's {weights.shape[-1]} modes; it has {problem.dim}.")
    final, test_loss = _run(weights, problem, protocol, jax.random.split(key, len(weights)), largest)
    if not isinstance(net, Ensemble):
        final, test_loss = final[0], test_loss[0]
    diverged = first_divergence(test_loss)
    trajectory = Trajectory(
        test_loss=test_loss,
        status_code=jnp.where(diverged >= 0, DIVERGED, 0),
        diverged_step=diverged,
        loss_convention="mean_square",
        model="network",
        attributes=(("size", problem.dim), ("seeds", len(weights)), ("key", key_name(key))),
    )
    if throw:
        check(trajectory)
    if not return_net:
        return trajectory
    where = (lambda n: n.members.weights) if isinstance(net, Ensemble) else (lambda n: n.weights)
    return trajectory, eqx.tree_at(where, net, final)


def _largest_batch(protocol: OnlineSGD) -> int:
    if protocol.batch_size is None:
        raise ValueError("batch_ratio is for limits of many dimensions; give batch_size, the number of samples a step.")
    sizes = checks.concrete(protocol.batch_size)
    if sizes is None:
        raise TypeError("batch_size must be concrete to train a finite network: it fixes the shape of a batch.")
    fractional = sizes != np.round(sizes)
    if np.any(fractional):
        step = int(np.argmax(fractional))
        raise ValueError(f"batch_size must be whole to train a finite network; step {step} is {sizes[step]:g}.")
    return int(np.max(sizes))


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
