"""What the compiler is to know: zeros, whose terms theories drop, and sizes of batches, whose samples are drawn."""

from typing import Any

import equinox as eqx
import jax
import numpy as np

from ..problems import MinibatchSGD
from ..problems import _checks as checks


class Zeros(eqx.Module):
    """Stands for an array of zeros that nothing will change."""

    shape: tuple[int, ...] = eqx.field(static=True)


class Sizes(eqx.Module):
    """Stands for batch sizes that nothing will change."""

    values: tuple[float, ...] = eqx.field(static=True)


def fold_known(protocol: Any) -> Any:
    """A protocol in which schedules that are zero throughout, and sizes of minibatches, are part of the structure."""

    def fold(leaf):
        known = checks.concrete(leaf)
        return leaf if known is None or np.any(known) else Zeros(known.shape)

    sizes = checks.concrete(protocol.batch_size) if isinstance(protocol, MinibatchSGD) else None
    folded = jax.tree.map(fold, protocol)
    if sizes is None:
        return folded
    return eqx.tree_at(lambda p: p.batch_size, folded, Sizes(tuple(sizes.tolist())))


def unfold_known(tree: Any) -> Any:
    """The same with concrete arrays again, also inside of a transformation."""

    def unfold(leaf):
        if isinstance(leaf, Sizes):
            return np.asarray(leaf.values)
        return np.zeros(leaf.shape) if isinstance(leaf, Zeros) else leaf

    return jax.tree.map(unfold, tree, is_leaf=lambda leaf: isinstance(leaf, (Zeros, Sizes)))
