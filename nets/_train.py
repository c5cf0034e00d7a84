"""Training of finite networks: one compiled scan over the steps, many seeds at once."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import (
    AbstractDistribution,
    AbstractSteps,
    Dataset,
    GradientDescent,
    MinibatchSGD,
    OnlineSGD,
    Trajectory,
    check,
    default_key,
    first_divergence,
    key_name,
    schedules,
)
from ..problems import _checks as checks
from . import _mlp
from ._base import AbstractNet, Ensemble
from ._mlp import MLP


def train(
    net: AbstractNet | Ensemble,
    task,
    protocol,
    *,
    key=None,
    steps: int | None = None,
    kernels: bool = False,
    return_net: bool = False,
    throw: bool = True,
) -> Any:
    """Trains a network, or all networks of an ensemble at once, and records the same trajectory as the theory.

    **Arguments:**

    - `net`: a network or an `Ensemble`; every array of an ensemble's record has a leading axis `seed`, and a pair of
      networks counts as one seed with the pair's mean prediction (losses are those of the mean prediction).
    - `task`: what is learned.
    - `protocol`: `GradientDescent`, `MinibatchSGD` or `OnlineSGD`; or any `optax.GradientTransformation`, applied to
      full-batch gradients of the raw weights for `steps` steps.
    - `key`: random key of what the protocol samples.
    - `kernels`: whether to record the kernels Phi and G of every layer, `[time, time, sample, sample]`.
    - `return_net`: whether to return `(trajectory, trained net)`.
    - `throw`: whether a diverged run raises.

    **Raises:** `DivergedError` with the step and the number of runs that diverged; `TypeError` and `ValueError` for
    arguments that do not fit together.
    """
    checks.instance("net", net, (AbstractNet, Ensemble), "a network or an ensemble of networks")
    for name, value in (("kernels", kernels), ("return_net", return_net), ("throw", throw)):
        checks.flag(name, value)
    key = default_key(key)
    if isinstance(task, AbstractDistribution):
        if steps is not None:
            raise ValueError("steps goes with an optax optimiser; the protocol's schedules have their own number.")
        from ._online import train_online

        if not isinstance(protocol, OnlineSGD):
            raise TypeError(f"protocol must be OnlineSGD on a distribution task; {type(protocol).__name__} was given.")
        return train_online(net, task, protocol, key=key, return_net=return_net, throw=throw)
    return _train_on_data(net, task, protocol, key, steps, kernels, return_net, throw)


def _train_on_data(net, task, protocol, key, steps, kernels, return_net, throw):
    checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays)")
    members = net.members if isinstance(net, Ensemble) else net
    checks.instance("net", members, MLP, "a nets.MLP or an ensemble of them on a fixed data set")
    if task.y.ndim != 1:
        raise ValueError(f"y must have shape [samples] for a network with one output; its shape is {task.y.shape}.")
    protocol, steps = _check_protocol(protocol, steps, task)
    fan_in = members.weights.hidden[0].shape[-1]
    if fan_in != task.dim:
        raise ValueError(f"task must have the network's {fan_in} input dimensions; it has {task.dim}.")
    weights = members.weights
    if isinstance(net, Ensemble):
        seeds = net.seeds
        if not net.paired:
            weights = jax.tree.map(lambda w: w[:, None], weights)
    else:
        seeds = 1
        weights = jax.tree.map(lambda w: w[None, None], weights)
    keys = jax.random.split(key, seeds)
    largest = _largest_batch(protocol)
    final, record = _run(weights, members.design, task, protocol, keys, steps, kernels, largest)
    if not isinstance(net, Ensemble):
        record = jax.tree.map(lambda a: a[0], record)
        final = jax.tree.map(lambda w: w[0, 0], final)
    elif not net.paired:
        final = jax.tree.map(lambda w: w[:, 0], final)
    attributes = (("size", members.width), ("seeds", seeds), ("key", key_name(key)))
    trajectory = Trajectory(
        **record,
        status_code=jnp.where(record["diverged_step"] >= 0, 1, 0),
        loss_convention="half_mean_square",
        model="network",
        attributes=attributes,
    )
    if throw:
        check(trajectory)
    if not return_net:
        return trajectory
    if isinstance(net, Ensemble):
        return trajectory, eqx.tree_at(lambda n: n.members.weights, net, final)
    return trajectory, eqx.tree_at(lambda n: n.weights, net, final)


def _check_protocol(protocol, steps, task):
    """The protocol and its number of steps; optax transformations pass as they are."""
    if isinstance(protocol, (GradientDescent, MinibatchSGD)):
        if steps is not None:
            raise ValueError("steps goes with an optax optimiser; the protocol's schedules have their own number.")
        if isinstance(protocol, MinibatchSGD):
            largest = _largest_batch(protocol)
            if not protocol.replace and largest > task.y.shape[0]:
                raise ValueError(
                    f"batch_size must be at most the {task.y.shape[0]} samples without replacement; it is {largest}."
                )
        return protocol, protocol.steps
    if isinstance(protocol, OnlineSGD):
        raise TypeError("protocol OnlineSGD draws fresh samples, which a fixed data set cannot give; use MinibatchSGD.")
    if hasattr(protocol, "init") and hasattr(protocol, "update"):
        if steps is None:
            raise ValueError("steps is needed with an optax optimiser.")
        return protocol, checks.integer("steps", steps)
    raise TypeError(
        "protocol must be GradientDescent, MinibatchSGD or an optax.GradientTransformation; "
        f"{type(protocol).__name__} was given."
    )


def _largest_batch(protocol) -> int:
    if not isinstance(protocol, MinibatchSGD):
        return 0
    sizes = checks.concrete(protocol.batch_size)
    if sizes is None:
        raise TypeError("batch_size must be concrete to train a finite network: it fixes the shape of a batch.")
    fractional = sizes != np.round(sizes)
    if np.any(fractional):
        step = int(np.argmax(fractional))
        raise ValueError(f"batch_size must be whole to train a finite network; step {step} is {sizes[step]:g}.")
    return int(np.max(sizes))


@eqx.filter_jit
def _run(weights, design, task, protocol, keys, steps, kernels, largest_batch):
    """`weights` have axes `[seeds, signs]`; returns the final weights and the record with leading axis `[seeds]`."""
    width = weights.readout.shape[-1]
    dtype = weights.readout.dtype
    scale = jnp.asarray(_mlp.learning_rate_scale(design, width), dtype)
    optimiser = schedules.transformation(protocol, scale) if isinstance(protocol, AbstractSteps) else protocol
    y = jnp.asarray(task.y, dtype)
    signs = weights.readout.shape[1]

    def loss(weights, multiplicity):
        outputs: Any = _mlp.forward(weights, design, task.x)
        return jnp.sum(multiplicity * (y - outputs) ** 2) / 2, outputs

    def observe(weights, outputs):
        row = {"predictions": outputs}
        if task.has_test:
            row["test_predictions"] = _mlp.forward(weights, design, task.x_test)
        if kernels:
            row["Phi"], row["G"] = _mlp.fields(weights, design, task.x)
        return row

    def step(carry, inputs):
        weights, state = carry
        time, key = inputs
        multiplicity = _multiplicity(protocol, time, key, y.shape[0], largest_batch, dtype)
        (_, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(weights, multiplicity)
        row = observe(weights, outputs)
        updates, state = optimiser.update(gradient, state, weights)
        weights = jax.tree.map(jnp.add, weights, updates)
        return (weights, state), row

    def run_one(weights, key):
        inputs = (jnp.arange(steps), jax.random.split(key, steps))
        (final, _), rows = jax.lax.scan(step, (weights, optimiser.init(weights)), inputs)
        last = observe(final, _mlp.forward(final, design, task.x))
        rows = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), rows, last)
        record: dict[str, Any] = {name: rows[name] for name in ("predictions", "test_predictions") if name in rows}
        record["kernels"] = {}
        for name in ("Phi", "G") if kernels else ():
            for l, field in enumerate(rows[name], start=1):
                kernel = jnp.einsum("tmi,sni->tsmn", field, field, precision="highest") / width
                record["kernels"][name, l] = kernel
        return final, record

    def run_seed(inputs):
        weights, key = inputs
        # Both networks of a pair see the same batches, so that their mean has the noise of one.
        final, record = jax.vmap(run_one, in_axes=(0, None))(weights, key)
        record = jax.tree.map(lambda a: jnp.mean(a, axis=0), record)
        record["train_loss"] = jnp.mean((record["predictions"] - y) ** 2, axis=-1) / 2
        if task.has_test and task.y_test is not None:
            error = jnp.asarray(task.y_test, dtype) - record["test_predictions"]
            record["test_loss"] = jnp.mean(error**2, axis=-1) / 2
        record["diverged_step"] = first_divergence(record["train_loss"])
        return final, record

    seeds, most = keys.shape[0], max(1, _WEIGHTS_AT_ONCE // (signs * width**2))
    # A divisor of the number of seeds: a remainder would be compiled as a second program.
    together = max(n for n in range(1, min(seeds, most) + 1) if seeds % n == 0)
    return jax.lax.map(run_seed, (weights, keys), batch_size=together)


# Weights of one layer that train side by side: enough to fill the cores, few enough to stay in cache and memory.
_WEIGHTS_AT_ONCE = 2**18


def _multiplicity(protocol, time, key, samples: int, largest_batch: int, dtype):
    """The weight of each sample in the loss of this step: 1/P for the full batch, draws over batch size otherwise."""
    if not isinstance(protocol, MinibatchSGD):
        return jnp.full((samples,), 1.0 / samples, dtype)
    batch = jnp.asarray(protocol.batch_size, dtype)[time]
    if protocol.replace:
        drawn = jax.random.randint(key, (largest_batch,), 0, samples)
    else:
        drawn = jax.random.permutation(key, samples)[:largest_batch]
    counted = (jnp.arange(largest_batch) < batch).astype(dtype)
    return jnp.zeros((samples,), dtype).at[drawn].add(counted) / batch
