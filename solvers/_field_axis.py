"""The axis along which single-site fields live: Monte-Carlo particles, or exact Gaussian coefficients."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ._devices import shard
from ._past import Past, onto

#: What a Gaussian is for, and whether it changes sign in the antithetic partner of a particle.
ROLES = {
    "input": False,
    "forward": False,
    "bias": False,
    "test": False,
    "gate": False,
    "test_gate": False,
    "backward": True,
    "readout": True,
    "feedback": True,  # of the frozen matrices that carry errors back, and of what they take for the readout
    "feedback_readout": True,
    "output": True,  # of what single outputs send back, beside what trains
    "output_feedback": True,
}


class AbstractFieldAxis(eqx.Module):
    """Fields are arrays `[row, axis]`; an axis knows their inner product, and how fresh Gaussians look on it."""

    size: eqx.AbstractVar[int]

    @abc.abstractmethod
    def sized(self, samples: int, slots: int, *, feedback: bool = False) -> "AbstractFieldAxis":
        """This axis with its length, where it is 0, set from the number of particles or of basis slots; with
        `feedback` it has room for the Gaussians of frozen feedback matrices."""

    @abc.abstractmethod
    def draw(
        self,
        key: Key[Array, ""],
        step: Int[Array, ""] | int,
        blocks: list[tuple[str, int, int]],
        first: Int[Array, ""] | int = 0,
    ) -> list:
        """Randomness for blocks of Gaussians, each given by role, layer and number of rows, counted from `first`.

        Random numbers are keyed by what they belong to (step, role, layer, row), never by where they are stored:
        more steps, more test points or another device change none of them.
        """

    @abc.abstractmethod
    def gaussians(self, drawn, role: str, slots: Int[Array, " rows"]) -> Float[Array, "rows axis"]:
        """Independent unit Gaussians from one drawn block, to be kept in these basis slots."""

    def spread(self, field: Float[Array, "rows axis"]) -> Float[Array, "rows axis"]:
        """A field as it lies on the devices: whole on each, unless this axis is one that is spread over them."""
        return field

    @abc.abstractmethod
    def inner(self, rows: Float[Array, "a axis"], others: Float[Array, "b axis"] | Past) -> Float[Array, "a b"]:
        r"""The averages $\langle x_a y_b \rangle$ over the single-site process."""

    @abc.abstractmethod
    def square(self, rows: Float[Array, "a axis"]) -> Float[Array, " a"]:
        r"""The averages $\langle x_a^2 \rangle$."""

    @abc.abstractmethod
    def density(self, rows: Float[Array, "a axis"], edges: Float[Array, " edges"]) -> Float[Array, " bins"]:
        """The density of the single-site fields, averaged over rows, on bins of equal width."""


class SampleAxis(AbstractFieldAxis):
    r"""Monte-Carlo particles in antithetic pairs, the mean over particles as inner product.

    The partner of $(\epsilon^u, \epsilon^r, w)$ is $(\epsilon^u, -\epsilon^r, -w)$ and sits beside it, so predictions
    vanish at initialisation and are even in the richness, pair by pair. Averages fluctuate by O($S^{-1/2}$) and are
    biased by O($1/S$), $S$ being `size`. Normals are drawn in single precision: both precisions see the same particles.
    """

    size: int = eqx.field(static=True, default=0)

    def sized(self, samples, slots, *, feedback=False):
        return self if self.size else SampleAxis(samples)

    def draw(self, key, step, blocks, first=0):
        roles, rows = list(ROLES), [count for _, _, count in blocks]
        # One call for all blocks: every call of the generator costs a second of compilation.
        owner = np.concatenate([np.full(n, roles.index(role) + 16 * layer) for role, layer, n in blocks])
        label = (owner.astype(np.uint32) << 20) + np.concatenate([np.arange(n) for n in rows]).astype(np.uint32)
        label = jnp.asarray(label) + jnp.asarray(first, jnp.uint32)
        sign = np.concatenate([np.full((n, 1), -1.0 if ROLES[role] else 1.0) for role, _, n in blocks])
        step_key = jax.random.fold_in(key, step)
        row = lambda label: jax.random.normal(jax.random.fold_in(step_key, label), (self.size // 2,), jnp.float32)  # noqa: E731
        half = self.spread(jax.vmap(row)(label)).astype(float)
        both = self.spread(jnp.stack([half, sign * half], axis=-1).reshape(len(label), self.size))
        return jnp.split(both, np.cumsum(rows)[:-1])

    def gaussians(self, drawn, role, slots):
        return drawn

    def spread(self, field):
        return shard(field, "samples", 1)

    def inner(self, rows, others):
        # This operand order is the one that runs at memory speed on a CPU; the barrier keeps XLA from undoing it.
        product = onto(others, rows.T)
        return jax.lax.optimization_barrier(product).T / self.size

    def square(self, rows):
        return jnp.mean(rows * rows, axis=1)

    def density(self, rows, edges):
        bins, width = len(edges) - 1, edges[1] - edges[0]
        place = jnp.floor((jax.lax.stop_gradient(rows).ravel() - edges[0]) / width)
        inside = (place >= 0) & (place < bins)
        count = (
            jnp.zeros(bins, rows.dtype).at[jnp.where(inside, place, 0).astype(jnp.int32)].add(inside.astype(rows.dtype))
        )
        return count / (rows.size * width)


class CoefficientAxis(AbstractFieldAxis):
    """Exact coefficients of the fields of a linear network in its Gaussian variables, the dot product as average.

    A fresh Gaussian is a new unit vector, one for each basis slot. A test point's own direction never meets
    anything else in a linear network and is left out. Only for the identity activation.
    """

    size: int = eqx.field(static=True, default=0)
    groups: int = eqx.field(static=True, default=2)  # Gaussians from below, from above, and from frozen feedback

    def sized(self, samples, slots, *, feedback=False):
        groups = 3 if feedback else 2
        return self if self.size else CoefficientAxis(groups * slots + 1, groups)

    def draw(self, key, step, blocks, first=0):
        return [rows for _, _, rows in blocks]

    def gaussians(self, drawn, role, slots):
        group = {"input": 0, "forward": 0, "backward": 1, "readout": 1, "feedback": 2, "feedback_readout": 2}
        group |= {"output": 1, "output_feedback": 2}
        start = {role: g * (self.size // self.groups) for role, g in group.items()} | {"bias": self.size - 1}
        if role not in start:
            return jnp.zeros((drawn, self.size))
        return jax.nn.one_hot(start[role] + slots, self.size, dtype=float)

    def inner(self, rows, others):
        return onto(others, rows.T).T

    def square(self, rows):
        return jnp.sum(rows * rows, axis=1)

    def density(self, rows, edges):
        scale = jnp.sqrt(2 * self.square(jax.lax.stop_gradient(rows)))[:, None]
        share = jax.scipy.special.erf(edges / jnp.where(scale > 0, scale, 1.0)) / 2
        return jnp.mean(jnp.diff(share, axis=1), axis=0) / (edges[1] - edges[0])
