"""What every finite network is: `weights` that train, and a frozen `design`, the limit that it realises."""

import abc
from typing import Any

import equinox as eqx
import jax
import numpy as np

from ..problems import _checks as checks


class Frozen:
    """A pytree held as one static value, compared and hashed by its numbers.

    A network's design lives in one, so that no loop over a network's arrays, with weight decay or without, can train
    the richness by accident.
    """

    def __init__(self, value: Any):
        leaves, treedef = jax.tree.flatten(value)
        if checks.is_traced(leaves):
            raise TypeError(
                "a finite network's design must hold concrete numbers; build the network outside of the transformation."
            )
        self.value = value
        self._content = (treedef, tuple(_content(leaf) for leaf in leaves))

    def __eq__(self, other):
        return isinstance(other, Frozen) and self._content == other._content

    def __hash__(self):
        return hash(self._content)

    def __repr__(self):
        return f"Frozen({self.value!r})"


class AbstractNet(eqx.Module):
    """A finite network: `net(x)` maps one input `[dim]` to one number; `jax.vmap(net)(x)` maps many.

    **Fields:** `weights`, all that trains; `design`, the limit (frozen); `learning_rate_scale`, the factor between a
    protocol's learning rate and the raw step on the weights.
    """

    weights: eqx.AbstractVar[Any]
    frozen: eqx.AbstractVar[Frozen]

    @property
    def design(self):
        """The limit that this network realises."""
        return self.frozen.value

    @abc.abstractmethod
    def learn(
        self, weights: Any, task: Any, protocol: Any, *, key: Any, steps: int | None, **record: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Trains many networks of this design side by side; `nets.train` is the way to call it.

        **Arguments:**

        - `weights`: like `self.weights`, with leading axes `[seeds, signs]`; there are two signs in pairs, else one.
        - `key`: random key of what the protocol samples, and of what every seed draws from the task.
        - `steps`: for protocols that do not know their own number of steps, else `None`.
        - `record`: what else to record; each family says what it can.

        **Returns:** the final weights, and the fields of a `Trajectory` with leading axis `[seeds]`.
        """


class Ensemble(eqx.Module):
    """Independent networks of one design, stacked.

    **Fields:** `members`, a network whose weights have a leading axis `[seeds]`, or `[seeds, 2]` when `paired`: then
    each seed is a pair of networks that differ in the sign of the readout only, so that the pair's mean output is zero
    at initialisation, and a seed's prediction is the mean of its pair.
    """

    members: Any
    paired: bool = eqx.field(static=True)

    @property
    def design(self):
        """The limit that these networks realise."""
        return self.members.design

    @property
    def seeds(self) -> int:
        """Number of independent networks (or pairs)."""
        return jax.tree.leaves(self.members.weights)[0].shape[0]

    def member(self, seed: int, sign: int = 0):
        """One network of the ensemble; `sign` picks the network of a pair, 0 or 1."""
        checks.integer("seed", seed, low=0, high=self.seeds - 1)
        checks.integer("sign", sign, low=0, high=int(self.paired))
        index = (seed, sign) if self.paired else (seed,)
        return jax.tree.map(lambda a: a[index], self.members)


def trainable(net: AbstractNet | Ensemble):
    """A filter specification for equinox and optax: `True` on the weights, `False` elsewhere.

    `eqx.partition(net, trainable(net))` splits a network into what trains and what does not.
    """
    spec = jax.tree.map(lambda _: False, net)
    where = (lambda n: n.members.weights) if isinstance(net, Ensemble) else (lambda n: n.weights)
    return eqx.tree_at(where, spec, jax.tree.map(lambda _: True, where(net)))


def _content(leaf):
    array = np.asarray(leaf)
    return array.shape, array.dtype.str, array.tobytes()
