"""The infinite network at one time of the march: fields forward, what is sent back, gradients, and test points."""

import copy
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._march_basis import Directions, Expansion, dot, gram_schmidt, outside, project, reveal
from ._march_network import HiddenWeight, linearised, own_gaussians
from ._past import before


class Forward(NamedTuple):
    """Preactivations, activations and their derivatives by layer; what they are in the bases, by hidden weight."""

    h: list[Float[Array, "samples axis"]]
    phi: list[Float[Array, "samples axis"]]
    slope: list[Float[Array, "samples axis"]]
    rows: list[Float[Array, "samples slots"]]
    new: list[Directions]
    born: list[Float[Array, ""]]


class Backward(NamedTuple):
    """Fields sent back by layer; what they are in the bases, by hidden weight."""

    g: list[Float[Array, "samples axis"]]
    rows: list[Float[Array, "samples slots"]]
    new: list[Directions]
    born: list[Float[Array, ""]]


class Gradient(NamedTuple):
    """The true gradient as far as it is revealed, which is all that averages with revealed fields can see."""

    g: list[Float[Array, "rows axis"]]
    rows: list[Float[Array, "rows slots"]]


class Moment:
    """All that one step of `MarchStep` sees."""

    def __init__(self, static, params, key, history, state, step):
        self.static, self.options, self.axis = static, static.options, static.axis
        self.params, self.start, self.key, self.history = params, params.start, key, history
        self.weights, self.decay = state.weights, state.weights.decay
        self.depth, self.hidden, self.time = static.depth, range(static.depth - 1), step
        counts = jax.lax.stop_gradient(state.counts)
        self.at = counts.astype(int)
        alive = lambda count: (jnp.arange(static.slots) < count).astype(params.y.dtype)  # noqa: E731
        self.live = [(alive(counts[b, 0]), alive(counts[b, 1])) for b in self.hidden]
        self.matrices = [self._matrix(b) for b in self.hidden]
        # In the lazy limit all outputs have the same features: one readout stands for each.
        lazy, random = self.options.lazy, self.start.readout
        self.readout = self.decay[-1] * random[:1] if lazy else self.decay[-1] * random + self.weights.readout
        self.carriers = [c[:1] if lazy else c for c in self.start.feedback]

        self.roles = ("forward",), ("backward", "feedback")[: static.noises[1]]
        blocks = [(role, b + 1, static.samples) for b in self.hidden for role in self.roles[0] + self.roles[1]]
        drawn = self.axis.draw(key, step, blocks) if blocks else []
        self.drawn = dict(zip([block[:2] for block in blocks], drawn, strict=True))

    def _matrix(self, b: int) -> HiddenWeight:
        lazy, weights = self.options.lazy, self.weights
        trained = (None, None) if lazy else (weights.hidden[b], weights.hidden_bias[b])
        scale, decay = self.params.init_scale[b + 1], self.decay[b + 1]
        return HiddenWeight(self.history[b], self.live[b], scale, decay, *trained, self.options.responses)

    def by_rows(self) -> "Moment":
        """The same, for inside of a loop, where products with a `Past` cannot be collected."""
        other = copy.copy(self)
        other.history = jax.tree.map(lambda past: past.rows, self.history)
        other.matrices = [other._matrix(b) for b in self.hidden]
        return other

    def reveal(self, field, b: int, side: int):
        """The field's expansion at a hidden weight, with new directions where it needs them."""

        def gaussians(place):
            slots = self.at[b, side] + place
            return tuple(self.axis.gaussians(self.drawn[role, b + 1], role, slots) for role in self.roles[side])

        return reveal(field, self.history[b][side], self.live[b][side], self.axis, self.params.tolerance, gaussians)

    def first(self, data, own: Any = 0.0):
        """Preactivations of the first layer; `own` is what a test input has outside of the data."""
        h = self.decay[0] * (dot(data, self.start.first) + self.params.init_scale[0] * own)
        return h if self.options.lazy else h + dot(data, self.weights.first) + self.weights.first_bias

    def units(self, below, l: int, gate) -> tuple[Any, Any, Any]:
        """A layer's preactivation, activation and derivative; for gated linear units, what the gate lets through."""
        h = below + self.decay[l] * self.start.bias[l]
        if self.options.gated:
            return h, gate * h, gate
        return h, *jax.jvp(self.options.activation, (h,), (jnp.ones_like(h),))

    def forward(self) -> Forward:
        """From the data to the readout."""
        out, below = Forward([], [], [], [], [], []), self.first(self.start.data)
        for l in range(self.depth):
            h, phi, slope = self.units(below, l, self.start.gates[l] if self.options.gated else None)
            out.h.append(h)
            out.phi.append(phi)
            out.slope.append(slope)
            if l in self.hidden:
                R, new, born = self.reveal(phi, l, 0)
                below = self.matrices[l].forward(phi, R, new, self.axis)
                out.rows.append(R.row(self.at[l, 0]))
                out.new.append(new)
                out.born.append(born)
        return out

    def feedback(self, up: Forward, errors: Float[Array, "samples outputs"]) -> Backward:
        """What the rule sends back, from the readout to the first layer."""
        factor = up.phi if self.options.feedback == "hebbian" else up.slope
        out = Backward([factor[-1] * self._from_readout(errors)], [], [], [])
        for b in reversed(self.hidden):
            R, new, born = self.reveal(out.g[0], b, 1)
            out.g.insert(0, factor[b] * self._sent_back(b, out.g[0], R, new, up.new[b], errors))
            out.rows.insert(0, R.row(self.at[b, 1]))
            out.new.insert(0, new)
            out.born.insert(0, born)
        return out

    def _from_readout(self, errors):
        rule, correlation = self.options.feedback, self.params.correlation
        if rule == "transported":
            return dot(errors, self.readout)
        if rule == "frozen":
            start = self.start.readout[:1] if self.options.lazy else self.start.readout
            return dot(errors, correlation * start + jnp.sqrt(1 - correlation**2) * self.carriers[0])
        return errors if rule == "hebbian" else dot(errors, self.carriers[-1])

    def _sent_back(self, b: int, field, R, new, below, errors):
        """What reaches the layer below a hidden weight."""
        rule, through = self.options.feedback, (field, R, new, below, self.axis)
        if rule == "transported":
            return self.matrices[b].backward(*through)
        if rule == "frozen":
            return self.matrices[b].frozen(*through, self.params.correlation)
        return errors if rule == "hebbian" else dot(errors, self.carriers[b])

    def by_output(self, up: Forward, down: Backward) -> Float[Array, "depth rows rows"]:
        """Kernels of the gradient of each output with what the rule sends back for each; rows are samples and outputs.

        Directions that these fields have beside the basis go with Gaussians of their own, which nothing else sees.
        """
        samples, outputs = self.static.samples, self.static.outputs
        one = jnp.tile(jnp.eye(outputs, dtype=self.readout.dtype), (samples, 1))
        roles = ("output", "output_feedback")[: self.static.noises[1]]
        blocks = [(role, b + 1, len(one)) for b in self.hidden for role in roles]
        drawn = iter(self.axis.draw(self.key, self.time, blocks) if blocks else [])
        slots = self.static.slots + jnp.arange(len(one))
        slopes = [jnp.repeat(slope, outputs, axis=0) for slope in up.slope]
        exact = self.options.feedback == "transported"

        taught, true = slopes[-1] * self._from_readout(one), slopes[-1] * dot(one, self.readout)
        kernels = [self.axis.inner(true, taught)]
        for b in reversed(self.hidden):
            fresh = [self.axis.gaussians(next(drawn), role, slots) for role in roles]
            R, new = self._beside(taught, b, down.new[b], fresh)
            sent = self._sent_back(b, taught, R, new, up.new[b], one)
            if not exact:
                R = project(true, self.history[b].backward, new, self.live[b][1], self.axis)
                true = slopes[b] * self.matrices[b].backward(true, R, new, up.new[b], self.axis)
            taught = slopes[b] * sent
            true = taught if exact else true
            kernels.insert(0, self.axis.inner(true, taught))
        return jnp.stack(kernels)

    def _beside(self, field, b: int, new: Directions, fresh) -> tuple[Expansion, Directions]:
        """The whole expansion of a field, in the basis, the directions of this step, and others beside them."""
        known = self.history[b].backward
        R = project(field, known, new, self.live[b][1], self.axis)
        rest = field - before(R.old, known.hat) - dot(R.new, new.hat)
        floor = self.params.tolerance * self.axis.square(field)
        lower, inverse, _ = gram_schmidt(self.axis.inner(rest, rest), floor)
        own = Directions(dot(inverse, rest), *fresh)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), new, own)
        return Expansion(R.old, jnp.concatenate([R.new, lower], axis=1)), both

    def gradient(self, slopes, up: Forward, down: Backward) -> Gradient:
        """The gradient of the output at any rows, of which `slopes` are the derivatives of the activations."""
        out = Gradient([slopes[-1] * self.readout], [])
        for b in reversed(self.hidden):
            R = project(out.g[0], self.history[b].backward, down.new[b], self.live[b][1], self.axis)
            out.rows.insert(0, R.row(self.at[b, 1]))
            out.g.insert(0, slopes[b] * self.matrices[b].backward(out.g[0], R, down.new[b], up.new[b], self.axis))
        return out

    def lazy_outputs(self, data, phi_rows, last_phi, true: Gradient | None) -> Float[Array, "rows outputs"]:
        """What training has added; without a gradient that meets what trains, only the readout has moved it."""
        if true is None:
            return self.axis.inner(last_phi, self.weights.readout)
        return linearised(self.weights, data, phi_rows, true.rows, true.g[0], last_phi, self.axis)

    def outputs(self, last_phi) -> Float[Array, "rows outputs"]:
        r"""$\langle w\,\phi^L\rangle/\gamma$; zero at richness zero."""
        gamma = self.params.richness
        per_richness = jnp.where(gamma == 0, 0.0, 1.0 / jnp.where(gamma == 0, 1.0, gamma))
        return self.axis.inner(last_phi, self.readout) * per_richness

    def tested(self, up: Forward, down: Backward, batch) -> Float[Array, "tests outputs"]:
        """Outputs for a batch of test points, with what the training fields revealed."""
        place, data, left, own = batch
        if own is None:
            own = own_gaussians(
                self.axis, self.key, place, len(data), self.static.samples, self.depth, self.options.gated
            )
        below, slopes, rows, phi = self.first(data, left * own[0][0]), [], [], None
        for l in range(self.depth):
            gate = self.static.gate(dot(data, own[2][l]) + left * own[1][l]) if self.options.gated else None
            _, phi, slope = self.units(below, l, gate)
            slopes.append(slope)
            if l in self.hidden:
                R = project(phi, self.history[l].forward, up.new[l], self.live[l][0], self.axis)
                rows.append(R.row(self.at[l, 0]))
                alone = outside(phi, R, self.axis, self.params.tolerance) * own[0][l + 1]
                below = self.matrices[l].forward(phi, R, up.new[l], self.axis, alone)
        if not self.options.lazy:
            return self.outputs(phi)
        true = self.gradient(slopes, up, down) if self.static.features_learn else None
        return self.lazy_outputs(data, rows, phi, true)
