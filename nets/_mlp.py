"""Multilayer perceptrons of finite width in the mean-field parameterisation."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import (
    AbstractSteps,
    Dataset,
    GradientDescent,
    MinibatchSGD,
    OnlineSGD,
    default_key,
    first_divergence,
    schedules,
)
from ..problems import _checks as checks
from ._activations import activation_function
from ._base import AbstractNet, Ensemble, Frozen
from ._batches import batch_weights, check_batch, no_steps, whole_batch_size


class MLPWeights(eqx.Module):
    """All that trains: `hidden[l]` `[fan_out, fan_in]` for l = 0..depth-1, `readout` `[width]`, and `biases[l]`
    `[width]` (`None` without biases); entries of order one."""

    hidden: tuple[Any, ...]
    readout: Any
    biases: tuple[Any, ...] | None


class MLP(AbstractNet):
    r"""A perceptron of finite width $N$, every entry of its weights of order one.

    $$h^1 = \frac{W^0 x}{\sqrt D} + b^1, \quad h^{l+1} = \frac{W^l\phi(h^l)}{\sqrt N} + b^{l+1}, \quad
      f = \frac{w\cdot\phi(h^L)}{\gamma_0 N}.$$

    A raw step of $\eta\gamma_0^2 N$ (`learning_rate_scale` times the learning rate) makes features move by an amount of
    order $\gamma_0$ at any width.

    ??? cite "Source"
        Self-Consistent Dynamical Field Theory of Kernel Evolution in Wide Neural Networks, arXiv 2205.09653.
    """

    weights: MLPWeights
    frozen: Frozen = eqx.field(static=True)

    @classmethod
    def init(cls, design, dim: int, width: int, key=None) -> "MLP":
        r"""Random weights: $W^l_{ij} \sim N(0, s_l^2)$, $b^l_i \sim N(0, \sigma_b^2)$ with the scales of `design`."""
        _check_finite(design, dim, width)
        return cls(_init_weights(design, design.has_biases, dim, width, default_key(key)), Frozen(design))

    @classmethod
    def pairs(cls, design, dim: int, width: int, seeds: int, key=None) -> Ensemble:
        """`seeds` pairs of networks that differ in the sign of the readout."""
        _check_finite(design, dim, width)
        seeds = checks.integer("seeds", seeds)
        return Ensemble(
            cls(_init_pairs(design, design.has_biases, dim, width, default_key(key), seeds), Frozen(design)),
            paired=True,
        )

    @property
    def width(self) -> int:
        """Number of units in each hidden layer."""
        return self.weights.readout.shape[-1]

    @property
    def learning_rate_scale(self):
        """Raw step over learning rate, richness squared times width."""
        return learning_rate_scale(self.design, self.width)

    def __call__(self, x):
        """The output, a scalar, for one input `[dim]`."""
        fan_in = self.weights.hidden[0].shape[-1]
        if jnp.shape(x) != (fan_in,):
            raise ValueError(
                f"x must have shape [{fan_in}], one input (jax.vmap takes many); its shape is {jnp.shape(x)}."
            )
        return forward(self.weights, self.design, jnp.asarray(x)[None, :])[0]

    def learn(self, weights, task, protocol, *, key, steps, kernels: bool = False, singular_values: bool = False):
        r"""See `nets.train`. `kernels` records Phi and G of every layer, `[time, time, sample, sample]`;
        `singular_values` those of $W^l/\sqrt N$, l = 1..depth-1, in decreasing order, as `extras["singular_values_l"]`
        `[time, width]` (in pairs: the mean of the two)."""
        checks.flag("kernels", kernels)
        checks.flag("singular_values", singular_values)
        checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays) for a nets.MLP")
        if task.y.ndim != 1:
            raise ValueError(f"y must have shape [samples] for a network with one output; its shape is {task.y.shape}.")
        steps = _check_protocol(protocol, steps, task)
        fan_in = weights.hidden[0].shape[-1]
        if fan_in != task.dim:
            raise ValueError(f"task must have the network's {fan_in} input dimensions; it has {task.dim}.")
        keys = jax.random.split(key, weights.readout.shape[0])
        largest = whole_batch_size(protocol) if isinstance(protocol, MinibatchSGD) else 0
        final, fields = _run(weights, self.design, task, protocol, keys, steps, kernels, singular_values, largest)
        return final, fields | {"loss_convention": "half_mean_square", "attributes": (("size", self.width),)}

    def fields(self, x):
        """For inputs `[samples, dim]`: activations and backward fields of every layer, each `[samples, width]`; see
        `fields`."""
        return fields(self.weights, self.design, x)


def learning_rate_scale(design, width: int):
    """Richness squared times width."""
    return design.richness**2 * width


def forward(weights: MLPWeights, design, x, shifts=None, activations: bool = False):
    """Outputs `[samples]` for inputs `[samples, dim]`; `shifts[l]` is added to the preactivations of layer l + 1."""
    phi = activation_function(design.activation)
    width = weights.readout.shape[0]
    dtype = weights.readout.dtype
    signal, fan_in, layers = jnp.asarray(x, dtype), x.shape[-1], []
    for l, matrix in enumerate(weights.hidden):
        h = signal @ matrix.T / fan_in**0.5
        if weights.biases is not None:
            h = h + weights.biases[l]
        if shifts is not None:
            h = h + shifts[l]
        signal, fan_in = phi(h), width
        layers.append(signal)
    outputs = signal @ weights.readout / (jnp.asarray(design.richness, dtype) * width)
    return (outputs, tuple(layers)) if activations else outputs


def fields(weights: MLPWeights, design, x):
    r"""Activations $\phi(h^l)$ and backward fields $g^l = \gamma_0 N\,\partial f/\partial h^l$, tuples over layers of
    arrays `[samples, width]`."""
    width = weights.readout.shape[0]
    zeros = tuple(jnp.zeros((x.shape[0], width), weights.readout.dtype) for _ in weights.hidden)

    def total(shifts):
        outputs, layers = forward(weights, design, x, shifts, activations=True)
        return jnp.sum(outputs), layers

    gradients, layers = jax.grad(total, has_aux=True)(zeros)
    scale = jnp.asarray(design.richness, weights.readout.dtype) * width
    return layers, tuple(scale * g for g in gradients)


@eqx.filter_jit
def _init_pairs(design, biased: bool, dim: int, width: int, key, seeds: int) -> MLPWeights:
    def pair(key):
        weights = _init_weights(design, biased, dim, width, key)
        flipped = eqx.tree_at(lambda w: w.readout, weights, -weights.readout)
        return jax.tree.map(lambda a, b: jnp.stack([a, b]), weights, flipped)

    return jax.vmap(pair)(jax.random.split(key, seeds))


@eqx.filter_jit
def _init_weights(design, biased: bool, dim: int, width: int, key) -> MLPWeights:
    fan_in = [dim] + [width] * (design.depth - 1)
    shapes = [(width, n) for n in fan_in] + [(width,)] * (1 + (design.depth if biased else 0))
    scales = [jnp.broadcast_to(jnp.asarray(design.init_scale, float), (design.depth + 1,))]
    scales += [jnp.broadcast_to(jnp.asarray(design.bias_scale, float), (design.depth,))] * biased
    # One call for all weights: every call of the generator costs a second of compilation.
    sizes = [math.prod(shape) for shape in shapes]
    drawn = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    scaled = [s * z.reshape(shape) for s, z, shape in zip(jnp.concatenate(scales), drawn, shapes, strict=True)]
    hidden, readout, biases = scaled[: design.depth], scaled[design.depth], scaled[design.depth + 1 :]
    return MLPWeights(tuple(hidden), readout, tuple(biases) if biased else None)


def _check_finite(design, dim, width):
    checks.integer("dim", dim)
    checks.integer("size", width)
    richness = checks.concrete(design.richness)
    if richness is not None and richness == 0:
        raise ValueError(
            "richness must be above 0 for a finite network: its output carries 1/richness; it is 0. "
            "A small value such as 0.01 with an ensemble of pairs is the lazy limit's network."
        )


def _check_protocol(protocol, steps, task):
    """The number of steps; optax transformations pass as they are."""
    if isinstance(protocol, (GradientDescent, MinibatchSGD)):
        no_steps(steps)
        if isinstance(protocol, MinibatchSGD):
            whole_batch_size(protocol)
            check_batch(protocol, task.y.shape[0])
        return protocol.steps
    if isinstance(protocol, OnlineSGD):
        raise TypeError("protocol OnlineSGD draws fresh samples, which a fixed data set cannot give; use MinibatchSGD.")
    if hasattr(protocol, "init") and hasattr(protocol, "update"):
        if steps is None:
            raise ValueError("steps is needed with an optax optimiser.")
        return checks.integer("steps", steps)
    raise TypeError(
        "protocol must be GradientDescent, MinibatchSGD or an optax.GradientTransformation; "
        f"{type(protocol).__name__} was given."
    )


@eqx.filter_jit
def _run(weights, design, task, protocol, keys, steps, kernels, singular_values, largest_batch):
    """`weights` have axes `[seeds, signs]`; returns the final weights and the record with leading axis `[seeds]`."""
    width = weights.readout.shape[-1]
    dtype = weights.readout.dtype
    scale = jnp.asarray(learning_rate_scale(design, width), dtype)
    optimiser = schedules.transformation(protocol, scale) if isinstance(protocol, AbstractSteps) else protocol
    y = jnp.asarray(task.y, dtype)
    signs = weights.readout.shape[1]

    def loss(weights, multiplicity):
        outputs: Any = forward(weights, design, task.x)
        return jnp.sum(multiplicity * (y - outputs) ** 2) / 2, outputs

    def observe(weights, outputs):
        row = {"predictions": outputs}
        if task.has_test:
            row["test_predictions"] = forward(weights, design, task.x_test)
        if kernels:
            row["Phi"], row["G"] = fields(weights, design, task.x)
        for l in range(1, design.depth) if singular_values else ():
            row[f"singular_values_{l}"] = jnp.linalg.svd(weights.hidden[l] / width**0.5, compute_uv=False)
        return row

    def step(carry, multiplicity):
        weights, state = carry
        (_, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(weights, multiplicity)
        row = observe(weights, outputs)
        updates, state = optimiser.update(gradient, state, weights)
        weights = jax.tree.map(jnp.add, weights, updates)
        return (weights, state), row

    def run_one(weights, key):
        if isinstance(protocol, AbstractSteps):
            batches = batch_weights(protocol, key, y.shape[0], largest_batch, dtype)
        else:
            batches = jnp.full((steps, y.shape[0]), 1.0 / y.shape[0], dtype)
        (final, _), rows = jax.lax.scan(step, (weights, optimiser.init(weights)), batches)
        last = observe(final, forward(final, design, task.x))
        rows = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), rows, last)
        record: dict[str, Any] = {name: rows[name] for name in ("predictions", "test_predictions") if name in rows}
        record["extras"] = {name: row for name, row in rows.items() if name.startswith("singular_values")}
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
