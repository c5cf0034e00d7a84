"""Zeros that the compiler knows of: theories drop the terms that they multiply."""

from typing import Any

import equinox as eqx
import jax
import numpy as np

from ..problems import _checks as checks


class Zeros(eqx.Module):
    """Stands for an array of zeros that nothing will change."""

    shape: tuple[int, ...] = eqx.field(static=True)


def fold_zeros(protocol: Any) -> Any:
    """A protocol in which schedules that are zero throughout have become part of the structure."""

    def fold(leaf):
        known = checks.concrete(leaf)
        return leaf if known is None or np.any(known) else Zeros(known.shape)

    return jax.tree.map(fold, protocol)


def unfold_zeros(tree: Any) -> Any:
    """The same with concrete arrays of zeros again, also inside of a transformation."""
    return jax.tree.map(
        lambda leaf: np.zeros(leaf.shape) if isinstance(leaf, Zeros) else leaf,
        tree,
        is_leaf=lambda leaf: isinstance(leaf, Zeros),
    )
