"""One hidden layer in the mean-field scaling: units that meet only in the error, each a functional of its history."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._linear_optimiser import descend
from ._march_basis import dot


class HiddenLayer(NamedTuple):
    r"""The problem that every unit sees. Inputs are in orthonormal directions: `data data^T` $= xx^T/D$.

    `biased` and `centred` are 1 or 0: whether units have biases, and whether predictions are counted from their start.
    """

    data: Float[Array, "samples rank"]
    test_data: Float[Array, "tests rank"]
    y: Float[Array, " samples"]
    learning_rate: Float[Array, " steps"]
    momentum: Float[Array, " steps"]
    weight_decay: Float[Array, " steps"]
    rate_scale: Float[Array, "2"]
    richness: Float[Array, ""]
    biased: Float[Array, ""]
    centred: Float[Array, ""]


class Units(NamedTuple):
    """Weights of many units."""

    first: Float[Array, "rank units"]
    bias: Float[Array, "1 units"]
    readout: Float[Array, "1 units"]


class Signals(NamedTuple):
    r"""What units send at one time: their share $w\phi(h)/\gamma$ of the predictions on training and test samples,
    activations $\phi(h)$ and backward fields $g = \phi'(h)\,w$ on training samples."""

    output: Float[Array, "all units"]
    phi: Float[Array, "samples units"]
    g: Float[Array, "samples units"]


def gaussian_grid(dim: int, spacing: float, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes `[dim, nodes]` and weights of the trapezoid rule for a unit Gaussian, inside of a ball.

    It converges geometrically in 1/spacing for functions that are analytic in a strip, such as those of a tanh, for
    which Gauss-Hermite nodes, made for polynomials, are poor.
    """
    line = spacing * np.arange(-int(radius / spacing), int(radius / spacing) + 1)
    nodes = np.zeros((0, 1))
    for _ in range(dim):
        nodes = np.stack([*np.repeat(nodes, len(line), axis=1), np.tile(line, nodes.shape[1])])
        nodes = nodes[:, np.sum(nodes**2, axis=0) <= radius**2]
    weights = np.exp(-np.sum(nodes**2, axis=0) / 2)
    return nodes, weights / weights.sum()


def initial_units(nodes: Float[Array, "gaussians units"], rank: int, init_scale, bias_scale) -> Units:
    """Units whose unit Gaussians are the nodes: input weights, then a bias where there is one, last the readout."""
    bias = nodes[rank:-1] if len(nodes) > rank + 1 else jnp.zeros_like(nodes[:1])
    return Units(init_scale[0] * nodes[:rank], bias_scale * bias, init_scale[1] * nodes[-1:])


def signals(layer: HiddenLayer, units: Units, activation: Callable) -> Signals:
    """What the units send now, uncentred."""
    h = dot(jnp.concatenate([layer.data, layer.test_data]), units.first) + units.bias
    phi, slope = jax.jvp(activation, (h,), (jnp.ones_like(h),))
    samples = len(layer.y)
    return Signals(units.readout * phi / layer.richness, phi[:samples], units.readout * slope[:samples])


def follow(
    layer: HiddenLayer,
    start: Units,
    activation: Callable,
    error: Callable[[Any, Signals], Any],
    observe: Callable[[Signals], Any],
    given: Any = None,
) -> Any:
    r"""Trains all units side by side, and stacks `observe(signals)` over time, 0..steps.

    $$\dot W \propto \frac{\gamma}{P}\sum_\mu\Delta_\mu g_\mu x_\mu, \qquad
      \dot w \propto \frac{\gamma}{P}\sum_\mu\Delta_\mu\phi(h_\mu)$$

    **Arguments:**

    - `error`: $\Delta$, `[samples, 1]` or `[samples, units]`, from a row of `given` and the signals: a given history
        makes each unit a functional of it, and $y - \langle F\rangle$ closes the loop.
    - `given`: pytree of arrays with one row a time.
    """
    initial = signals(layer, start, activation).output * layer.centred
    biased, samples = layer.biased, len(layer.y)

    def step(state, now):
        units, velocity = state
        row, rate, momentum, decay = now
        sent = signals(layer, units, activation)
        sent = sent._replace(output=sent.output - initial)
        push = layer.richness / samples * error(row, sent)
        backward, forward = push * sent.g, push * sent.phi
        total = lambda each: jnp.sum(each, axis=0, keepdims=True)  # noqa: E731
        hidden = dot(layer.data.T, backward), biased * total(backward)
        below, below_velocity = descend(
            (units.first, units.bias),
            (velocity.first, velocity.bias),
            hidden,
            layer.rate_scale[0] * rate,
            momentum,
            decay,
        )
        above, above_velocity = descend(
            units.readout, velocity.readout, total(forward), layer.rate_scale[1] * rate, momentum, decay
        )
        return (Units(below[0], below[1], above), Units(below_velocity[0], below_velocity[1], above_velocity)), observe(
            sent
        )

    final = lambda schedule: jnp.append(schedule, 0.0)  # noqa: E731  (the last row is not updated any more)
    schedules = final(layer.learning_rate), final(layer.momentum), final(layer.weight_decay)
    rest = jax.tree.map(jnp.zeros_like, start)
    return jax.lax.scan(step, (start, rest), (given, *schedules))[1]


def mean_predictions(
    layer: HiddenLayer, start: Units, weights: Float[Array, " units"], activation: Callable
) -> Float[Array, "time all"]:
    """Predictions of the infinite network, whose units these are with their weights."""
    average = lambda sent: dot(sent.output, weights)  # noqa: E731
    error = lambda _, sent: (layer.y - average(sent)[: len(layer.y)])[:, None]  # noqa: E731
    return follow(layer, start, activation, error, average)
