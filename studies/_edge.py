"""Learning rates that follow the edge of stability: every step at a share of what the curvature allows."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..problems import Trajectory, default_key, replace
from ..problems import _checks as checks


@dataclass(frozen=True)
class EdgeSchedule:
    """A schedule at a share of the edge of stability.

    - `protocol`: with the rates found; `trajectory`: what the theory says of it.
    - `stability` `[steps]`: the rate over that at the edge, the share asked for wherever `upper` does not bind.
    - `residual`: the largest relative change of a rate in the last of `sweeps`.
    - `status`: `"converged"`, `"not converged"`, or `"diverged"`.
    """

    protocol: Any
    trajectory: Trajectory
    stability: np.ndarray
    residual: float
    sweeps: int
    status: str


def follow_edge(
    limit, task, protocol, *, share=0.5, upper=None, tolerance=1e-6, max_sweeps=None, key=None, **options
) -> EdgeSchedule:
    r"""The schedule $\eta_t = c\,\frac{2(1+\beta_t)}{\lambda_{\max}(t)}$, bounded by `upper`: every rate at a
    `share` c of what the curvature that it meets allows.

    $\lambda_{\max}(t)$ depends on earlier rates only. The schedule is therefore found by repeating the whole solution;
    it is exact after as many sweeps as there are steps, and settles in fewer.

    **Arguments:**

    - `limit`, `task`, `protocol`: a problem whose limit has `stability`, at full batch or with the population; the
      search begins at the protocol's rates, which must be positive.
    - `share`: $c$ in (0, 1), a number or one for every step `[steps]`.
    - `upper`: the highest rate, a number or `[steps]`: a warm-up, if it grows.
    - `tolerance`, `max_sweeps`: when to stop: at a residual, or by default after as many sweeps as steps, and one.
    - `key` and `options`: for `limit.solve`.

    **Raises:** `TypeError` for limits that do not follow the sharpness; `ValueError` for rates of zero.

    ??? cite "Source"
        *Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability*, arXiv 2103.00065; sharpness of
        the limit: *Spectral Dynamics in Deep Networks*, arXiv 2605.07870.
    """
    steps, key = protocol.steps, default_key(key)
    share = _by_step("share", share, steps, above=0.0, below=1.0)
    upper = np.full(steps, np.inf) if upper is None else _by_step("upper", upper, steps, above=0.0)
    tolerance = float(checks.number("tolerance", tolerance, above=0.0))
    max_sweeps = steps + 1 if max_sweeps is None else checks.integer("max_sweeps", max_sweeps)
    rates = np.asarray(protocol.learning_rate, np.float64)
    if not np.all(rates > 0):
        raise ValueError(f"learning_rate must be above 0 at every step; step {int(np.argmin(rates > 0))} is 0.")
    sweeps, residual = 0, np.inf
    while residual > tolerance and sweeps < max_sweeps:
        sweeps += 1
        protocol = replace(protocol, "learning_rate", rates)
        trajectory = limit.solve(task, protocol, key=key, throw=False, **options)
        stability = np.asarray(limit.stability(task, protocol, trajectory), np.float64)
        allowed = _filled(share * rates / stability)
        wanted = np.minimum(allowed, upper)
        residual = float(np.max(np.abs(wanted / rates - 1)))
        rates = wanted
    status = "converged" if residual <= tolerance else "not converged"
    status = "diverged" if trajectory.status == "diverged" else status
    return EdgeSchedule(protocol, trajectory, stability, residual, sweeps, status)


def _filled(rates: np.ndarray) -> np.ndarray:
    """Steps past a divergence of the current schedule take the last rate before it; later sweeps correct them."""
    sound = np.isfinite(rates) & (rates > 0)
    last = np.maximum.accumulate(np.where(sound, np.arange(len(rates)), 0))
    return rates[last]


def _by_step(name: str, value, steps: int, **allowed) -> np.ndarray:
    value = np.asarray(checks.array(name, value, ndim=(0, 1), **allowed), np.float64)
    if value.ndim and len(value) != steps:
        raise ValueError(f"{name} must be a number or have {steps} entries, one for every step; it has {len(value)}.")
    return np.broadcast_to(value, (steps,))
