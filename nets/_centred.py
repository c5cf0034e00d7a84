"""Training of centred networks: what they learn is the change of their output since initialisation."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import Dataset, DivergedError, GradientDescent, OnlineSGD, default_key, schedules
from ..problems import _checks as checks
from ..solvers import spread_map
from ._base import Ensemble
from ._batches import runs_at_once, whole_batch_size
from ._mlp import MLP, fields, forward
from .rules import Backpropagation


class CentredRun(NamedTuple):
    r"""Centred networks in training.

    - `times` `[time]`: the numbers of updates at which they were looked at.
    - `outputs` `[seeds, time, samples]`: $f - f_0$ on the inputs asked for.
    - `kernels[l]` `[seeds, time, inputs, inputs]`, l = 1..depth: $\phi(h^l)\cdot\phi(h^l)/N$ on the other inputs asked
      for.
    - `nets`: the trained ensemble.
    """

    times: np.ndarray
    outputs: np.ndarray
    kernels: dict[int, np.ndarray]
    nets: Ensemble


def draw(design, dim: int, width: int, seeds: int, key=None) -> Ensemble:
    """`seeds` independent perceptrons of one design."""
    pairs = MLP.pairs(design, dim, width, seeds, key)
    return Ensemble(jax.tree.map(lambda w: w[:, 0], pairs.members), paired=False)


def train_centred(nets: Ensemble, task, protocol, x, *, times=None, kernel_inputs=None, key=None) -> CentredRun:
    r"""Trains perceptrons on $\frac1{2P}\sum_\mu(y_\mu - f_\mu + f_{0\mu})^2$, $f_0$ the output at initialisation.

    Without $f_0$, of order $1/\gamma_0\sqrt N$, what networks of different widths and richness have learned can be
    compared. All networks see the same data.

    **Arguments:**

    - `nets`: an ensemble of `nets.MLP`, unpaired.
    - `task`, `protocol`: a `Dataset` with `GradientDescent`, on all samples; or a distribution with
      `batch(key, count)` and `OnlineSGD`, on fresh batches.
    - `x`: where outputs are recorded, `[samples, dim]`.
    - `times`: after how many updates to record, increasing; by default at the end only.
    - `kernel_inputs`: where kernels are recorded, `[inputs, dim]`; `None`: nowhere.
    - `key`: random key of the batches.

    **Raises:** `DivergedError` if outputs are not finite at one of `times`; `TypeError` and `ValueError` for arguments
    that do not fit together.
    """
    _check_nets(nets)
    online = not isinstance(task, Dataset)
    checks.instance(
        "protocol",
        protocol,
        OnlineSGD if online else GradientDescent,
        f"{'OnlineSGD for fresh batches' if online else 'GradientDescent for a fixed data set'}",
    )
    if not online and task.y.ndim != 1:
        raise ValueError(f"y must have shape [samples] for a network with one output; its shape is {task.y.shape}.")
    times = _check_times(times, protocol.steps)
    batch = whole_batch_size(protocol) if online else None
    if online and np.any(np.asarray(protocol.batch_size) != batch):
        raise ValueError("batch_size must be the same at every step for centred networks.")
    weights = nets.members.weights
    seeds, width = weights.readout.shape
    final, outputs, kernels = _run(
        weights,
        nets.design,
        task,
        protocol,
        default_key(key),
        jnp.asarray(times),
        np.asarray(x, float),
        None if kernel_inputs is None else np.asarray(kernel_inputs, float),
        batch,
        runs_at_once(seeds, _WEIGHTS_AT_ONCE // width**2),
    )
    outputs = np.asarray(outputs)
    bad = ~np.all(np.isfinite(outputs), axis=2)
    if np.any(bad):
        first = int(np.min(np.argmax(bad, axis=1)[np.any(bad, axis=1)]))
        raise DivergedError(
            f"{int(np.sum(np.any(bad, axis=1)))} of {seeds} networks of width {width} left the stable region by step "
            f"{times[first]}. Use a smaller learning_rate."
        )
    trained = eqx.tree_at(lambda n: n.members.weights, nets, final)
    return CentredRun(times, outputs, {l: np.asarray(k) for l, k in enumerate(kernels, start=1)}, trained)


def tangent_kernels(nets: Ensemble, x) -> np.ndarray:
    r"""Tangent kernels `[seeds, samples, samples]` of perceptrons without biases, in units in which they are O(1).

    $K = \gamma_0^2N\,\partial_\theta f\cdot\partial_\theta f = \sum_{l=0}^LG^{l+1}\circ\Phi^l$ with $\Phi^0 = xx^T/D$,
    $G^{L+1} = 1$, from backward fields: no derivative with respect to a weight is formed.

    **Raises:** `ValueError` for networks with biases.
    """
    if nets.members.weights.biases is not None:
        raise ValueError("tangent_kernels is for networks without biases; bias_scale must be 0.")
    return np.asarray(_tangent_kernels(nets.members.weights, nets.design, np.asarray(x, float)))


@eqx.filter_jit
def _tangent_kernels(weights, design, x):
    def kernel(w):
        layers, gradients = fields(w, design, x)
        total = _gram(layers[-1])
        for signal, gradient in zip((None, *layers[:-1]), gradients, strict=True):
            forward_kernel = _gram(jnp.asarray(x, gradient.dtype)) if signal is None else _gram(signal)
            total = total + _gram(gradient) * forward_kernel
        return total

    return spread_map(kernel, weights, "seeds")


def _gram(field):
    return jnp.matmul(field, field.T, precision="highest") / field.shape[-1]


@eqx.filter_jit
def _run(weights, design, task, protocol, key, times, x, kernel_inputs, batch, together):
    width, dtype = weights.readout.shape[-1], weights.readout.dtype
    optimiser = schedules.transformation(protocol, jnp.asarray(design.richness**2 * width, dtype))

    def output(weights, x) -> Any:
        return forward(weights, design, x)

    def loss(weights, x, y):
        return jnp.mean((y - output(weights, x)) ** 2) / 2

    def run(first):
        data: Any = None if batch is not None else (task.x, jnp.asarray(task.y, dtype) + output(first, task.x))
        start = output(first, x)

        def step(time, carry):
            weights, state = carry
            if batch is None:
                inputs, targets = data
            else:
                inputs, targets = task.batch(jax.random.fold_in(key, time), batch)
                targets = targets + output(first, inputs)
            gradient = jax.grad(loss)(weights, inputs, targets)
            moves, state = optimiser.update(gradient, state, weights)
            return jax.tree.map(jnp.add, weights, moves), state

        def observe(weights):
            row: Any = (output(weights, x) - start, ())
            if kernel_inputs is not None:
                layers, _ = fields(weights, design, kernel_inputs)
                row = row[0], tuple(map(_gram, layers))
            return row

        def segment(carry, bounds):
            carry = jax.lax.fori_loop(bounds[0], bounds[1], step, carry)
            return carry, observe(carry[0])

        starts = jnp.concatenate([jnp.zeros(1, times.dtype), times[:-1]])
        (final, _), rows = jax.lax.scan(segment, (first, optimiser.init(first)), (starts, times))
        return final, *rows

    return spread_map(run, weights, "seeds", batch_size=together)


# Weights of one layer that train side by side.
_WEIGHTS_AT_ONCE = 2**14


def _check_nets(nets) -> None:
    checks.instance("nets", nets, Ensemble, "an ensemble of nets.MLP")
    checks.instance("nets", nets.members, MLP, "an ensemble of nets.MLP")
    if nets.paired:
        raise ValueError("nets are pairs, whose mean starts at zero; take single networks (paired=False).")
    design = nets.design
    plain = isinstance(design.rule, Backpropagation) and design.loss == "half_mean_square"
    if not plain or np.any(np.asarray(design.rate_scale) != 1):
        raise ValueError(
            "centred networks descend on the half mean square, all layers at one rate; leave rule, loss and rate_scale "
            "of the design at their defaults."
        )


def _check_times(times, steps: int) -> np.ndarray:
    times = np.array([steps]) if times is None else np.asarray(times)
    if times.ndim != 1 or times.size == 0 or times.dtype.kind not in "iu":
        raise TypeError(f"times must be a list of whole numbers; {checks.shown(times)} was given.")
    if times[0] < 0 or times[-1] > steps or np.any(np.diff(times) <= 0):
        raise ValueError(f"times must increase from at least 0 to at most the {steps} steps; they are {times}.")
    return times
