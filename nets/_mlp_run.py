"""The training loop of perceptrons: many seeds at once, recorded as they learn."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..problems import AbstractSteps, first_divergence, schedules
from ..solvers import kernel_alignment, spread_map
from . import _mlp_fields as mlp
from ._batches import batch_weights
from ._mlp_weights import fixed_arrays, learning_rate_scale, scale_updates, spread_width
from .rules import is_trained_by_gradient


@eqx.filter_jit
def run(weights, fixed, keys, *problem):
    """Trains `weights` with the rule's `fixed` arrays, both with axes `[seeds, signs]`; `problem` is what `Training`
    takes beside the weights. Returns the final weights and the record with leading axis `[seeds]`."""
    one = Training(weights, *problem)

    def run_seed(inputs):
        weights, fixed, key = inputs
        carry, rows = one.advance(one.begin(weights), fixed, key)
        return one.finish(carry, rows, fixed)

    together = seeds_at_once(weights)
    return spread_map(run_seed, (spread_width(weights), fixed, keys), "seeds", batch_size=together)


class Training:
    """What is done with the networks of one seed, whose arrays have a leading axis `[signs]`.

    **Arguments:**

    - `weights`: any weights of the right shapes.
    - `recorded`: names of what is recorded beside outputs and losses.
    - `largest_batch`: 0 for the full batch.
    """

    def __init__(self, weights, design, task, protocol, steps: int, recorded: tuple[str, ...], largest_batch: int):
        self.width, self.dtype = weights.readout.shape[-1], weights.readout.dtype
        self.design, self.task, self.protocol, self.steps = design, task, protocol, steps
        self.recorded, self.largest_batch = recorded, largest_batch
        self.optimiser: Any = protocol
        if isinstance(protocol, AbstractSteps):
            rate_scale = jnp.asarray(learning_rate_scale(design, self.width), self.dtype)
            self.optimiser = schedules.transformation(protocol, rate_scale)
        self.y = jnp.asarray(task.y, self.dtype)

    def begin(self, weights):
        """Where the training starts: the weights and the state of the optimiser."""
        return weights, jax.vmap(self.optimiser.init)(weights)

    def advance(self, carry, fixed, key, first=0, count: int | None = None):
        """`count` steps from the step `first` on, by default all; returns a row of the record for each,
        `[signs, count]`."""
        count, samples = self.steps if count is None else count, len(self.y)
        # Both networks of a pair see the same batches, so that their mean has the noise of one. Of a full batch no
        # row a step is held, which would take as much memory as the predictions.
        batches = None
        if self.largest_batch:
            times = first + jnp.arange(count)
            batches = batch_weights(self.protocol, key, samples, self.largest_batch, self.dtype, times)

        def advance_one(carry, fixed):
            fixed = fixed_arrays(fixed, self.dtype)
            return jax.lax.scan(lambda carry, batch: self._step(carry, fixed, batch), carry, batches, length=count)

        return jax.vmap(advance_one)(carry, fixed)

    def _step(self, carry, fixed, multiplicity):
        weights, state = carry
        design, task, y, samples = self.design, self.task, self.y, len(self.y)
        if multiplicity is None:
            multiplicity = jnp.full(samples, 1.0 / samples, self.dtype)

        def loss(weights):
            outputs = mlp.forward(weights, design, task.x, fixed)
            return jnp.sum(multiplicity * mlp.losses_of(design, outputs, y, y.ndim == 2)), outputs

        if is_trained_by_gradient(design.rule):
            (_, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(weights)
        else:
            outputs, gradient = mlp.descent_direction(weights, design, fixed, task.x, y, multiplicity)
        row = _observe(weights, design, fixed, task, outputs, self.recorded)
        updates, state = self.optimiser.update(gradient, state, weights)
        return (jax.tree.map(jnp.add, weights, scale_updates(design, updates)), state), row

    def finish(self, carry, rows, fixed):
        """The final weights, and the record of the pair."""
        final, task, y = carry[0], self.task, self.y
        record = jax.vmap(self._record)(final, rows, fixed)
        record = jax.tree.map(lambda a: jnp.mean(a, axis=0), record)
        losses = lambda f, y: jnp.mean(mlp.losses_of(self.design, f, y, y.ndim == 2), axis=-1)  # noqa: E731
        record["train_loss"] = losses(record["predictions"], y)
        if task.has_test and task.y_test is not None:
            record["test_loss"] = losses(record["test_predictions"], jnp.asarray(task.y_test, self.dtype))
        record["diverged_step"] = first_divergence(record["train_loss"])
        return final, record

    def _record(self, final, rows, fixed):
        fixed = fixed_arrays(fixed, self.dtype)
        outputs = mlp.forward(final, self.design, self.task.x, fixed)
        last = _observe(final, self.design, fixed, self.task, outputs, self.recorded)
        rows = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), rows, last)
        record: dict[str, Any] = {name: rows.pop(name) for name in ("predictions", "test_predictions") if name in rows}
        record["kernels"] = {}
        for name in ("Phi", "G") if "kernels" in self.recorded else ():
            for l, field in enumerate(rows.pop(name), start=1):
                kernel = jnp.einsum("tmi,sni->tsmn", field, field, precision="highest") / self.width
                record["kernels"][name, l] = kernel
        record["extras"] = rows
        return record


def seeds_at_once(weights) -> int:
    """How many seeds train side by side: a divisor of their number, since a remainder would be a second program."""
    seeds, signs, width = weights.readout.shape[0], weights.readout.shape[1], weights.readout.shape[-1]
    most = max(1, _WEIGHTS_AT_ONCE // (signs * width**2))
    return max(n for n in range(1, min(seeds, most) + 1) if seeds % n == 0)


def _observe(weights, design, fixed, task, outputs, recorded) -> dict[str, Any]:
    """One row of the record of one network."""
    row: dict[str, Any] = {"predictions": outputs}
    if task.has_test:
        row["test_predictions"] = mlp.forward(weights, design, task.x_test, fixed)
    if "singular_values" in recorded:
        for l in range(1, design.depth):
            matrix = weights.hidden[l] / weights.readout.shape[-1] ** 0.5
            row[f"singular_values_{l}"] = jnp.linalg.svd(matrix, compute_uv=False)
    if not set(recorded) - {"singular_values"}:
        return row
    y = jnp.asarray(task.y, outputs.dtype)
    _, layers = mlp.propagate(weights, design, fixed, task.x)
    errors = mlp.errors_of(design, outputs, y)
    if "kernels" in recorded:
        row["Phi"] = layers.activations
        row["G"] = mlp.recorded_backward(design.rule, design, weights, fixed, layers, errors)
    if {"ntk", "alignment", "sharpness"} & set(recorded):
        ntk = mlp.tangent_kernel(weights, design, fixed, task.x, layers, errors)
        if "ntk" in recorded:
            row["ntk"] = ntk
        if "alignment" in recorded:
            row["alignment"] = kernel_alignment(ntk.reshape(y.size, y.size), y.ravel())
            for l, phi in enumerate(layers.activations, start=1):
                row[f"alignment_{l}"] = kernel_alignment(mlp.average(phi, phi), y)
        if "sharpness" in recorded:
            matrix = ntk.reshape(y.size, y.size)
            row["sharpness"] = jnp.linalg.eigvalsh((matrix + matrix.T) / 2)[-1] / len(y)
    if "densities" in recorded:
        for l, h in enumerate(layers.preactivations, start=1):
            row[f"density_{l}"] = mlp.density(h)
    return row


# Weights of one layer that train side by side: enough to fill the cores, few enough to stay in cache and memory.
_WEIGHTS_AT_ONCE = 2**18
