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
_VALLEYS = 3  # of the loss over the peak that are looked into: near the edge of stability there can be a second one
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
    Peaks are tried on a log grid of 48. Between the neighbours of its best point it is refined three times, and so it
    is in up to two more valleys. A best peak at the end of the grid raises, as it would make a benchmark look worse
    than it is.
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

        def losses(peaks, shape=shape, folded=folded):
            with double():
                values = _losses(as_float(peaks), as_float(shape), folded)
            values = np.asarray(to_host(values))
            return np.where(np.isfinite(values), values, np.inf)

        peaks = np.logspace(middle - _REACH, middle + _REACH, _PEAKS)
        coarse = losses(peaks)
        if np.argmin(coarse) in (0, _PEAKS - 1):
            raise ValueError(f"the best peak of the benchmark {name} is outside of [{peaks[0]:.2g}, {peaks[-1]:.2g}].")
        value, peak = min(_refined(losses, peaks[i - 1], peaks[i + 1]) for i in _valleys(coarse))
        protocol = replace(protocol, "learning_rate", peak * shape)
        if problem.barrier or problem.floor:
            value = value_of(problem, best | {"protocol": protocol})[0]
        found[name] = protocol, float(value)
    return found


def _valleys(losses: np.ndarray) -> np.ndarray:
    """Where inside of a grid a loss is below its neighbours, the lowest first."""
    inside = losses[1:-1]
    places = 1 + np.flatnonzero((inside < losses[:-2]) & (inside <= losses[2:]))
    return places[np.argsort(losses[places])][:_VALLEYS]


def _refined(losses, low: float, high: float) -> tuple[float, float]:
    """The least loss between two peaks, and its peak."""
    for _ in range(_REFINEMENTS):
        peaks = np.geomspace(low, high, _PEAKS)
        values = losses(peaks)
        place = min(max(int(np.argmin(values)), 1), _PEAKS - 2)
        low, high = peaks[place - 1], peaks[place + 1]
    return float(np.min(values)), float(peaks[np.argmin(values)])


@eqx.filter_jit
def _losses(peaks, shape, problem):
    problem = unfold_known(problem)

    def loss(peak):
        protocol = replace(problem.owners["protocol"], "learning_rate", peak * shape)
        return problem.searched(problem.owners | {"protocol": protocol})

    return jax.lax.map(loss, peaks)
