"""The causal one-pass march: training of an infinitely wide multilayer network, one step after the other."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from ._causal_scan import causal_scan
from ._field_axis import AbstractFieldAxis
from ._linear_optimiser import descend
from ._march_basis import Directions, dot, project, reveal
from ._march_network import Boundary, HiddenWeight, Start, Weights, initialise


class MarchInputs(NamedTuple):
    """Everything continuous that the march depends on; all of it is differentiable."""

    x: Float[Array, "samples dim"]
    y: Float[Array, " samples"]
    x_test: Float[Array, "tests dim"]
    learning_rate: Float[Array, " steps"]
    momentum: Float[Array, " steps"]
    weight_decay: Float[Array, " steps"]
    richness: Float[Array, ""]
    init_scale: Float[Array, " depth+1"]
    bias_scale: Float[Array, ""]


class Fields(NamedTuple):
    """One direction of propagation (phi^1..phi^L, or g^1..g^L), at all times.

    `tables[b]` are the coefficients of the fields at hidden weight b on an orthonormal basis, so a kernel is
    a table product; `end` is the one field that meets no hidden weight (phi^L or g^1) itself. Test rows, if any,
    come behind the training rows. Both are None unless asked for.
    """

    equal_time: Float[Array, "time depth samples samples"]
    tables: tuple[Float[Array, "time rows slots"], ...] | None
    end: Float[Array, "time rows axis"] | None


class TrainedMatrices(NamedTuple):
    r"""The hidden weights in the directions of the march, $W^l/\sqrt N = d s_l Z/\sqrt N + \frac1N\hat g\,{\rm core}\,
    \hat\phi^T$, and how directions respond to the Gaussians that Z made of earlier ones on its other side."""

    decay: Float[Array, " time"]
    core: tuple[Float[Array, "time slots slots"], ...]  # backward direction x forward direction
    response_phi: tuple[Float[Array, "slots slots"], ...]  # forward direction x Gaussian of a backward one
    response_g: tuple[Float[Array, "slots slots"], ...]


class MarchOutputs(NamedTuple):
    """What the march returns; time is 0..steps, and row t is the state before update t."""

    predictions: Float[Array, "time samples"]
    test_predictions: Float[Array, "time tests"]
    Phi: Fields
    G: Fields
    directions: Float[Array, "time depth-1 2"]  # how many, forward and backward
    overflow: Bool[Array, ""]
    trained: TrainedMatrices | None


class State(NamedTuple):
    weights: Weights
    velocity: Weights
    counts: Float[Array, "depth-1 2"]  # floating point, so that a state is differentiable as a whole


class Params(NamedTuple):
    start: Start
    y: Float[Array, " samples"]
    richness: Float[Array, ""]
    init_scale: Float[Array, " depth+1"]
    biased: Float[Array, ""]  # 1 if there are biases
    tolerance: Float[Array, ""]


class Schedule(NamedTuple):
    time: Float[Array, " time"]
    learning_rate: Float[Array, " time"]
    momentum: Float[Array, " time"]
    weight_decay: Float[Array, " time"]


class _March(NamedTuple):
    """The static side of a march, and what `causal_scan` needs from it."""

    samples: int
    depth: int
    activation: Callable
    axis: AbstractFieldAxis
    capacity: int
    fields: bool
    test_backward: bool
    weights: bool

    @property
    def slots(self):
        return self.capacity + self.samples  # a block is written as a whole, so it needs room behind the last slot

    def initial(self):
        zeros, hidden = jnp.zeros, range(self.depth - 1)
        field = lambda rows: zeros((rows, self.axis.size))  # noqa: E731
        directions = lambda: Directions(field(self.slots), field(self.slots))  # noqa: E731
        velocity = Weights(
            decay=zeros(()),
            first=field(self.samples),
            first_bias=field(1),
            hidden=tuple(zeros((self.slots, self.slots)) for _ in hidden),
            hidden_bias=tuple(zeros((1, self.slots)) for _ in hidden),
            readout=field(1),
        )
        weights = velocity._replace(decay=jnp.ones(()))
        history = tuple(Boundary(directions(), directions()) for _ in hidden)
        return history, State(weights, velocity, zeros((self.depth - 1, 2)))

    def write(self, history, rows, before):
        at = before.counts.astype(int)
        put = lambda b, side: jax.tree.map(  # noqa: E731
            lambda old, new: jax.lax.dynamic_update_slice(old, new, (at[b, side], 0)), history[b][side], rows[b][side]
        )
        return tuple(Boundary(put(b, 0), put(b, 1)) for b in range(self.depth - 1))

    def read(self, history_bar, before, after):
        # The next block overwrites the rows that brought no direction: what they receive belongs to that step.
        at, kept = before.counts.astype(int), after.counts - before.counts

        def take(b, side):
            mask = (jnp.arange(self.samples) < kept[b, side])[:, None]
            block = (self.samples, self.axis.size)
            return jax.tree.map(
                lambda bar: jax.lax.dynamic_slice(bar, (at[b, side], 0), block) * mask, history_bar[b][side]
            )

        return tuple(Boundary(take(b, 0), take(b, 1)) for b in range(self.depth - 1))

    def phi(self, h):
        """The activation and its derivative."""
        return jax.jvp(self.activation, (h,), (jnp.ones_like(h),))

    def step(self, params: Params, key, history, state: State, x: Schedule):
        start, y, gamma, scale, biased, tolerance = params
        weights, axis, d = state.weights, self.axis, state.weights.decay
        now, counts = jax.lax.stop_gradient(x.time).astype(int), jax.lax.stop_gradient(state.counts)
        hidden = range(self.depth - 1)
        alive = lambda count: (jnp.arange(self.slots) < count).astype(y.dtype)  # noqa: E731
        live = [(alive(counts[b, 0]), alive(counts[b, 1])) for b in hidden]
        matrices = [
            HiddenWeight(history[b], live[b], d * scale[b + 1], weights.hidden[b], weights.hidden_bias[b])
            for b in hidden
        ]

        blocks = [(role, b + 1, len(y)) for b in hidden for role in ("forward", "backward")]
        drawn = axis.draw(key, now, blocks) if blocks else []

        def extend(field, old, b, side):
            random, role, at = drawn[2 * b + side], ("forward", "backward")[side], counts[b, side].astype(int)
            fresh = lambda place: axis.gaussians(random, role, at + place)  # noqa: E731
            return reveal(field, old, live[b][side], axis, tolerance, fresh)

        up, down, test_up, test_down = {}, {}, {}, {}  # by hidden weight

        # Forward, from the data to the readout; test points follow with what the training fields revealed.
        h = d * (start.preactivation + start.bias[:1]) + dot(start.data, weights.first) + weights.first_bias
        phi, slope = self.phi(h)
        h = d * (start.test_preactivation + start.bias[:1]) + dot(start.test_data, weights.first) + weights.first_bias
        phi_test, slope_test = self.phi(h)
        slopes, test_slopes = [], []
        for b, matrix in enumerate(matrices):
            known = matrix.known.forward
            up[b] = R, new, _ = extend(phi, known, b, 0)
            test_up[b], left = project(phi_test, known, new, live[b][0], axis, tolerance)
            slopes.append(slope)
            test_slopes.append(slope_test)

            bias = d * start.bias[b + 1]
            phi, slope = self.phi(matrix.forward(phi, R, new, axis) + bias)
            own = left * start.test_forward[b]
            phi_test, slope_test = self.phi(matrix.forward(phi_test, test_up[b], new, axis, own) + bias)

        w = d * start.readout + weights.readout
        per_richness = jnp.where(gamma == 0, 0.0, 1.0 / jnp.where(gamma == 0, 1.0, gamma))
        f, f_test = axis.inner(phi, w)[:, 0] * per_richness, axis.inner(phi_test, w)[:, 0] * per_richness

        # Backward, from the readout to the first layer.
        g, g_test = slope * w, slope_test * w
        for b in reversed(hidden):
            matrix, below = matrices[b], up[b][1]
            down[b] = R, new, _ = extend(g, matrix.known.backward, b, 1)
            if self.test_backward:
                test_down[b], left = project(g_test, matrix.known.backward, new, live[b][1], axis, tolerance)
                own = left * start.test_backward[b]
                g_test = test_slopes[b] * matrix.backward(g_test, test_down[b], new, below, axis, own)
            g = slopes[b] * matrix.backward(g, R, new, below, axis)

        # The update, in the directions that exist by now.
        at = counts.astype(int)
        phi_rows = [up[b][0].row(at[b, 0]) for b in hidden]
        g_rows = [down[b][0].row(at[b, 1]) for b in hidden]
        error = (gamma / len(y)) * (y - f)[None, :]
        force = Weights(
            decay=jnp.zeros_like(d),
            first=dot(start.data.T * error, g),
            first_bias=biased * dot(error, g),
            hidden=tuple(dot(below.T * error, above) for below, above in zip(phi_rows, g_rows, strict=True)),
            hidden_bias=tuple(biased * dot(error, above) for above in g_rows),
            readout=dot(error, phi),
        )
        moved = descend(weights, state.velocity, force, x.learning_rate, x.momentum, x.weight_decay)
        born = jnp.array([[up[b][2], down[b][2]] for b in hidden]).reshape(counts.shape)
        rows = tuple(Boundary(up[b][1], down[b][1]) for b in hidden)

        product = lambda table: dot(table, table.T)  # noqa: E731
        Phi = jnp.stack([*map(product, phi_rows), axis.inner(phi, phi)])
        G = jnp.stack([axis.inner(g, g), *map(product, g_rows)])
        Phi, G = Fields(Phi, None, None), Fields(G, None, None)
        if self.fields:
            if self.test_backward:
                phi_rows = [jnp.concatenate([phi_rows[b], test_up[b].row(at[b, 0])]) for b in hidden]
                g_rows = [jnp.concatenate([g_rows[b], test_down[b].row(at[b, 1])]) for b in hidden]
                phi, g = jnp.concatenate([phi, phi_test]), jnp.concatenate([g, g_test])
            Phi, G = Phi._replace(tables=tuple(phi_rows), end=phi), G._replace(tables=tuple(g_rows), end=g)
        kept = (d, weights.hidden) if self.weights else None
        return rows, State(*moved, counts + born), (f, f_test, Phi, G, counts, kept)

    def trained(self, history, counts, kept) -> TrainedMatrices:
        """See `TrainedMatrices`. A direction cannot respond to a Gaussian that was drawn later (nor forward at the
        same time); averages over samples would not quite vanish there."""
        decay, hidden = kept
        slot = jnp.arange(self.slots)
        responses = []
        for b, (forward, backward) in enumerate(history):
            born = [jnp.sum(counts[:, b, side, None] <= slot, axis=0) for side in (0, 1)]
            later = born[0][:, None] > born[1]
            responses.append(
                (
                    self.axis.inner(forward.hat, backward.noise) * later,
                    self.axis.inner(backward.hat, forward.noise) * ~later.T,
                )
            )
        core = tuple(jnp.swapaxes(matrix, 1, 2) for matrix in hidden)
        return TrainedMatrices(decay, core, *(zip(*responses, strict=True) if responses else ((), ())))


def march(
    inputs: MarchInputs,
    key: Key[Array, ""],
    *,
    activation: Callable,
    axis: AbstractFieldAxis,
    capacity: int,
    tolerance: Float[Array, ""] | float,
    fields: bool = False,
    test_backward: bool = False,
    weights: bool = False,
    adjoint: str = "tape",
) -> MarchOutputs:
    r"""Solves the mean-field theory of a multilayer network in one causal pass, without fixed-point iteration.

    With errors $\Delta = y - f$ of the loss $\frac{1}{2P}\sum_\mu \Delta_\mu^2$, the fields of the infinite network are

    $$h^{l+1} = W^l \phi(h^l) + b^{l+1}, \quad g^l = \phi'(h^l)\, z^l, \quad z^l = W^{lT} g^{l+1}, \quad z^L = w, \quad
      f = \langle w\, \phi(h^L) \rangle / \gamma$$

    A hidden weight acts through the orthonormal directions that training has revealed so far (`HiddenWeight`).
    Its trained part is a small matrix in these directions, which follows the optimiser's own recursion with the
    force $\frac{\gamma}{P}\sum_\mu \Delta_\mu\, \langle\phi_\mu\hat\phi_k\rangle \langle g_\mu\hat g_j\rangle$; no
    integral over past kernels and errors is formed. All fields and kernels are O(1) at infinite width.

    Time is O(depth · steps · slots · samples · S), memory O(depth · slots · S) and for a gradient
    O(steps · samples · S) more, where S is the length of the axis and slots = capacity + samples.

    **Arguments:**

    - `inputs`: data, schedules and scales. With `richness` exactly 0 nothing moves but the decaying random weights:
        the kernels are the static ones, and predictions are zero.
    - `activation`: elementwise; smooth where derivatives of the solution are taken.
    - `axis`: a sized field axis; its inner product is the average over the single-site process.
    - `capacity`: number of directions that fit in a basis; `overflow` says whether they did.
    - `tolerance`: a field brings a new direction if more than this fraction of its variance is outside of the basis.
    - `fields`: also return what kernels at unequal times are made of.
    - `test_backward`: also give test points backward fields, and rows in tables and ends (for `richness = 0`).
    - `weights`: also return the trained part of every hidden weight.
    - `adjoint`: how to differentiate, see `causal_scan`.

    ??? cite "Source"
        *Self-Consistent Dynamical Field Theory of Kernel Evolution in Wide Neural Networks*, arXiv 2205.09653.
    """
    x, y, x_test, learning_rate, momentum, weight_decay, richness, init_scale, bias_scale = inputs
    static = _March(len(x), len(init_scale) - 1, activation, axis, capacity, fields, test_backward, weights)
    start = initialise(x, x_test, init_scale, bias_scale, axis, key)
    params = Params(start, y, richness, init_scale, (bias_scale > 0).astype(y.dtype), jnp.asarray(tolerance, y.dtype))
    final = lambda schedule: jnp.append(schedule, 0.0)  # noqa: E731  (the last row is not updated any more)
    time = jnp.arange(len(learning_rate) + 1, dtype=y.dtype)
    schedule = Schedule(time, final(learning_rate), final(momentum), final(weight_decay))
    (f, f_test, Phi, G, counts, kept), history, _ = causal_scan(
        static.step, static.initial, static.write, static.read, params, key, schedule, adjoint=adjoint
    )
    trained = static.trained(history, counts, kept) if weights else None
    return MarchOutputs(f, f_test, Phi, G, counts, jnp.any(counts > capacity), trained)
