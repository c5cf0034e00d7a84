"""The least loss that a compute budget allows, and the size of the model that reaches it."""

from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np

from ..limits import RandomFeatures
from ..problems import _checks as checks
from ..solvers import as_float, double


class Frontier(NamedTuple):
    r"""The compute-optimal frontier: budgets $C = N t$ of features times steps.

    **Fields:**

    - `compute`, `loss`, `features`, `steps`: the budgets, the least loss of each, and the $N$ and $t$ that reach it,
      all `[budgets]`; only budgets whose best size lies inside of the sizes that were tried.
    - `sizes`, `curves`: the sizes that were tried `[sizes]` and their learning curves `[sizes, steps + 1]`.
    """

    compute: np.ndarray
    loss: np.ndarray
    features: np.ndarray
    steps: np.ndarray
    sizes: np.ndarray
    curves: np.ndarray

    @property
    def loss_exponent(self) -> float:
        r"""$x$ in $L \sim C^{-x}$ over the larger half of the budgets."""
        return -self._slope(self.loss)

    @property
    def features_exponent(self) -> float:
        r"""$y$ in $N \sim C^y$ over the larger half of the budgets."""
        return self._slope(self.features)

    def _slope(self, values) -> float:
        half = len(self.compute) // 2
        return float(np.polyfit(np.log(self.compute[half:]), np.log(values[half:]), 1)[0])


def compute_frontier(limit: RandomFeatures, task, protocol, *, sizes) -> Frontier:
    r"""Solves for many sizes and takes, at every budget, the best.

    At each budget the loss is a smooth function of $\log N$, whose minimum is that of the parabola through the best
    three sizes; a learning curve is read between its steps.

    **Arguments:**

    - `limit`: a `RandomFeatures`; its own number of features says nothing here.
    - `task`, `protocol`: what it learns; a constant learning rate, so that every time is an end.
    - `sizes`: numbers of features to try, increasing, at least four.

    **Raises:** `ValueError` if no budget has its best size inside of `sizes`.

    ??? cite "Source"
        A Dynamical Model of Neural Scaling Laws, arXiv 2402.01092.
    """
    checks.instance("limit", limit, RandomFeatures, "a limits.RandomFeatures")
    sizes = np.asarray(checks.array("sizes", sizes, ndim=1, above=0.0))
    if len(sizes) < 4 or np.any(np.diff(sizes) <= 0):
        raise ValueError(f"sizes must be four or more increasing numbers; {sizes} was given.")
    with double():
        curves = np.asarray(_curves(*as_float((sizes, task, protocol))))
    steps = curves.shape[1] - 1
    log_sizes, log_times = np.log(sizes), np.log(np.arange(1, steps + 1))
    found = []
    # the smallest size that is tried ends at this budget, the largest one begins at the other
    for budget in np.geomspace(sizes[-1], sizes[0] * steps, 60):
        fits = (budget / sizes >= 1) & (budget / sizes <= steps)
        loss = np.array(
            [
                np.interp(np.log(budget / size), log_times, np.log(curve[1:]))
                for size, curve in zip(sizes[fits], curves[fits], strict=True)
            ]
        )
        best = int(np.argmin(loss))
        if 0 < best < len(loss) - 1:
            near = slice(best - 1, best + 2)
            a, b, c = np.polyfit(log_sizes[fits][near], loss[near], 2)
            found.append((budget, np.exp(c - b**2 / (4 * a)), np.exp(-b / (2 * a))))
    if len(found) < 4:
        raise ValueError(
            "sizes must reach further, or the protocol longer: no budget has its best size inside of them."
        )
    compute, loss, features = np.array(found).T
    return Frontier(compute, loss, features, compute / features, sizes, curves)


@eqx.filter_jit
def _curves(sizes, task, protocol):
    def curve(features):
        return RandomFeatures(features).solve(task, protocol, method="contour", throw=False).test_loss

    return jax.lax.map(curve, sizes)
