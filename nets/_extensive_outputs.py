"""Linear networks with a frozen readout and as many outputs as units, on whitened inputs."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..problems import GradientDescent, LinearMap, default_key, schedules
from ..problems import _checks as checks
from ..solvers import spread_map
from ._base import AbstractNet, Ensemble, Frozen
from ._batches import no_steps


class ExtensiveOutputsWeights(eqx.Module):
    """`hidden` `[width, dim]`, which trains, and `readout` `[outputs, width]`, which no gradient reaches."""

    hidden: Any
    readout: Any


class ExtensiveOutputs(AbstractNet):
    r"""$f = A W x/\sqrt D$ with $W$ `[width, dim]` trained and $A$ `[outputs, width]` frozen; see the limit.

    ??? cite "Source"
        Spectral Dynamics in Deep Networks: Feature Learning, Outlier Escape, and Learning Rate Transfer, arXiv
        2605.07870.
    """

    weights: ExtensiveOutputsWeights
    frozen: Frozen = eqx.field(static=True)

    @classmethod
    def ensemble(cls, design, task: LinearMap, dim: int, seeds: int, key=None) -> Ensemble:
        """`seeds` independent networks on `dim` inputs.

        **Raises:** `ValueError` where the ratios give less than one unit or output.
        """
        dim, seeds = checks.integer("size", dim), checks.integer("seeds", seeds)
        width, outputs = round(float(design.width_ratio) * dim), round(float(task.output_ratio) * dim)
        if min(width, outputs) < 1:
            raise ValueError(f"size must give at least one neuron and one output; it is {dim}.")
        key_hidden, key_readout = jax.random.split(default_key(key))
        hidden = jnp.asarray(design.init_scale, float) * jax.random.normal(key_hidden, (seeds, width, dim))
        readout = jax.random.normal(key_readout, (seeds, outputs, width)) / width**0.5
        return Ensemble(cls(ExtensiveOutputsWeights(hidden, readout), Frozen(design)), paired=False)

    @property
    def learning_rate_scale(self):
        r"""Raw step over learning rate for the loss $\frac12|W_\star - AW|^2$, 1."""
        return 1.0

    def __call__(self, x):
        """The outputs `[outputs]` for one input `[dim]`."""
        hidden, readout = self.weights.hidden, jax.lax.stop_gradient(self.weights.readout)
        return readout @ (hidden @ x) / hidden.shape[-1] ** 0.5

    def learn(self, weights, task, protocol, *, key, steps, singular_values: bool = False):
        r"""See `nets.train`. Every seed draws its own target. Records `test_loss`, and in `extras` of the
        singular values of $W/\sqrt D$ the largest, and means of second and fourth powers as `first_moment` and
        `second_moment`; `singular_values` records all as `singular_values_0` `[time, min(width, dim)]`."""
        checks.flag("singular_values", singular_values)
        checks.instance("task", task, LinearMap, "linear_map for a nets.ExtensiveOutputs")
        checks.instance("protocol", protocol, GradientDescent, "GradientDescent for a nets.ExtensiveOutputs")
        no_steps(steps)
        stacked = jax.tree.map(lambda w: w[:, 0], weights)
        hidden, rows = _run(stacked, task, protocol, jax.random.split(key, len(stacked.hidden)), singular_values)
        fields = {
            "test_loss": rows.pop("test_loss"),
            "extras": rows,
            "attributes": (("size", stacked.hidden.shape[-1]),),
        }
        return eqx.tree_at(lambda w: w.hidden, weights, hidden[:, None]), fields


@eqx.filter_jit
def _run(weights, task, protocol, keys, singular_values: bool):
    optimiser = schedules.transformation(protocol, 1.0)

    def run_seed(inputs):
        hidden, readout, key = inputs
        width, dim = hidden.shape
        target = jnp.asarray(task.scale, hidden.dtype) * jax.random.normal(key, (len(readout), dim), hidden.dtype)

        def observe(hidden):
            values = jnp.linalg.svd(hidden / dim**0.5, compute_uv=False)
            row = {
                "test_loss": jnp.mean((target - readout @ hidden) ** 2) / 2,
                "largest_singular_value": values[0],
                "first_moment": jnp.sum(values**2) / width,
                "second_moment": jnp.sum(values**4) / width,
            }
            return row | ({"singular_values_0": values} if singular_values else {})

        def step(carry, _):
            hidden, state = carry
            updates, state = optimiser.update(-readout.T @ (target - readout @ hidden), state, hidden)
            return (hidden + updates, state), observe(hidden)

        (final, _), rows = jax.lax.scan(step, (hidden, optimiser.init(hidden)), length=protocol.steps)
        return final, jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), rows, observe(final))

    return spread_map(run_seed, (weights.hidden, weights.readout, keys), "seeds")
