"""Fields of a perceptron: what each layer computes, what teaches it, and how its output would move."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._activations import activation_function
from ._losses import error_signal, sample_losses
from ._mlp_weights import MLPWeights
from .rules import AbstractRule, Backpropagation, DirectFeedbackAlignment, FeedbackAlignment, GatedLinear, Hebb

#: Edges of the bins in which `density_l` counts preactivations.
PREACTIVATION_EDGES = np.linspace(-6.0, 6.0, 61)


class Layers(NamedTuple):
    r"""Forward fields, tuples over layers l = 1..depth of arrays `[samples, width]`: $h^l$, $\phi(h^l)$ (gated linear:
    gate times $h^l$), and the gates, if any."""

    preactivations: tuple[Any, ...]
    activations: tuple[Any, ...]
    gates: tuple[Any, ...]


def forward(weights: MLPWeights, design, x, fixed: tuple = (), activations: bool = False):
    """Outputs `[samples]`, or `[samples, outputs]`, for inputs `[samples, dim]`, and the activations if asked for."""
    outputs, layers = propagate(weights, design, fixed, x)
    return (outputs, layers.activations) if activations else outputs


def propagate(weights: MLPWeights, design, fixed: tuple, x):
    """Outputs `[samples]`, or `[samples, outputs]`, for inputs `[samples, dim]`, with the `Layers`."""
    phi = activation_function(design.activation)
    width, dtype = weights.readout.shape[-1], weights.readout.dtype
    inputs = jnp.asarray(x, dtype)
    signal, fan_in = inputs, x.shape[-1]
    preactivations, activations, gates = [], [], []
    for l, matrix in enumerate(weights.hidden):
        h = signal @ matrix.T / fan_in**0.5
        if weights.biases is not None:
            h = h + weights.biases[l]
        if isinstance(design.rule, GatedLinear):
            gates.append(_slope(phi, inputs @ fixed[l].T / x.shape[-1] ** 0.5))
            signal = gates[-1] * h
        else:
            signal = phi(h)
        fan_in = width
        preactivations.append(h)
        activations.append(signal)
    outputs = signal @ weights.readout.T / (jnp.asarray(design.richness, dtype) * width)
    return outputs, Layers(tuple(preactivations), tuple(activations), tuple(gates))


def backward(rule: AbstractRule, design, weights: MLPWeights, fixed: tuple, layers: Layers, errors, sent):
    r"""What a rule sends back for each layer, a tuple of arrays `[samples, width]`.

    **Arguments:**

    - `errors`: $\Delta_\mu$ `[samples]`, or $\Delta_{\mu k}$ `[samples, outputs]`.
    - `sent`: $c_{\mu k}$, shaped like `errors`: the result is $\sum_k c_{\mu k}\tilde g^l_{\mu k}$. Ones give the
      pseudo-gradient of a single output, and the errors what updates the weights.
    """
    if isinstance(rule, Hebb):
        product = sent * errors if errors.ndim == 1 else jnp.sum(sent * errors, axis=-1)
        return tuple(product[:, None] * phi for phi in layers.activations)

    phi = activation_function(design.activation)
    slopes = layers.gates or tuple(_slope(phi, h) for h in layers.preactivations)

    def from_readout(vectors):
        return sent[:, None] * vectors if sent.ndim == 1 else sent @ vectors

    if isinstance(rule, DirectFeedbackAlignment):
        return tuple(slope * from_readout(z) for slope, z in zip(slopes, fixed, strict=True))
    matrices = fixed if isinstance(rule, FeedbackAlignment) else (*weights.hidden[1:], weights.readout)
    fields = [slopes[-1] * from_readout(matrices[-1])]
    for slope, matrix in zip(slopes[-2::-1], matrices[-2::-1], strict=True):
        fields.append(slope * (fields[-1] @ matrix) / matrix.shape[-1] ** 0.5)
    return tuple(reversed(fields))


def recorded_backward(rule: AbstractRule, design, weights: MLPWeights, fixed: tuple, layers: Layers, errors):
    r"""The fields whose averages are the kernels G: $\tilde g^l$ of one output, $\sum_k\Delta_k\tilde g^l_k$ of
    several."""
    sent = jnp.ones_like(errors) if errors.size == len(errors) else errors
    return backward(rule, design, weights, fixed, layers, errors, sent)


def fields(weights: MLPWeights, design, x, fixed: tuple = (), y=None):
    r"""Activations and the fields of `recorded_backward`, tuples over layers of arrays `[samples, width]`; for one
    output taught by backpropagation, $g^l = \gamma_0 N\,\partial f/\partial h^l$, `y` is not needed."""
    outputs, layers = propagate(weights, design, fixed, x)
    errors = jnp.ones_like(outputs) if y is None else errors_of(design, outputs, jnp.asarray(y, outputs.dtype))
    return layers.activations, recorded_backward(design.rule, design, weights, fixed, layers, errors)


def errors_of(design, outputs, y):
    r"""$\Delta = -\partial\ell/\partial f$, shaped like the outputs."""
    if outputs.ndim == 1:
        return error_signal(design.loss, outputs[:, None], y[:, None])[:, 0]
    return error_signal(design.loss, outputs, y)


def losses_of(design, outputs, y, several: bool):
    """Losses of every sample; `several` says whether the outputs are the last axis."""
    return sample_losses(design.loss, *((outputs, y) if several else (outputs[..., None], y[..., None])))


def descent_direction(weights: MLPWeights, design, fixed: tuple, x, y, multiplicity):
    r"""Outputs, and what a rule that follows no gradient puts in place of the gradient of the weights,
    $-\frac{1}{\gamma_0 N}\sum_\mu m_\mu \sum_k\Delta_{\mu k}\tilde g^{l+1}_{\mu k}\phi(h^l_\mu)^T/\sqrt{\rm fan\ in}$.

    `multiplicity` `[samples]`: the weights $m_\mu$ of the samples in the loss.
    """
    outputs, layers = propagate(weights, design, fixed, x)
    errors = errors_of(design, outputs, y)
    taught = backward(design.rule, design, weights, fixed, layers, errors, errors)
    dtype, width = weights.readout.dtype, weights.readout.shape[-1]
    scale = -multiplicity / (jnp.asarray(design.richness, dtype) * width)
    inputs = (jnp.asarray(x, dtype), *layers.activations[:-1])
    taught = [scale[:, None] * b for b in taught]
    hidden = tuple(b.T @ phi / phi.shape[-1] ** 0.5 for b, phi in zip(taught, inputs, strict=True))
    biases = None if weights.biases is None else tuple(jnp.sum(b, axis=0) for b in taught)
    return outputs, MLPWeights(hidden, (scale * errors.T) @ layers.activations[-1], biases)


def tangent_kernel(weights: MLPWeights, design, fixed: tuple, x, layers: Layers, errors):
    r"""How outputs move when samples are learned, `[samples, samples]`:

    $$K_{\mu\nu} = \sum_{l=0}^{L-1} r_l \langle g^{l+1}_\mu \tilde g^{l+1}_\nu\rangle
      (\Phi^l_{\mu\nu} + 1_{\rm biases}) + r_L\Phi^L_{\mu\nu}, \qquad \frac{df}{d\tau} = \frac1P K\Delta.$$

    It is symmetric for a rule that follows the gradient. Of several outputs, `[samples, outputs, samples, outputs]`,
    with $\langle g^{l+1}_{\mu k}\tilde g^{l+1}_{\nu j}\rangle$ and $\delta_{kj}$ in the last term.
    """
    dtype, samples, width = weights.readout.dtype, len(errors), weights.readout.shape[-1]
    each = jnp.eye(errors.size // samples, dtype=dtype)  # the outputs, one at a time

    def by_output(rule):
        send = lambda one: jnp.broadcast_to(one, errors.shape)  # noqa: E731
        found = jax.vmap(lambda one: backward(rule, design, weights, fixed, layers, errors, send(one)))(each)
        return [g.swapaxes(0, 1).reshape(-1, width) for g in found]

    moved, taught = by_output(Backpropagation()), by_output(design.rule)
    rates = jnp.broadcast_to(jnp.asarray(design.rate_scale, dtype), (design.depth + 1,))
    inputs = jnp.asarray(x, dtype)
    features = [average(inputs, inputs)] + [average(phi, phi) for phi in layers.activations]
    kernel = rates[-1] * jnp.kron(features[-1], each)
    for l in range(design.depth):
        feature = features[l] if weights.biases is None else features[l] + 1
        kernel = kernel + rates[l] * average(moved[l], taught[l]) * jnp.kron(feature, jnp.ones_like(each))
    return kernel.reshape(errors.shape * 2)


def average(a, b):
    """Mean over units of products, `[samples, samples]`."""
    return jnp.matmul(a, b.T, precision="highest") / a.shape[-1]


def density(h):
    """Histogram of all entries on `PREACTIVATION_EDGES`, over their number and the width of a bin; `[bins]`."""
    edges = jnp.asarray(PREACTIVATION_EDGES, h.dtype)
    # counts by sorting: scattering into bins is slow where many networks train side by side
    below = jnp.searchsorted(jnp.sort(h.ravel()), edges)
    return jnp.diff(below).astype(h.dtype) / (h.size * (PREACTIVATION_EDGES[1] - PREACTIVATION_EDGES[0]))


def _slope(phi, h):
    value, pull = jax.vjp(phi, h)
    return pull(jnp.ones_like(value))[0]
