"""The first correction in inverse width for one hidden layer: covariances and mean shifts from single units."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._hidden_layer import HiddenLayer, Signals, Units, follow, mean_predictions
from ._march_basis import dot

# Numbers that a batch of units and tangents may hold: what stays in cache.
_AT_ONCE = 2**18


class WidthExpansion(NamedTuple):
    """Predictions on training and test samples and kernels of the infinite network; covariances and mean shifts at
    width N, times N. Kernels have rows Phi, G, NTK, at equal times."""

    predictions: Float[Array, "time all"]
    covariance: Float[Array, "time samples time samples"]
    test_covariance: Float[Array, "time tests tests"]
    shift: Float[Array, "time all"]
    kernels: Float[Array, "time 3 samples samples"]
    kernel_variance: Float[Array, "time 3 samples samples"]
    kernel_shift: Float[Array, "time 3 samples samples"]


def width_expansion(
    layer: HiddenLayer, units: Units, weights: Float[Array, " units"], *, activation: Callable, paired: bool = False
) -> WidthExpansion:
    r"""Fluctuations of networks with one hidden layer of N units around the infinite network.

    Each unit is a functional $F_i[\Delta]$ of the history of errors, and a network is the mean of N of them closed by
    $\Delta = y - f$. With $J = d\langle F\rangle/d\Delta$ (strictly causal), $R = (1 + J)^{-1}$ and, unit by unit,
    $\delta f_i = R(F_i - \langle F\rangle)$,

    $$N\,\mathrm{Cov}(f) = \Sigma = \langle\delta f\,\delta f^T\rangle, \qquad
      N\,\mathrm E[f - f_\infty] = R\Big(-\Big\langle\frac{dF}{d\Delta}\,\delta f\Big\rangle +
      \frac12\sum_{ab}\Sigma_{ab}\,\partial_a\partial_b\langle F\rangle\Big).$$

    Any other mean $\langle o\rangle$ over units follows by $\delta o_i = o_i - \langle o\rangle - J_o\,\delta f_i$.
    Time and memory are those of `steps samples` tangents along training.

    **Arguments:**

    - `units`, `weights`: the units at initialisation, nodes of an average with these weights.
    - `activation`: elementwise, twice differentiable.
    - `paired`: networks are means of two that differ in the sign of the readout.

    ??? cite "Source"
        Dynamics of Finite Width Kernel and Prediction Fluctuations in Mean Field Neural Networks, arXiv 2304.03408.
    """
    samples, tests, steps = len(layer.y), len(layer.test_data), len(layer.learning_rate)
    everything = samples + tests
    forced, numbers = steps * samples, everything + 3 * samples**2
    signs = jnp.array([1.0, -1.0] if paired else [1.0])
    f = mean_predictions(layer, units, weights, activation)
    errors = (layer.y - f[:, :samples])[:, :, None]
    kernel = dot(layer.data, layer.data.T) + layer.biased

    def row(sent: Signals):
        """What a unit adds to predictions and kernels, `[numbers, units]`."""
        Phi, G = (field[:, None] * field for field in (sent.phi, sent.g))
        tangent = layer.rate_scale[1] * Phi + layer.rate_scale[0] * kernel[:, :, None] * G
        return jnp.concatenate([sent.output, jnp.stack([Phi, G, tangent]).reshape(-1, Phi.shape[-1])])

    def average(share):
        """The mean of `row`, without its products unit by unit."""

        def observe(sent: Signals):
            Phi, G = (dot(share * field, field.T) for field in (sent.phi, sent.g))
            tangent = layer.rate_scale[1] * Phi + layer.rate_scale[0] * kernel * G
            return jnp.concatenate([dot(sent.output, share), jnp.stack([Phi, G, tangent]).reshape(-1)])

        return observe

    def functional(some: Units, observe, errors=errors):
        return follow(layer, some, activation, lambda error, _: error, observe, errors)

    def both_signs(some: Units):
        """Units with both signs of the readout, one after the other, where networks are pairs."""
        double = jax.tree.map(lambda a: jnp.concatenate([a] * len(signs), axis=-1), some)
        return double._replace(readout=double.readout * jnp.repeat(signs, some.readout.shape[-1]))

    def push(directions):
        """Directions `[steps samples, units]` as histories of errors, at rest after the last update."""
        shaped = directions.reshape(steps, samples, -1)
        return jnp.concatenate([shaped, jnp.zeros_like(shaped[:1])])

    size = min(len(weights), max(16, _AT_ONCE // (forced * numbers * len(signs))))
    batches = -(-len(weights) // size)

    def over_units(function):
        """The sum of `function(units, weights)` over batches of units."""

        def batch(a):
            padded = jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, batches * size - a.shape[-1])])
            return jnp.moveaxis(padded.reshape(*a.shape[:-1], batches, size), -2, 0)

        apply = jax.checkpoint(lambda some, share: function(both_signs(some), jnp.tile(share, len(signs)) / len(signs)))
        split = jax.tree.map(batch, (units, weights))
        shapes = jax.eval_shape(apply, *jax.tree.map(lambda a: a[0], split))
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        add = lambda total, now: (jax.tree.map(jnp.add, total, apply(*now)), None)  # noqa: E731
        return jax.lax.scan(add, zero, split)[0]

    basis = jax.vmap(push)(jnp.eye(forced))

    def first_order(some, share):
        mean = lambda errors: functional(some, average(share), errors)  # noqa: E731
        response = jax.vmap(lambda e: jax.jvp(mean, (errors,), (e,))[1])(basis)
        own = functional(some, lambda sent: sent.output[:samples]) - f[:, :samples, None]
        own = own.reshape(-1, len(share))
        return mean(errors), response, dot(share * own, own.T)

    mean, response, kappa = over_units(first_order)
    causal = response[:, :, :samples].reshape(forced, -1).T
    closed = jnp.eye(len(kappa)) + jnp.pad(causal, ((0, 0), (0, samples)))

    def resolve(right):
        return jax.scipy.linalg.solve_triangular(closed, right, lower=True, unit_diagonal=True)

    Sigma = resolve(resolve(kappa).T)
    noise = jax.vmap(push)(Sigma[:forced, :forced])

    def second_order(some, share):
        each = functional(some, row) - mean[:, :, None]
        own = resolve(each[:, :samples].reshape(-1, len(share)))[:forced]
        each = each - dot(response.reshape(forced, -1).T, own).reshape(each.shape)
        along = push(own)
        mean_of = lambda errors: functional(some, average(share), errors)  # noqa: E731
        coupled = jax.jvp(mean_of, (jnp.broadcast_to(errors, along.shape),), (along,))[1]
        slope = lambda e: lambda errors: jax.jvp(mean_of, (errors,), (e,))[1]  # noqa: E731
        curved = jnp.sum(jax.vmap(lambda e, s: jax.jvp(slope(e), (errors,), (s,))[1])(basis, noise), axis=0)
        # A network's record is the mean over its signs; so are its fluctuations.
        record = jnp.mean(each.reshape(*each.shape[:2], len(signs), -1), axis=2)
        share = jnp.sum(share.reshape(len(signs), -1), axis=0)
        train = record[:, :samples].reshape(-1, len(share))
        across = jax.vmap(lambda x: dot(share * x, x.T))(record[:, samples:everything])
        square = jax.vmap(lambda x: dot(x**2, share))(record[:, everything:])
        return curved / 2 - coupled, dot(share * train, train.T), across, square

    source, covariance, across, square = over_units(second_order)
    bias = resolve(source[:, :samples].reshape(-1))
    shift = source - dot(bias[:forced], response.reshape(forced, -1)).reshape(source.shape)
    kernels = lambda rows: rows.reshape(steps + 1, 3, samples, samples)  # noqa: E731
    return WidthExpansion(
        predictions=mean[:, :everything],
        covariance=covariance.reshape(steps + 1, samples, steps + 1, samples),
        test_covariance=across,
        shift=shift[:, :everything],
        kernels=kernels(mean[:, everything:]),
        kernel_variance=kernels(square),
        kernel_shift=kernels(shift[:, everything:]),
    )
