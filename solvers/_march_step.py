"""One step of the causal march: fields forward, errors, fields backward, and the move of every weight."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._field_axis import AbstractFieldAxis
from ._linear_optimiser import descend
from ._march_basis import Directions, dot, outside, project, reveal
from ._march_network import Boundary, HiddenWeight, Start, Weights, forces, linearised, own_gaussians


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
    - `gradients`: also return the kernels of the true gradient with what `feedback` makes of it (for one output).
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
    gradients: Float[Array, "depth samples samples"] | None
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
        field = lambda rows: zeros((rows, self.axis.size))  # noqa: E731
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

    def units(self, h, gate):
        """The activation and its derivative; for gated linear units, what the gate lets through."""
        return (gate * h, gate) if self.options.gated else jax.jvp(self.options.activation, (h,), (jnp.ones_like(h),))

    def step(self, params: Params, key, history, state: State, x: Schedule):
        start, y, gamma, scale, rate_scale, correlation, biased, tolerance = params
        options, axis, weights, d = self.options, self.axis, state.weights, state.weights.decay
        now, counts = jax.lax.stop_gradient(x.time).astype(int), jax.lax.stop_gradient(state.counts)
        at, hidden, depth, lazy = counts.astype(int), range(self.depth - 1), self.depth, options.lazy
        alive = lambda count: (jnp.arange(self.slots) < count).astype(y.dtype)  # noqa: E731
        live = [(alive(counts[b, 0]), alive(counts[b, 1])) for b in hidden]
        trained = [(None, None) if lazy else (weights.hidden[b], weights.hidden_bias[b]) for b in hidden]
        matrices = [
            HiddenWeight(history[b], live[b], scale[b + 1], d[b + 1], *trained[b], options.responses) for b in hidden
        ]
        # In the lazy limit all outputs have the same features: one readout stands for each.
        w = d[-1] * start.readout[:1] if lazy else d[-1] * start.readout + weights.readout
        carriers = [c[:1] if lazy else c for c in start.feedback]

        roles = ("forward",), ("backward", "feedback")[: self.noises[1]]
        blocks = [(role, b + 1, self.samples) for b in hidden for role in roles[0] + roles[1]]
        drawn = dict(zip([block[:2] for block in blocks], axis.draw(key, now, blocks), strict=True)) if blocks else {}

        def extend(field, b, side):
            fresh = lambda place: tuple(  # noqa: E731
                axis.gaussians(drawn[role, b + 1], role, at[b, side] + place) for role in roles[side]
            )
            return reveal(field, history[b][side], live[b][side], axis, tolerance, fresh)

        def first(data, outside=0.0):
            """Preactivations of the first layer; later ones come from a hidden weight, and both get their bias."""
            h = d[0] * (dot(data, start.first) + scale[0] * outside)
            return h if lazy else h + dot(data, weights.first) + weights.first_bias

        # Forward, from the data to the readout.
        up, h, phis, slopes = {}, [], [], []  # by hidden weight, and by layer
        below = first(start.data)
        for l in range(depth):
            h.append(below + d[l] * start.bias[l])
            phi, slope = self.units(h[l], start.gates[l] if options.gated else None)
            phis.append(phi)
            slopes.append(slope)
            if l in hidden:
                up[l] = R, new, _ = extend(phi, l, 0)
                below = matrices[l].forward(phi, R, new, axis)
        phi_rows = [up[b][0].row(at[b, 0]) for b in hidden]

        # Backward: what the rule sends back, and the true gradient as far as it is revealed, which is all that
        # averages with revealed fields can see.
        down = {}

        def feedback(errors):
            hebbian = options.feedback == "hebbian"
            if options.feedback == "transported":
                z = dot(errors, w)
            elif options.feedback == "frozen":
                readout = start.readout[:1] if lazy else start.readout
                z = dot(errors, correlation * readout + jnp.sqrt(1 - correlation**2) * carriers[0])
            else:
                z = errors if hebbian else dot(errors, carriers[-1])
            fields = [(phis if hebbian else slopes)[-1] * z]
            for b in reversed(hidden):
                down[b] = R, new, _ = extend(fields[0], b, 1)
                through = fields[0], R, new, up[b][1], axis
                if options.feedback == "transported":
                    z = matrices[b].backward(*through)
                elif options.feedback == "frozen":
                    z = matrices[b].frozen(*through, correlation)
                else:
                    z = errors if hebbian else dot(errors, carriers[b])
                fields.insert(0, (phis if hebbian else slopes)[b] * z)
            return fields, [down[b][0].row(at[b, 1]) for b in hidden]

        def gradient(slopes):
            fields, rows = [slopes[-1] * w], []
            for b in reversed(hidden):
                R = project(fields[0], history[b].backward, down[b][1], live[b][1], axis)
                rows.insert(0, R.row(at[b, 1]))
                fields.insert(0, slopes[b] * matrices[b].backward(fields[0], R, down[b][1], up[b][1], axis))
            return fields, rows

        one = jnp.ones((self.samples, 1), y.dtype)
        exact, features = options.feedback == "transported", options.feedback in ("transported", "frozen")
        if lazy and features:
            g, g_rows = feedback(one)
            true, true_rows = (g, g_rows) if exact else gradient(slopes)
            f = linearised(weights, start.data, phi_rows, true_rows, true[0], phis[-1], axis)
            error = options.error(f, y)
        else:
            # Without a gradient that meets the hidden weights' own, only the readout moves a lazy output.
            per_richness = 1.0 if lazy else jnp.where(gamma == 0, 0.0, 1.0 / jnp.where(gamma == 0, 1.0, gamma))
            f = axis.inner(phis[-1], weights.readout if lazy else w) * per_richness
            error = options.error(f, y)
            local = options.feedback == "hebbian"
            g, g_rows = feedback(error if local or (self.outputs > 1 and not lazy) else one)
            if options.gradients and not exact:
                true, true_rows = gradient(slopes)

        def tested(batch):
            """Outputs for a batch of test points, with what the training fields revealed."""
            place, data, left, own = batch
            if own is None:
                own = own_gaussians(axis, key, place, len(data), self.samples, depth, options.gated)
            below, slopes, rows, phi = first(data, left * own[0][0]), [], [], None
            for l in range(depth):
                gate = self.gate(dot(data, own[2][l]) + left * own[1][l]) if options.gated else None
                phi, slope = self.units(below + d[l] * start.bias[l], gate)
                slopes.append(slope)
                if l in hidden:
                    R = project(phi, history[l].forward, up[l][1], live[l][0], axis)
                    rows.append(R.row(at[l, 0]))
                    own_part = outside(phi, R, axis, tolerance) * own[0][l + 1]
                    below = matrices[l].forward(phi, R, up[l][1], axis, own_part)
            if lazy and features:
                true, true_rows = gradient(slopes)
                return linearised(weights, data, rows, true_rows, true[0], phi, axis)
            return axis.inner(phi, weights.readout if lazy else w) * per_richness

        f_test = self.in_batches(tested, start) if len(start.test_data) else jnp.zeros((0, self.outputs), y.dtype)

        # The update, in the directions that exist by now. With several outputs g carries their errors already.
        sample = x.sample_weights[:, None] * (1.0 if lazy else gamma)
        columns = sample * (error * features if lazy else error if self.outputs == 1 else one)
        force = forces(columns, sample * error, start.data, phi_rows, g_rows, g[0], phis[-1], biased, d)
        rates = x.learning_rate * rate_scale
        rates = Weights(rates, rates[0], rates[0], tuple(rates[1:-1]), tuple(rates[1:-1]), rates[-1])
        moved = descend(weights, state.velocity, force, rates, x.momentum, x.weight_decay)
        born = jnp.array([[up[b][2], down[b][2]] for b in hidden]).reshape(counts.shape)
        rows = tuple(Boundary(up[b][1], down[b][1]) for b in hidden)

        product = lambda table: dot(table, table.T)  # noqa: E731
        Phi = Fields(jnp.stack([*map(product, phi_rows), axis.inner(phis[-1], phis[-1])]), None, None)
        G = Fields(jnp.stack([axis.inner(g[0], g[0]), *map(product, g_rows)]), None, None)
        crossed = densities = kept = None
        if options.gradients:
            pairs = [dot(a, b.T) for a, b in zip(true_rows, g_rows, strict=True)] if not exact else []
            crossed = G.equal_time if exact else jnp.stack([axis.inner(true[0], g[0]), *pairs])
        if options.density_edges is not None:
            densities = jnp.stack([axis.density(rows, jnp.asarray(options.density_edges, y.dtype)) for rows in h])
        if options.fields:
            Phi, G = Phi._replace(tables=tuple(phi_rows), end=phis[-1]), G._replace(tables=tuple(g_rows), end=g[0])
        if options.weights:
            kept = d, tuple(jnp.zeros((self.slots, self.slots), y.dtype) if lazy else m for m in weights.hidden)
        return rows, State(*moved, counts + born), Row(f, f_test, Phi, G, crossed, densities, counts, kept)

    def in_batches(self, tested, start: Start):
        """Test points, some at a time: memory for one batch."""
        tests, size = len(start.test_data), self.options.test_batch
        if size is None or size >= tests:
            return tested((0, start.test_data, start.test_outside, start.own))
        batches = -(-tests // size)
        cut = lambda rows: jnp.pad(rows, ((0, batches * size - tests), (0, 0))).reshape(batches, size, -1)  # noqa: E731
        one = jax.checkpoint(lambda batch: tested((*batch, None)))
        places = size * jnp.arange(batches, dtype=jnp.uint32)
        rows = jax.lax.map(one, (places, cut(start.test_data), cut(start.test_outside)))
        return rows.reshape(batches * size, -1)[:tests]
