"""One step of the causal march: what is solved, what moves, and what is shown of it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._field_axis import AbstractFieldAxis
from ._linear_optimiser import descend
from ._march_basis import Directions, dot
from ._march_moment import Backward, Forward, Gradient, Moment
from ._march_network import Boundary, Start, Weights, forces


class MarchOptions(NamedTuple):
    """The static side of what is solved.

    **Fields:**

    - `activation`: elementwise; smooth where derivatives of the solution are taken.
    - `error`: `(outputs, targets) -> errors`, all `[samples, outputs]`: minus the derivative of a sample's loss.
    - `feedback`: how errors reach hidden weights: through their transposes (`"transported"`), through `"frozen"`
        matrices that are correlated with their start, `"direct"` from the output, or not at all: `"hebbian"` has the
        activity itself in place of a gradient.
    - `gated`: the derivative of the activation, at frozen random functions of the input, multiplies linear units.
    - `lazy`: richness 0: features and tangent kernel stay as they start (but for weight decay).
    - `responses`: whether a matrix knows its transpose; without, forward and backward Gaussians are independent.
    - `fields`: also return what kernels at unequal times are made of.
    - `weights`: also return the trained part of every hidden weight.
    - `gradients`: also return the kernels of the true gradient with what `feedback` makes of it; those of several
        outputs between each of them (in the lazy limit one stands for all).
    - `density_edges`: also return densities of preactivations on these bins.
    - `test_batch`: test points that are held at once; all by default.
    """

    activation: Callable
    error: Callable = lambda f, y: y - f
    feedback: str = "transported"
    gated: bool = False
    lazy: bool = False
    responses: bool = True
    fields: bool = False
    weights: bool = False
    gradients: bool = False
    density_edges: tuple[float, ...] | None = None
    test_batch: int | None = None


class Fields(NamedTuple):
    """One direction of propagation (phi^1..phi^L, or g^1..g^L), at all times.

    `tables[b]` are the coefficients of the fields at hidden weight b on an orthonormal basis, so a kernel is
    a table product; `end` is the one field that meets no hidden weight (phi^L or g^1) itself. Both are None unless
    asked for.
    """

    equal_time: Float[Array, "time depth samples samples"]
    tables: tuple[Float[Array, "time samples slots"], ...] | None
    end: Float[Array, "time samples axis"] | None


class State(NamedTuple):
    weights: Weights
    velocity: Weights
    counts: Float[Array, "depth-1 2"]  # floating point, so that a state is differentiable as a whole


class Params(NamedTuple):
    start: Start
    y: Float[Array, "samples outputs"]
    richness: Float[Array, ""]
    init_scale: Float[Array, " depth+1"]
    rate_scale: Float[Array, " depth+1"]
    correlation: Float[Array, ""]
    biased: Float[Array, ""]  # 1 if there are biases
    tolerance: Float[Array, ""]


class Schedule(NamedTuple):
    time: Float[Array, " time"]
    learning_rate: Float[Array, " time"]
    momentum: Float[Array, " time"]
    weight_decay: Float[Array, " time"]
    sample_weights: Float[Array, "time samples"]


class Row(NamedTuple):
    """What one step shows of itself."""

    predictions: Float[Array, "samples outputs"]
    test_predictions: Float[Array, "tests outputs"]
    Phi: Fields
    G: Fields
    gradients: Float[Array, "depth rows rows"] | None
    densities: Float[Array, "depth bins"] | None
    counts: Float[Array, "depth-1 2"]
    trained: tuple | None  # decay and trained hidden weights


class MarchStep(NamedTuple):
    """The static side of a march, and what `causal_scan` needs from it."""

    samples: int
    outputs: int
    depth: int
    options: MarchOptions
    axis: AbstractFieldAxis
    capacity: int

    @property
    def slots(self):
        return self.capacity + self.samples  # a block is written as a whole, so it needs room behind the last slot

    @property
    def noises(self) -> tuple[int, int]:
        """How many Gaussians go with a direction, forward and backward."""
        return 1, {"transported": 1, "frozen": 2}.get(self.options.feedback, 0)

    def initial(self):
        zeros, hidden, slots = jnp.zeros, range(self.depth - 1), self.slots
        columns = self.outputs if self.options.lazy else 1
        field = lambda rows: self.axis.spread(zeros((rows, self.axis.size)))  # noqa: E731
        directions = lambda noises: Directions(*(field(slots) if n <= noises else None for n in range(3)))  # noqa: E731
        velocity = Weights(
            decay=zeros(self.depth + 1),
            first=field(columns * self.samples),
            first_bias=field(columns),
            hidden=tuple(zeros((columns * slots, slots)) for _ in hidden),
            hidden_bias=tuple(zeros((columns, slots)) for _ in hidden),
            readout=field(self.outputs),
        )
        weights = velocity._replace(decay=jnp.ones(self.depth + 1))
        history = tuple(Boundary(*map(directions, self.noises)) for _ in hidden)
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

    def gate(self, m):
        return jax.jvp(self.options.activation, (m,), (jnp.ones_like(m),))[1]

    @property
    def features_learn(self) -> bool:
        """Whether what is sent back has anything in common with the gradient before training."""
        return self.options.feedback in ("transported", "frozen")

    def step(self, params: Params, key, history, state: State, x: Schedule):
        options, axis, weights = self.options, self.axis, state.weights
        lazy, exact = options.lazy, options.feedback == "transported"
        now = Moment(self, params, key, history, state, jax.lax.stop_gradient(x.time).astype(int))
        y, start, one = params.y, params.start, jnp.ones((self.samples, 1), params.y.dtype)
        up = now.forward()

        # With several outputs fields are sent back summed with their errors, or, as Hebb has it, with the one error.
        true = None
        if lazy and self.features_learn:
            down = now.feedback(up, one)
            true = Gradient(down.g, down.rows) if exact else now.gradient(up.slope, up, down)
            f = now.lazy_outputs(start.data, up.rows, up.phi[-1], true)
            error = options.error(f, y)
        else:
            f = now.lazy_outputs(start.data, up.rows, up.phi[-1], None) if lazy else now.outputs(up.phi[-1])
            error = options.error(f, y)
            weighed = options.feedback == "hebbian" or (self.outputs > 1 and not lazy)
            down = now.feedback(up, error if weighed else one)
        f_test = jnp.zeros((0, self.outputs), y.dtype)
        if len(start.test_data):
            f_test = self.tested(now, up, down)

        # The update, in the directions that exist by now.
        sample = x.sample_weights[:, None] * (1.0 if lazy else params.richness)
        columns = sample * (error * self.features_learn if lazy else error if self.outputs == 1 else one)
        fields = start.data, up.rows, down.rows, down.g[0], up.phi[-1]
        force = forces(columns, sample * error, *fields, params.biased, weights.decay)
        rates = x.learning_rate * params.rate_scale
        rates = Weights(rates, rates[0], rates[0], tuple(rates[1:-1]), tuple(rates[1:-1]), rates[-1])
        moved = descend(weights, state.velocity, force, rates, x.momentum, x.weight_decay)
        counts = jax.lax.stop_gradient(state.counts)
        born = jnp.array(list(zip(up.born, down.born, strict=True))).reshape(counts.shape)
        rows = tuple(map(Boundary, up.new, down.new))

        product = lambda table: dot(table, table.T)  # noqa: E731
        Phi = Fields(jnp.stack([*map(product, up.rows), axis.inner(up.phi[-1], up.phi[-1])]), None, None)
        G = Fields(jnp.stack([axis.inner(down.g[0], down.g[0]), *map(product, down.rows)]), None, None)
        crossed = densities = kept = None
        if options.gradients and self.outputs > 1 and not lazy:
            crossed = now.by_output(up, down)
        elif options.gradients:
            crossed = G.equal_time
            if not exact:
                true = now.gradient(up.slope, up, down) if true is None else true
                pairs = [dot(a, b.T) for a, b in zip(true.rows, down.rows, strict=True)]
                crossed = jnp.stack([axis.inner(true.g[0], down.g[0]), *pairs])
        if options.density_edges is not None:
            densities = jnp.stack([axis.density(h, jnp.asarray(options.density_edges, y.dtype)) for h in up.h])
        if options.fields:
            Phi = Phi._replace(tables=tuple(up.rows), end=up.phi[-1])
            G = G._replace(tables=tuple(down.rows), end=down.g[0])
        if options.weights:
            still = jnp.zeros((self.slots, self.slots), y.dtype)
            kept = weights.decay, tuple(still if lazy else matrix for matrix in weights.hidden)
        return rows, State(*moved, counts + born), Row(f, f_test, Phi, G, crossed, densities, counts, kept)

    def tested(self, now: Moment, up: Forward, down: Backward):
        """Test points, some at a time: memory for one batch."""
        start, size = now.start, self.options.test_batch
        tests = len(start.test_data)
        if size is None or size >= tests:
            return now.tested(up, down, (0, start.test_data, start.test_outside, start.own))
        batches, now = -(-tests // size), now.by_rows()
        cut = lambda rows: jnp.pad(rows, ((0, batches * size - tests), (0, 0))).reshape(batches, size, -1)  # noqa: E731
        one = jax.checkpoint(lambda batch: now.tested(up, down, (*batch, None)))
        places = size * jnp.arange(batches, dtype=jnp.uint32)
        rows = jax.lax.map(one, (places, cut(start.test_data), cut(start.test_outside)))
        return rows.reshape(batches * size, -1)[:tests]
