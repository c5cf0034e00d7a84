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
def run(weights, fixed, design, task, protocol, keys, steps: int, recorded: tuple[str, ...], largest_batch: int):
    """Trains `weights` with the rule's `fixed` arrays, both with axes `[seeds, signs]`, and records what is named in
    `recorded`. `largest_batch` is 0 for the full batch. Returns the final weights and the record with leading axis
    `[seeds]`."""
    width, dtype = weights.readout.shape[-1], weights.readout.dtype
    weights = spread_width(weights)
    optimiser: Any = protocol
    if isinstance(protocol, AbstractSteps):
        optimiser = schedules.transformation(protocol, jnp.asarray(learning_rate_scale(design, width), dtype))
    y = jnp.asarray(task.y, dtype)
    samples, several = y.shape[0], y.ndim == 2

    def run_one(weights, fixed, key):
        fixed = fixed_arrays(fixed, dtype)

        def loss(weights, multiplicity):
            outputs = mlp.forward(weights, design, task.x, fixed)
            return jnp.sum(multiplicity * mlp.losses_of(design, outputs, y, several)), outputs

        def step(carry, multiplicity):
            weights, state = carry
            if multiplicity is None:
                multiplicity = jnp.full(samples, 1.0 / samples, dtype)
            if is_trained_by_gradient(design.rule):
                (_, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(weights, multiplicity)
            else:
                outputs, gradient = mlp.descent_direction(weights, design, fixed, task.x, y, multiplicity)
            row = _observe(weights, design, fixed, task, outputs, recorded)
            updates, state = optimiser.update(gradient, state, weights)
            weights = jax.tree.map(jnp.add, weights, scale_updates(design, updates))
            return (weights, state), row

        # of a full batch no row a step is held, which would take as much memory as the predictions
        batches = batch_weights(protocol, key, samples, largest_batch, dtype) if largest_batch else None
        (final, _), rows = jax.lax.scan(step, (weights, optimiser.init(weights)), batches, length=steps)
        outputs = mlp.forward(final, design, task.x, fixed)
        last = _observe(final, design, fixed, task, outputs, recorded)
        rows = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), rows, last)
        record: dict[str, Any] = {name: rows.pop(name) for name in ("predictions", "test_predictions") if name in rows}
        record["kernels"] = {}
        for name in ("Phi", "G") if "kernels" in recorded else ():
            for l, field in enumerate(rows.pop(name), start=1):
                kernel = jnp.einsum("tmi,sni->tsmn", field, field, precision="highest") / width
                record["kernels"][name, l] = kernel
        record["extras"] = rows
        return final, record

    def run_seed(inputs):
        weights, fixed, key = inputs
        # Both networks of a pair see the same batches, so that their mean has the noise of one.
        final, record = jax.vmap(run_one, in_axes=(0, 0, None))(weights, fixed, key)
        record = jax.tree.map(lambda a: jnp.mean(a, axis=0), record)
        record["train_loss"] = jnp.mean(mlp.losses_of(design, record["predictions"], y, several), axis=-1)
        if task.has_test and task.y_test is not None:
            y_test = jnp.asarray(task.y_test, dtype)
            losses = mlp.losses_of(design, record["test_predictions"], y_test, several)
            record["test_loss"] = jnp.mean(losses, axis=-1)
        record["diverged_step"] = first_divergence(record["train_loss"])
        return final, record

    seeds, most = keys.shape[0], max(1, _WEIGHTS_AT_ONCE // (weights.readout.shape[1] * width**2))
    # A divisor of the number of seeds: a remainder would be compiled as a second program.
    together = max(n for n in range(1, min(seeds, most) + 1) if seeds % n == 0)
    return spread_map(run_seed, (weights, fixed, keys), "seeds", batch_size=together)


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
            row["alignment"] = kernel_alignment(ntk, y)
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
