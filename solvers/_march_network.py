"""The infinite network that the march trains: what is random, what is trained, and what both do to a field."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ._field_axis import AbstractFieldAxis
from ._march_basis import Directions, Expansion, dot, outside, project, reveal
from ._past import before


class Start(NamedTuple):
    """Static fields of the network at initialisation, and the inputs in orthonormal data directions."""

    data: Float[Array, "samples samples"]  # K^x = data data^T
    test_data: Float[Array, "tests samples"]
    test_outside: Float[Array, "tests 1"]  # what a test input has outside of the data directions
    first: Float[Array, "samples axis"]  # W^0(0) on the data directions
    bias: Float[Array, "depth axis"]
    readout: Float[Array, "outputs axis"]
    feedback: tuple[Float[Array, "outputs axis"], ...]  # frozen, one for the readout, or one for each layer
    gates: tuple[Float[Array, "samples axis"], ...]  # frozen, one for each layer
    own: tuple | None  # see `own_gaussians`, if all test points are held at once


class Weights(NamedTuple):
    """The trained part of every weight, in the directions that training reaches; `decay` multiplies the random part.

    Below the readout there is one set for each of several `columns` of errors (see `forces`); a network that learns
    features has one column, to which all outputs add.
    """

    decay: Float[Array, " depth+1"]
    first: Float[Array, "columns*samples axis"]  # data direction x axis
    first_bias: Float[Array, "columns axis"]
    hidden: tuple[Float[Array, "columns*slots slots"], ...]  # forward direction x backward direction
    hidden_bias: tuple[Float[Array, "columns slots"], ...]  # backward direction
    readout: Float[Array, "outputs axis"]


class Boundary(NamedTuple):
    """The directions of one hidden weight matrix: phi below with u above, and g above with r below."""

    forward: Directions
    backward: Directions


class HiddenWeight(NamedTuple):
    r"""One hidden weight matrix of the infinite network, $W = d s Z + \delta W$, seen from one step.

    $$Z \phi = \sum_k \langle\phi\,\hat\phi_k\rangle \epsilon^u_k + \sum_k \langle\phi\,\epsilon^r_k\rangle \hat g_k,
      \quad
      Z^T g = \sum_k \langle g\,\hat g_k\rangle\, \epsilon^r_k + \sum_k \langle g\,\epsilon^u_k\rangle\, \hat\phi_k,
      \quad \delta W = \sum_{kj} M_{kj}\, \hat g_j \hat\phi_k^T$$

    Without `responses` the second sums are left out, as if a matrix and its transpose were independent.
    """

    known: Boundary
    live: tuple[Float[Array, " slots"], Float[Array, " slots"]]  # 1 for directions that exist already
    scale: Float[Array, ""]  # s
    decay: Float[Array, ""]  # d
    trained: Any  # M `[slots, slots]`, or None for a matrix that stays at its start
    bias: Any  # `[1, slots]`, or None
    responses: bool

    def forward(self, field, expansion: Expansion, new: Directions, axis: AbstractFieldAxis, own: Any = 0.0):
        """The field above: the random part's Gaussian, its response, the trained part and the trained bias."""
        scale, drift = self.decay * self.scale, []
        if self.responses and self.known.backward.noise is not None:
            drift.append(scale * axis.inner(field, self.known.backward.noise) * self.live[1])
        if self.trained is not None:
            drift.append(dot(expansion.old, self.trained) + self.bias)
        gaussian = before(expansion.old, self.known.forward.noise) + dot(expansion.new, new.noise) + own
        return scale * gaussian + (before(sum(drift), self.known.backward.hat) if drift else 0.0)

    def backward(self, field, expansion: Expansion, new: Directions, below: Directions, axis: AbstractFieldAxis):
        """The field below of the transpose; `below` are the forward directions of this very step."""
        scale = self.decay * self.scale
        gaussian, response = self._transpose(field, expansion, new, below, axis)
        drift = [scale * response] if self.responses else []
        if self.trained is not None:
            drift.append(dot(expansion.old, self.trained.T))
        return scale * gaussian + (before(sum(drift), self.known.forward.hat) if drift else 0.0)

    def frozen(self, field, expansion: Expansion, new: Directions, below: Directions, axis, correlation):
        r"""The field below of $[\rho W(0) + \sqrt{1-\rho^2}\,\tilde W]^T$."""
        gaussian, response = self._transpose(field, expansion, new, below, axis)
        independent = before(expansion.old, self.known.backward.other) + dot(expansion.new, new.other)
        mixed = correlation * gaussian + jnp.sqrt(1 - correlation**2) * independent
        return self.scale * (
            mixed + (before(correlation * response, self.known.forward.hat) if self.responses else 0.0)
        )

    def _transpose(self, field, expansion, new, below, axis) -> tuple[Any, Any]:
        gaussian = jnp.zeros_like(field)
        if self.known.backward.noise is not None:
            gaussian = before(expansion.old, self.known.backward.noise) + dot(expansion.new, new.noise)
        if not self.responses:
            return gaussian, None
        response = axis.inner(field, self.known.forward.noise) * self.live[0]
        return gaussian + dot(axis.inner(field, below.noise), below.hat), response


class InputAxis(NamedTuple):
    """The axis of the inputs: their dot product as inner product."""

    def inner(self, rows, others):
        return dot(rows, others.T)

    def square(self, rows):
        return jnp.sum(rows * rows, axis=1)


def forces(
    error,
    top_error,
    data,
    phi_rows,
    g_rows,
    first_g,
    last_phi,
    biased: Float[Array, ""],
    decay: Float[Array, " layers"],
) -> Weights:
    r"""Minus the gradient in every weight: $\sum_\mu e_{\mu c}\, \tilde g_\mu \phi_\mu^T$ for each column c of errors.

    **Arguments:**

    - `error`: `[samples, columns]`, for everything below the readout; `top_error`: `[samples, outputs]`.
    - `phi_rows`, `g_rows`: coefficients of the fields at every hidden weight; `first_g`, `last_phi`: the end fields.
    """
    columns = lambda rows: (error[:, :, None] * rows[:, None, :]).reshape(len(error), -1).T  # noqa: E731
    return Weights(
        decay=jnp.zeros_like(decay),
        first=dot(columns(data), first_g),
        first_bias=biased * dot(error.T, first_g),
        hidden=tuple(dot(columns(below), above) for below, above in zip(phi_rows, g_rows, strict=True)),
        hidden_bias=tuple(biased * dot(error.T, above) for above in g_rows),
        readout=dot(top_error.T, last_phi),
    )


def linearised(weights: Weights, data, phi_rows, g_rows, first_g, last_phi, axis) -> Float[Array, "rows outputs"]:
    r"""What trained weights add to first order, in every column: $\sum_l \langle g^{l+1}\, \delta W^l\phi^l\rangle$."""
    columns = lambda table, rows: jnp.sum(table.reshape(len(rows), -1, rows.shape[1]) * rows[:, None, :], axis=2)  # noqa: E731
    parts = [columns(axis.inner(first_g, weights.first), data), axis.inner(first_g, weights.first_bias)]
    for matrix, bias, below, above in zip(weights.hidden, weights.hidden_bias, phi_rows, g_rows, strict=True):
        parts += [columns(dot(above, matrix.T), below), dot(above, bias.T)]
    return sum(parts) + axis.inner(last_phi, weights.readout)


def initialise(
    x: Float[Array, "samples dim"],
    x_test: Float[Array, "tests dim"],
    init_scale: Float[Array, " layers"],
    bias_scale: Float[Array, ""],
    axis: AbstractFieldAxis,
    key: Key[Array, ""],
    *,
    outputs: int = 1,
    feedback: str = "transported",
    gate: Any = None,
    own: bool = True,
) -> Start:
    r"""The network at initialisation, with $\langle u^1_\mu u^1_\nu\rangle = x_\mu\cdot x_\nu / D$.

    $$h^1 = s_0 u^1 + \sigma_b \epsilon^b, \qquad w = s_L \epsilon^w$$

    `gate` maps the preactivation of a gate to the gate; by default there are none. `own` says whether to draw the
    Gaussians of test points now.
    """
    (samples, dim), tests, depth = x.shape, len(x_test), len(init_scale) - 1
    x, x_test, tolerance = x / jnp.sqrt(dim), x_test / jnp.sqrt(dim), 100 * jnp.finfo(x.dtype).eps

    channels = {"frozen": [depth], "direct": list(range(depth))}.get(feedback, [])
    blocks = [("input", 0, samples), ("readout", depth, outputs), *(("bias", l, 1) for l in range(depth))]
    blocks += [("feedback_readout", l, outputs) for l in channels]
    blocks += [("gate", l, samples) for l in range(depth if gate else 0)]
    tested = _test_blocks(tests, samples, depth, bool(gate)) if own else []
    drawn = axis.draw(key, 0, blocks + tested)
    fields = _gaussians(axis, drawn, blocks + tested)
    take = lambda role: tuple(f for f, block in zip(fields, blocks, strict=False) if block[0] == role)  # noqa: E731

    nothing, none = Directions(jnp.zeros((0, dim), x.dtype), jnp.zeros((0, axis.size), x.dtype)), jnp.zeros(0, x.dtype)
    fresh = lambda place: (axis.gaussians(drawn[0], "input", place),)  # noqa: E731
    data, basis, _ = reveal(x, nothing, none, InputAxis(), tolerance, fresh)
    inside = project(x_test, nothing, basis, none, InputAxis())
    return Start(
        data=data.new,
        test_data=inside.new,
        test_outside=outside(x_test, inside, InputAxis(), tolerance),
        first=init_scale[0] * basis.noise,
        bias=bias_scale * jnp.concatenate(take("bias")),
        readout=init_scale[-1] * fields[1],
        feedback=tuple(init_scale[-1] * c if feedback == "frozen" else c for c in take("feedback_readout")),
        gates=tuple(gate(dot(data.new, noise)) for noise in take("gate")) if gate else (),
        own=_by_role(fields[len(blocks) :], depth) if own else None,
    )


def own_gaussians(axis: AbstractFieldAxis, key, first, rows: int, samples: int, depth: int, gated: bool):
    """What test points have of their own: at every layer Gaussians `[rows, axis]` that no training sample shares,
    and for gates the same, and the Gaussians `[samples, axis]` of the gates' data directions; counted from `first`."""
    blocks = _test_blocks(rows, samples, depth, gated)
    own = axis.draw(key, 0, blocks[: len(blocks) - gated * depth], first)
    shared = axis.draw(key, 0, blocks[len(blocks) - depth :]) if gated else []
    return _by_role(_gaussians(axis, [*own, *shared], blocks), depth)


def _test_blocks(rows: int, samples: int, depth: int, gated: bool):
    roles = [("test", rows)] + [("test_gate", rows), ("gate", samples)] * gated
    return [(role, l, count) for role, count in roles for l in range(depth)]


def _gaussians(axis, drawn, blocks):
    return [axis.gaussians(d, role, jnp.arange(count)) for d, (role, _, count) in zip(drawn, blocks, strict=True)]


def _by_role(fields, depth: int):
    return tuple(tuple(fields[i : i + depth]) for i in range(0, len(fields), depth))
