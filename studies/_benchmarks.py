"""Benchmarks of a schedule: usual shapes, each with its best peak rate."""

from typing import Any

import equinox as eqx
import jax
import numpy as np

from ..problems import replace, schedules
from ..solvers import as_float, double, to_host
from ._zeros import fold_zeros, unfold_zeros

_PEAKS = 48
_REFINEMENTS = 3
_REACH = 3.0  # decades to both sides of the optimum's mean rate


def usual_shapes(steps: int) -> dict[str, Any]:
    """Constant, linear, half cosine, and warm-up with plateau and decay, all with peak 1."""
    return {
        "constant": schedules.constant(1.0, steps),
        "linear": schedules.linear(1.0, steps),
        "cosine": schedules.cosine(1.0, steps),
        "warmup_stable_decay": schedules.warmup_stable_decay(1.0, steps),
    }


def tuned_shapes(problem, best: dict[str, Any], shapes: bool | dict[str, Any]) -> dict[str, tuple[Any, float]]:
    """For each shape the protocol with its best peak rate, everything else as in `best`, and the objective there.

    Peaks are tried on a log grid of 48, which is refined three times between the neighbours of the best one; a peak
    at the end of the grid raises, as it would make a benchmark look worse than it is.
    """
    rates = np.asarray(best["protocol"].learning_rate)
    named = shapes if isinstance(shapes, dict) else usual_shapes(rates.size)
    middle = np.log10(np.mean(rates))
    folded = best | {"protocol": fold_zeros(best["protocol"])}
    found = {}
    for name, shape in named.items():
        shape = np.broadcast_to(np.asarray(shape, np.float64), rates.shape) / np.max(shape)
        low, high = middle - _REACH, middle + _REACH
        for _ in range(_REFINEMENTS + 1):
            peaks = np.logspace(low, high, _PEAKS)
            with double():
                losses = _losses(as_float(peaks), as_float(shape), problem, folded)
            losses = np.asarray(to_host(losses))
            losses = np.where(np.isfinite(losses), losses, np.inf)
            place = int(np.argmin(losses))
            if place in (0, _PEAKS - 1):
                raise ValueError(
                    f"the best peak of the benchmark {name} is outside of [{peaks[0]:.2g}, {peaks[-1]:.2g}]."
                )
            low, high = np.log10(peaks[place - 1]), np.log10(peaks[place + 1])
        tuned = replace(best["protocol"], "learning_rate", peaks[place] * shape)
        found[name] = tuned, float(losses[place])
    return found


@eqx.filter_jit
def _losses(peaks, shape, problem, best):
    best = unfold_zeros(best)

    def loss(peak):
        protocol = replace(best["protocol"], "learning_rate", peak * shape)
        trajectory = best["limit"].solve(best["task"], protocol, key=problem.key, throw=False, **problem.options)
        return problem.objective(trajectory)

    return jax.lax.map(loss, peaks)
