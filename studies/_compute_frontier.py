"""The least loss that a compute budget allows, and the size of the model that reaches it."""

from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np

from ..limits import RandomFeatures
from ..nets._random_features import check_problem
from ..problems import _checks as checks
from ..solvers import as_float, double


class Frontier(NamedTuple):
    r"""The compute-optimal frontier: budgets $C = N t$ of features times steps.

    **Fields:**

    - `compute`, `loss`, `features`, `steps`: the budgets, the least loss of each, and the $N$ and $t$ that reach it,
      all `[budgets]`; only budgets whose best size lies inside of the sizes that were tried.
    - `sizes`, `times`, `curves`: the sizes that were tried `[sizes]` and their learning curves `[sizes, times]`.
    """

    compute: np.ndarray
    loss: np.ndarray
    features: np.ndarray
    steps: np.ndarray
    sizes: np.ndarray
    times: np.ndarray
    curves: np.ndarray

    @property
    def loss_exponent(self) -> float:
        r"""$x$ in $L \sim C^{-x}$ over the largest quarter of the budgets."""
        return -self._slope(self.loss)

    @property
    def features_exponent(self) -> float:
        r"""$y$ in $N \sim C^y$ over the largest quarter of the budgets."""
        return self._slope(self.features)

    def _slope(self, values) -> float:
        # the next power law is still felt long before the largest budgets
        late = slice(len(self.compute) * 3 // 4, None)
        return float(np.polyfit(np.log(self.compute[late]), np.log(values[late]), 1)[0])


def compute_frontier(limit: RandomFeatures, task, protocol, *, sizes) -> Frontier:
    r"""Solves for many sizes and takes, at every budget, the best; see `frontier_of`.

    **Arguments:**

    - `limit`: a `RandomFeatures` of one member; its own number of features says nothing here.
    - `task`, `protocol`: what it learns; a constant learning rate, so that every time is an end.
    - `sizes`: numbers of features to try, increasing, at least four.

    **Raises:** `ValueError` if no budget has its best size inside of `sizes`.

    ??? cite "Source"
        A Dynamical Model of Neural Scaling Laws, arXiv 2402.01092.
    """
    checks.instance("limit", limit, RandomFeatures, "a limits.RandomFeatures")
    if limit.members > 1:
        raise ValueError(f"members must be 1 for a frontier over features times steps; it is {limit.members}.")
    check_problem(task, protocol)
    rates = checks.concrete(protocol.learning_rate)
    if rates is None or np.any(rates != rates[0]):
        raise ValueError("learning_rate must be the same known number at every step, so that every time is an end.")
    sizes = _check_sizes(sizes)
    with double():
        curves = np.asarray(_curves(*as_float((sizes, task, protocol))))[:, 1:]
    return frontier_of(sizes, np.arange(1, curves.shape[1] + 1), curves)


def frontier_of(sizes, times, curves) -> Frontier:
    r"""The frontier of given learning curves.

    At each budget the loss is a smooth function of $\log N$, whose minimum is that of the parabola through the best
    three sizes; a learning curve is read between its times, on logarithmic axes.

    **Arguments:**

    - `sizes`: numbers of features, `[sizes]`, increasing, at least four.
    - `times`: increasing and positive, `[times]`. What was learned before a tenth of the way, on a logarithmic axis,
      from the first to the last is not read: no power law holds there yet.
    - `curves`: losses `[sizes, times]`.

    **Raises:** `ValueError` if no budget has its best size inside of `sizes`.
    """
    sizes = _check_sizes(sizes)
    times, curves = np.asarray(times, float), np.asarray(curves, float)
    log_sizes, log_times = np.log(sizes), np.log(times)
    first = np.exp(log_times[0] + 0.1 * (log_times[-1] - log_times[0]))
    found = []
    for budget in np.geomspace(sizes[0] * first, sizes[-1] * times[-1], 120):
        fits = (budget / sizes >= times[0]) & (budget / sizes <= times[-1])
        if np.sum(fits) < 3:
            continue
        loss = np.array(
            [
                np.interp(np.log(budget / size), log_times, np.log(curve))
                for size, curve in zip(sizes[fits], curves[fits], strict=True)
            ]
        )
        best = int(np.argmin(loss))
        if 0 < best < len(loss) - 1:
            near = slice(best - 1, best + 2)
            a, b, c = np.polyfit(log_sizes[fits][near], loss[near], 2)
            found.append((budget, np.exp(c - b**2 / (4 * a)), np.exp(-b / (2 * a))))
    found = [row for row in found if row[0] / row[2] >= first]
    if len(found) < 4:
        raise ValueError(
            "sizes must reach further, or the protocol longer: no budget has its best size inside of them."
        )
    compute, loss, features = np.array(found).T
    return Frontier(compute, loss, features, compute / features, sizes, times, curves)


def _check_sizes(sizes) -> np.ndarray:
    sizes = np.asarray(checks.array("sizes", sizes, ndim=1, above=0.0))
    if len(sizes) < 4 or np.any(np.diff(sizes) <= 0):
        raise ValueError(f"sizes must be four or more increasing numbers; {sizes} was given.")
    return sizes


@eqx.filter_jit
def _curves(sizes, task, protocol):
    def curve(features):
        return RandomFeatures(features).solve(task, protocol, method="contour", throw=False).test_loss

    return jax.lax.map(curve, sizes)
