"""Infinitely deep residual networks, extrapolated from a few depths."""

import dataclasses
import itertools

import numpy as np

from ..limits import DeepLinear
from ..problems import Trajectory
from ..problems import _checks as checks


def depth_limit(limit: DeepLinear, task, protocol, *, depths: tuple[int, ...] = (5, 9, 17)) -> Trajectory:
    r"""The solution for infinitely many residual branches of size $1/\sqrt{L - 1}$, by Richardson extrapolation.

    Solutions approach it like the inverse of the number of branches $b = L - 1$, so that two depths eliminate the
    first order: $(b_2 q_2 - b_1 q_1)/(b_2 - b_1)$.

    **Arguments:**

    - `limit`: a residual `DeepLinear`; its own depth says nothing here.
    - `task`, `protocol`: what it learns.
    - `depths`: at least three, increasing.

    **Returns:** a record with `test_loss` and `train_loss`; in `extras`, `test_loss_error` and `train_loss_error`, how
    much the last depth changed the extrapolation. Concrete values only: the depth fixes the shape of the computation.

    **Raises:** `ValueError` for a limit without residual branches or for fewer than three depths.

    ??? cite "Source"
        *Deep Linear Network Training Dynamics from Random Initialization: Data, Width, Depth, and Hyperparameter
        Transfer*, arXiv 2502.02531.
    """
    checks.instance("limit", limit, DeepLinear, "a residual limits.DeepLinear")
    if not limit.residual:
        raise ValueError("residual must be True: without branches of size 1/sqrt(depth) there is no limit of depth.")
    checks.instance("depths", depths, (tuple, list), "a list of whole numbers")
    depths = tuple(checks.integer("depths", depth, low=2) for depth in depths)
    if len(depths) < 3 or any(b <= a for a, b in itertools.pairwise(depths)):
        raise ValueError(f"depths must be three or more increasing whole numbers; {depths} was given.")
    solved = [_at(limit, depth).solve(task, protocol) for depth in depths]
    branches = np.asarray(depths, float) - 1
    fields = {}
    for name in ("test_loss", "train_loss"):
        curves = [np.asarray(getattr(theory, name)) for theory in solved]
        pairs = itertools.pairwise(zip(branches, curves, strict=True))
        limits = [(b2 * q2 - b1 * q1) / (b2 - b1) for (b1, q1), (b2, q2) in pairs]
        fields[name], fields[f"{name}_error"] = limits[-1], np.abs(limits[-1] - limits[-2])
    errors = {name: fields.pop(name) for name in ("test_loss_error", "train_loss_error")}
    last = solved[-1]
    attributes = (*last.attributes, ("depths", str(depths)))
    return dataclasses.replace(last, **fields, extras=errors, attributes=attributes)


def _at(limit: DeepLinear, depth: int) -> DeepLinear:
    scales = limit.width_ratio, limit.richness, limit.init_scale, limit.readout_scale
    return DeepLinear(depth, *scales, limit.parameterization, residual=True)
