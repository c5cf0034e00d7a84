"""Benchmarks of a schedule: usual shapes, each with its best peak rate."""

from typing import Any

import equinox as eqx
import jax
import numpy as np

from ..problems import AbstractProtocol, replace, schedules
from ..solvers import as_float, double, to_host
from ._known import unfold_known
from ._search import Problem, value_of

_PEAKS = 48
_REFINEMENTS = 3
_REACH = 3.0  # decades to both sides of the optimum's mean rate


#: The usual shapes, functions of peak and steps.
SHAPES = {
    "constant": schedules.constant,
    "linear": schedules.linear,
    "cosine": schedules.cosine,
    "warmup_stable_decay": schedules.warmup_stable_decay,
}


def tuned(problem: Problem, best: dict[str, Any], shapes: bool | dict[str, Any]) -> dict[str, tuple[Any, float]]:
    """For each shape the protocol with its best peak rate, with limit and task as in `best`, and the objective there.

    A shape is an array `[steps]`, for the protocol that the search began with, or a protocol, whose rates are scaled.
    Peaks are tried on a log grid of 48, which is refined three times between the neighbours of the best one; a peak
    at the end of the grid raises, as it would make a benchmark look worse than it is.
    """
    rates = np.asarray(best["protocol"].learning_rate)
    named = shapes if isinstance(shapes, dict) else {name: shape(1.0, rates.size) for name, shape in SHAPES.items()}
    middle = np.log10(np.mean(rates))
    found = {}
    for name, shape in named.items():
        protocol = shape if isinstance(shape, AbstractProtocol) else problem.owners["protocol"]
        shape = np.asarray(getattr(shape, "learning_rate", shape), np.float64)
        shape = np.broadcast_to(shape, rates.shape) / np.max(shape)
        folded = problem.at(best | {"protocol": protocol}).folded()
        low, high = middle - _REACH, middle + _REACH
        for _ in range(_REFINEMENTS + 1):
            peaks = np.logspace(low, high, _PEAKS)
            with double():
                losses = _losses(as_float(peaks), as_float(shape), folded)
            losses = np.asarray(to_host(losses))
            losses = np.where(np.isfinite(losses), losses, np.inf)
            place = int(np.argmin(losses))
            if place in (0, _PEAKS - 1):
                raise ValueError(
                    f"the best peak of the benchmark {name} is outside of [{peaks[0]:.2g}, {peaks[-1]:.2g}]."
                )
            low, high = np.log10(peaks[place - 1]), np.log10(peaks[place + 1])
        protocol = replace(protocol, "learning_rate", peaks[place] * shape)
        plain = not problem.barrier and not problem.floor
        value = losses[place] if plain else value_of(problem, best | {"protocol": protocol})[0]
        found[name] = protocol, float(value)
    return found


@eqx.filter_jit
def _losses(peaks, shape, problem):
    problem = unfold_known(problem)

    def loss(peak):
        protocol = replace(problem.owners["protocol"], "learning_rate", peak * shape)
        return problem.searched(problem.owners | {"protocol": protocol})

    return jax.lax.map(loss, peaks)
