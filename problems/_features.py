"""Data sets seen through features, and the Gaussian problem with the same first two moments."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from . import _checks as checks
from ._datasets import Dataset
from ._distributions import Gaussian
from ._keys import default_key, normal_double

_RANK = 1e-10  # of the largest eigenvalue; directions below are rounding


def random_features(task, count: int, *, activation: Callable | None = None, key=None) -> Dataset:
    r"""The data set with inputs $\phi(Wx/\sqrt{\mathtt{dim}})/\sqrt{\mathtt{count}}$, $W_{ij} \sim N(0, 1)$.

    **Arguments:**

    - `task`: a fixed data set.
    - `count`: number of random features.
    - `activation`: $\phi$, a function of arrays; by default $\max(h, 0)$.
    - `key`: random key of $W$; `None` is `jax.random.key(0)`.

    Features are computed in float64; they depend on `key` alone.
    """
    checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays)")
    count = checks.integer("count", count)
    activation = jax.nn.relu if activation is None else activation
    if not callable(activation):
        raise TypeError(f"activation must be a function of arrays; {checks.shown(activation)} was given.")
    key = default_key(key)
    with jax.enable_x64(True):
        W = normal_double(key, (count, task.dim)) / np.sqrt(task.dim)

        def features(x):
            found = activation(jnp.asarray(x, float) @ W.T) / np.sqrt(count)
            return found if checks.is_traced(found) else np.asarray(found)

        x, x_test = features(task.x), None if task.x_test is None else features(task.x_test)
    return Dataset(x, task.y, x_test, task.y_test)


def gaussian_equivalent(task) -> Gaussian:
    r"""Gaussian features with the covariance $X^TX/P$ of a data set, its least-squares teacher, and what that leaves
    of the targets as label noise.

    Full-batch learning knows only these moments. For batches it is an approximation: good for features that are sums
    of many independent parts, wrong by ten per cent and more for a dozen ReLU features.

    **Arguments:**

    - `task`: a fixed data set with one output, concrete.

    ??? cite "Source"
        Learning Curves for SGD on Structured Features, arXiv 2106.02713.
    """
    checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays)")
    if checks.is_traced(task):
        raise TypeError("gaussian_equivalent needs concrete data: the number of modes is found from them.")
    if task.y.ndim != 1:
        raise ValueError(f"y must have shape [samples]; its shape is {task.y.shape}.")
    x, y = np.asarray(task.x, float), np.asarray(task.y, float)
    left, singular, _ = np.linalg.svd(x / np.sqrt(len(y)), full_matrices=False)
    kept = singular**2 > _RANK * singular[0] ** 2
    target = (left.T @ y / np.sqrt(len(y)))[kept]
    noise = np.sqrt(max(np.mean(y**2) - np.sum(target**2), 0.0))
    return Gaussian(singular[kept] ** 2, target / singular[kept], noise)
