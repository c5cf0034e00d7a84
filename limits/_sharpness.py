"""Sharpness along training: the top eigenvalue of the Gauss-Newton matrix, and how far the edge of stability is."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from ..problems import Isotropic
from ..problems import _checks as checks
from ..solvers import as_float, deep_linear, double, in_precision, to_host, top_curvature
from ._deep_linear import DeepLinear, check_problem, sweep_inputs


class Sharpness(eqx.Module):
    r"""The largest eigenvalue of the Gauss-Newton matrix (equally, of the tangent kernel) along training.

    **Fields:**

    - `eigenvalue`: `[time]`, in units in which a constant learning rate is linearly stable below
      $2(1+\beta)/\lambda_{\max}$.
    - `bulk_edge`: `[time]`, upper edge of the other eigenvalues; the same where no outlier `exists`.
    - `exists`: `[time]`, whether the largest eigenvalue is an outlier.
    - `stability`: `[steps]`, $\eta_t\lambda_{\max}(t) / 2(1+\beta_t)$: 1 at the edge of stability.
    """

    eigenvalue: Any
    bulk_edge: Any
    exists: Any
    stability: Any


def sharpness(limit: DeepLinear, task, protocol) -> Sharpness:
    r"""The sharpness along a solution of the proportional limit, at any depth; see `solvers.top_curvature`.

    With reused samples it is that of the training loss, with fresh ones that of the population's. Computed in float64,
    differentiable.

    **Arguments:**

    - `limit`: a `DeepLinear` without residual branches and with finite `width_ratio` and positive `init_scale`.
    - `task`: `isotropic`. `protocol`: `GradientDescent` without weight decay, or `OnlineSGD`.

    **Raises:** `TypeError` or `ValueError` for a limit, task or protocol for which it is not solved.

    ??? cite "Source"
        *Spectral Dynamics in Deep Networks: Feature Learning, Outlier Escape, and Learning Rate Transfer*, arXiv
        2605.07870.
    """
    checks.instance("limit", limit, DeepLinear, "a limits.DeepLinear; the sharpness of others is not solved")
    if limit.residual:
        raise ValueError("residual must be False: the sharpness of residual networks is not solved.")
    fresh = check_problem(task, protocol)
    checks.instance("task", task, Isotropic, "isotropic; the sharpness on structured data is not solved")
    checks.number("width_ratio", limit.width_ratio)
    checks.number("init_scale", limit.init_scale, above=0.0)
    decay = checks.concrete(getattr(protocol, "weight_decay", 0.0))
    if decay is None or decay.any():
        raise ValueError("weight_decay must be 0: the sharpness with weight decay is not solved.")

    with double():
        run = in_precision(lambda problem, _: _sharpness(problem, fresh), "double")
        found = run(as_float((limit, task, protocol)), ())
    return to_host(found)


@eqx.filter_jit
def _sharpness(problem, fresh: bool) -> Sharpness:
    limit, _, protocol = problem
    inputs = sweep_inputs(*problem)
    history = deep_linear(inputs, depth=limit.depth, fresh=fresh)
    found = top_curvature(inputs, history, inverse_width=1 / limit.width_ratio)
    stability = protocol.learning_rate * found.eigenvalue[:-1] / (2 * (1 + protocol.momentum))
    return Sharpness(found.eigenvalue, found.edge, jnp.asarray(found.exists), stability)
