"""What linear networks trained by gradient flow share: their problem, its losses, and the form of their record."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..problems import Dataset, GradientFlow
from ..problems import _checks as checks
from ..solvers import as_float, gather


def check_problem(task, protocol, family: str) -> None:
    """**Raises:** `TypeError` and `ValueError` for what a linear network cannot learn by gradient flow."""
    checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays)")
    checks.instance("protocol", protocol, GradientFlow, f"GradientFlow for {family}")
    if task.y.ndim != 1:
        raise ValueError(f"y must have shape [samples] for a network with one output; its shape is {task.y.shape}.")


def check_inputs(task, weights) -> None:
    """**Raises:** `ValueError` if the last axis of `weights` is not the task's input dimension."""
    if weights.shape[-1] != task.dim:
        raise ValueError(f"task must have the network's {weights.shape[-1]} input dimensions; it has {task.dim}.")


def learned(weights, final, record: dict[str, Any], size: int):
    """What `AbstractNet.learn` returns, in the type of `weights`, of a flow `[seeds, ...]` computed in float64."""
    dtype = jax.tree.leaves(weights)[0].dtype
    final, record = jax.tree.map(lambda a: jnp.asarray(np.asarray(gather(a)), dtype), (final, record))
    fields = {"loss_convention": "half_mean_square", "attributes": (("size", size),)}
    return jax.tree.map(lambda w: w[:, None], final), record | fields


def losses(task, coefficients) -> dict[str, Any]:
    """Half mean squares of linear functions `[..., dim]`, on the training side and on the test side if there is one."""
    found = {"train_loss": _half_mean_square(task.x, task.y, coefficients)}
    if task.has_test and task.y_test is not None:
        found["test_loss"] = _half_mean_square(task.x_test, task.y_test, coefficients)
    return found


def normal_equations(task: Any):
    """$X^TX/P$ and $X^Ty/P$."""
    x, y = as_float((task.x, task.y))
    return (
        jnp.matmul(x.T, x, precision="highest") / x.shape[0],
        jnp.matmul(x.T, y, precision="highest") / x.shape[0],
    )


def _half_mean_square(x, y, coefficients):
    x, y = as_float((x, y))
    return jnp.mean((jnp.matmul(coefficients, x.T, precision="highest") - y) ** 2, axis=-1) / 2
