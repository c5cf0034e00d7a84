"""The infinite network that the march trains: what is random, what is trained, and what both do to a field."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ._field_axis import AbstractFieldAxis
from ._march_basis import Directions, Expansion, dot, project, reveal


class Start(NamedTuple):
    """Static fields of the network at initialisation, and the inputs in orthonormal data directions."""

    data: Float[Array, "samples samples"]  # K^x = data data^T
    test_data: Float[Array, "tests samples"]
    preactivation: Float[Array, "samples axis"]  # W^0(0) x
    test_preactivation: Float[Array, "tests axis"]
    bias: Float[Array, "depth axis"]
    readout: Float[Array, "1 axis"]
    test_forward: tuple[Float[Array, "tests axis"], ...]  # a test point's own Gaussians at each hidden weight
    test_backward: tuple[Float[Array, "tests axis"], ...]


class Weights(NamedTuple):
    """The trained part of every weight, in the directions that training reaches; `decay` multiplies the random part."""

    decay: Float[Array, ""]
    first: Float[Array, "samples axis"]  # data direction x axis
    first_bias: Float[Array, "1 axis"]
    hidden: tuple[Float[Array, "slots slots"], ...]  # forward direction x backward direction
    hidden_bias: tuple[Float[Array, "1 slots"], ...]  # backward direction
    readout: Float[Array, "1 axis"]


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
    """

    known: Boundary
    live: tuple[Float[Array, " slots"], Float[Array, " slots"]]  # 1 for directions that exist already
    scale: Float[Array, ""]  # d s
    trained: Float[Array, "slots slots"]  # M
    bias: Float[Array, "1 slots"]

    def forward(self, field, expansion: Expansion, new: Directions, axis: AbstractFieldAxis, own: Any = 0.0):
        """The field above: the random part's Gaussian, its response, the trained part and the trained bias."""
        response = axis.inner(field, self.known.backward.noise) * self.live[1]
        drift = self.scale * response + dot(expansion.old, self.trained) + self.bias
        gaussian = dot(expansion.old, self.known.forward.noise) + dot(expansion.new, new.noise) + own
        return self.scale * gaussian + dot(drift, self.known.backward.hat)

    def backward(self, field, expansion: Expansion, new: Directions, below: Directions, axis, own: Any = 0.0):
        """The same for the transpose; `below` are the forward directions of this very step."""
        response = axis.inner(field, self.known.forward.noise) * self.live[0]
        drift = self.scale * response + dot(expansion.old, self.trained.T)
        gaussian = dot(expansion.old, self.known.backward.noise) + dot(expansion.new, new.noise) + own
        gaussian = gaussian + dot(axis.inner(field, below.noise), below.hat)
        return self.scale * gaussian + dot(drift, self.known.forward.hat)


class InputAxis(NamedTuple):
    """The axis of the inputs: their dot product as inner product."""

    def inner(self, rows, others):
        return dot(rows, others.T)

    def square(self, rows):
        return jnp.sum(rows * rows, axis=1)


def initialise(
    x: Float[Array, "samples dim"],
    x_test: Float[Array, "tests dim"],
    init_scale: Float[Array, " layers"],
    bias_scale: Float[Array, ""],
    axis: AbstractFieldAxis,
    key: Key[Array, ""],
) -> Start:
    r"""The network at initialisation, with $\langle u^1_\mu u^1_\nu\rangle = x_\mu\cdot x_\nu / D$.

    $$h^1 = s_0 u^1 + \sigma_b \epsilon^b, \qquad w = s_L \epsilon^w$$
    """
    (samples, dim), tests, depth = x.shape, len(x_test), len(init_scale) - 1
    x, x_test, tolerance = x / jnp.sqrt(dim), x_test / jnp.sqrt(dim), 100 * jnp.finfo(x.dtype).eps

    tested = [("test_forward", b, tests) for b in range(depth)] + [("test_backward", b, tests) for b in range(1, depth)]
    blocks = [("input", 0, samples), ("readout", depth, 1), *(("bias", l, 1) for l in range(depth)), *tested]
    drawn = axis.draw(key, 0, blocks)
    gaussians = [axis.gaussians(d, role, jnp.arange(n)) for d, (role, _, n) in zip(drawn, blocks, strict=True)]
    readout, biases, own = gaussians[1], gaussians[2 : 2 + depth], gaussians[2 + depth :]

    nothing, none = Directions(jnp.zeros((0, dim), x.dtype), jnp.zeros((0, axis.size), x.dtype)), jnp.zeros(0, x.dtype)
    fresh = lambda place: axis.gaussians(drawn[0], "input", place)  # noqa: E731
    data, basis, _ = reveal(x, nothing, none, InputAxis(), tolerance, fresh)
    test_data, left = project(x_test, nothing, basis, none, InputAxis(), tolerance)
    return Start(
        data=data.new,
        test_data=test_data.new,
        preactivation=init_scale[0] * dot(data.new, basis.noise),
        test_preactivation=init_scale[0] * (dot(test_data.new, basis.noise) + left * own[0]),
        bias=bias_scale * jnp.concatenate(biases),
        readout=init_scale[-1] * readout,
        test_forward=tuple(own[1:depth]),
        test_backward=tuple(own[depth:]),
    )
