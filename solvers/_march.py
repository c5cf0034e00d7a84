"""The causal one-pass march: training of an infinitely wide multilayer network, one step after the other."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from ._causal_scan import causal_scan
from ._field_axis import AbstractFieldAxis
from ._march_network import initialise
from ._march_step import Fields, MarchOptions, MarchStep, Params, Schedule


class MarchInputs(NamedTuple):
    """Everything continuous that the march depends on; all of it is differentiable."""

    x: Float[Array, "samples dim"]
    y: Float[Array, " samples"] | Float[Array, "samples outputs"]
    x_test: Float[Array, "tests dim"]
    learning_rate: Float[Array, " steps"]
    momentum: Float[Array, " steps"]
    weight_decay: Float[Array, " steps"]
    richness: Float[Array, ""]
    init_scale: Float[Array, " depth+1"]
    bias_scale: Float[Array, ""]
    rate_scale: Float[Array, " depth+1"] | None = None  # of every layer; 1 by default
    correlation: Float[Array, ""] | None = None  # of frozen feedback with the initial weights; 0 by default
    sample_weights: Float[Array, "steps samples"] | None = None  # in the loss of each step; 1/samples by default


class TrainedMatrices(NamedTuple):
    r"""The hidden weights in the directions of the march,
    $W^l/\sqrt N = d_l s_l Z/\sqrt N + \frac1N\hat g\,{\rm core}\,\hat\phi^T$, and how directions respond to the
    Gaussians that Z made of earlier ones on its other side."""

    decay: Float[Array, "time depth+1"]
    core: tuple[Float[Array, "time slots slots"], ...]  # backward direction x forward direction
    response_phi: tuple[Float[Array, "slots slots"], ...]  # forward direction x Gaussian of a backward one
    response_g: tuple[Float[Array, "slots slots"], ...]


class MarchOutputs(NamedTuple):
    r"""What the march returns; time is 0..steps, and row t is the state before update t.

    Predictions have a last axis of outputs if the targets do. With several outputs `G` is of $\sum_k \Delta_k g_k$,
    and `gradients`, unless lazy, between all pairs of samples and outputs.
    """

    predictions: Float[Array, "time samples *outputs"]
    test_predictions: Float[Array, "time tests *outputs"]
    Phi: Fields
    G: Fields
    gradients: Float[Array, "time depth rows rows"] | None
    densities: Float[Array, "time depth bins"] | None
    directions: Float[Array, "time depth-1 2"]  # how many, forward and backward
    overflow: Bool[Array, ""]
    trained: TrainedMatrices | None


def march(
    inputs: MarchInputs,
    key: Key[Array, ""],
    options: MarchOptions,
    *,
    axis: AbstractFieldAxis,
    capacity: int,
    tolerance: Float[Array, ""] | float,
    adjoint: str = "tape",
) -> MarchOutputs:
    r"""Solves the mean-field theory of a multilayer network in one causal pass, without fixed-point iteration.

    With errors $\Delta_\mu = -\partial\ell_\mu/\partial f_\mu$ of the loss $\sum_\mu m_\mu \ell_\mu$, the fields of the
    infinite network are

    $$h^{l+1} = W^l \phi(h^l) + b^{l+1}, \quad g^l = \phi'(h^l)\, z^l, \quad z^l = W^{lT} g^{l+1}, \quad z^L = w, \quad
      f = \langle w\, \phi(h^L) \rangle / \gamma$$

    A hidden weight acts through the orthonormal directions that training has revealed so far (`HiddenWeight`).
    Its trained part is a small matrix in these directions, which follows the optimiser's own recursion with the
    force $\gamma\sum_\mu m_\mu\Delta_\mu\, \langle\phi_\mu\hat\phi_k\rangle \langle g_\mu\hat g_j\rangle$; no
    integral over past kernels and errors is formed. All fields and kernels are O(1) at infinite width. Other learning
    rules change what is sent back in place of g (`MarchOptions.feedback`).

    In the lazy limit the trained parts act to first order, through $f = \sum_l\langle g^{l+1}\delta W^l\phi^l\rangle$:
    descent with the tangent kernel of the start, which is never formed.

    Time is O(depth · steps · slots · samples · S), memory O(depth · slots · S) and for a gradient
    O(steps · samples · S) more, where S is the length of the axis and slots = capacity + samples.

    **Arguments:**

    - `inputs`: data, schedules and scales. With `richness` 0 and without `lazy`, nothing moves but the decaying random
        weights, and predictions are zero.
    - `options`: what is solved, and what is returned.
    - `axis`: a sized field axis; its inner product is the average over the single-site process.
    - `capacity`: number of directions that fit in a basis; `overflow` says whether they did.
    - `tolerance`: a field brings a new direction if more than this fraction of its variance is outside of the basis.
    - `adjoint`: how to differentiate, see `causal_scan`.

    ??? cite "Source"
        *Self-Consistent Dynamical Field Theory of Kernel Evolution in Wide Neural Networks*, arXiv 2205.09653.
        *The Influence of Learning Rule on Representation Dynamics in Wide Neural Networks*, arXiv 2210.02157.
    """
    samples, steps, dtype = len(inputs.x), len(inputs.learning_rate), inputs.y.dtype
    y = inputs.y if inputs.y.ndim == 2 else inputs.y[:, None]
    static = MarchStep(samples, y.shape[1], len(inputs.init_scale) - 1, options, axis, capacity)
    default = lambda value, other: jnp.asarray(other, dtype) if value is None else value  # noqa: E731
    start = initialise(
        inputs.x,
        inputs.x_test,
        inputs.init_scale,
        inputs.bias_scale,
        axis,
        key,
        outputs=y.shape[1],
        feedback=options.feedback,
        gate=static.gate if options.gated else None,
        own=options.test_batch is None or options.test_batch >= len(inputs.x_test),
    )
    params = Params(
        start=start,
        y=y,
        richness=inputs.richness,
        init_scale=inputs.init_scale,
        rate_scale=default(inputs.rate_scale, jnp.ones(len(inputs.init_scale))),
        correlation=default(inputs.correlation, 0.0),
        biased=(inputs.bias_scale > 0).astype(dtype),
        tolerance=jnp.asarray(tolerance, dtype),
    )
    final = lambda schedule: jnp.append(schedule, 0.0)  # noqa: E731  (the last row is not updated any more)
    batches = default(inputs.sample_weights, jnp.full((steps, samples), 1.0 / samples))
    schedule = Schedule(
        time=jnp.arange(steps + 1, dtype=dtype),
        learning_rate=final(inputs.learning_rate),
        momentum=final(inputs.momentum),
        weight_decay=final(inputs.weight_decay),
        sample_weights=jnp.pad(batches, ((0, 1), (0, 0))),
    )
    row, history, _ = causal_scan(
        static.step, static.initial, static.write, static.read, params, key, schedule, adjoint=adjoint
    )
    f, f_test = (row.predictions, row.test_predictions)
    if inputs.y.ndim == 1:
        f, f_test = f[..., 0], f_test[..., 0]
    trained = _trained(history, row, axis) if options.weights else None
    overflow = jnp.any(row.counts > capacity)
    return MarchOutputs(f, f_test, row.Phi, row.G, row.gradients, row.densities, row.counts, overflow, trained)


def _trained(history, row, axis) -> TrainedMatrices:
    """See `TrainedMatrices`. A direction cannot respond to a Gaussian that was drawn later (nor forward at the
    same time); averages over samples would not quite vanish there. Without backward Gaussians there are none."""
    decay, hidden = row.trained
    responses = []
    for b, (forward, backward) in enumerate(history):
        slot = jnp.arange(len(forward.hat))
        if backward.noise is None:
            responses.append((jnp.zeros((len(slot), len(slot))),) * 2)
            continue
        born = [jnp.sum(row.counts[:, b, side, None] <= slot, axis=0) for side in (0, 1)]
        later = born[0][:, None] > born[1]
        responses.append(
            (axis.inner(forward.hat, backward.noise) * later, axis.inner(backward.hat, forward.noise) * ~later.T)
        )
    core = tuple(jnp.swapaxes(matrix, 1, 2) for matrix in hidden)
    return TrainedMatrices(decay, core, *(zip(*responses, strict=True) if responses else ((), ())))
