"""The search behind `optimise`: what is minimised, from which starts, at which resolutions, and by which derivative."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import DivergedError, objectives, replace, schedules
from ..problems import _checks as checks
from ..solvers import Minimum, double, minimise, projected, to_host
from . import _controls
from ._known import fold_known, unfold_known
from ._saved_search import SavedSearch

_SPREAD = 0.7  # of further starts about the first, on the scale of the search
_FEW = 2  # controls, up to which forward mode costs less


class Problem(eqx.Module):
    """What is minimised, without a starting point: $\\log(J + \\text{floor})$, plus a barrier if there is one."""

    controls: tuple[_controls.Control, ...]
    owners: dict[str, Any]
    objective: Callable
    barrier: bool = eqx.field(static=True)
    floor: Any
    key: Any
    options: dict[str, Any]

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of what is free in its owner."""
        return tuple(control.field for control in self.controls)

    def solve(self, limit, task, protocol):
        """The theory, with the random numbers and options of the search."""
        return limit.solve(task, protocol, key=self.key, throw=False, **self.options)

    def value(self, owners):
        """The objective $J$."""
        return objectives.evaluate(self.objective, self.solve, *_in_order(owners))

    def searched(self, owners):
        """The exponential of what is minimised."""
        searched = _Floored(self.objective, self.floor)
        searched = objectives.stable(searched) if self.barrier else searched
        return objectives.evaluate(searched, self.solve, *_in_order(owners))

    def at_resolution(self, knots: int | None) -> "Problem":
        """The same with schedules between so many knots."""
        return dataclasses.replace(self, controls=tuple(c.at_resolution(knots) for c in self.controls))

    def at(self, owners: dict[str, Any]) -> "Problem":
        """The same about other values."""
        return dataclasses.replace(self, owners=owners)

    def folded(self) -> "Problem":
        """The same with what the compiler is to know as part of the structure."""
        return self.at(self.owners | {"protocol": fold_known(self.owners["protocol"])})


class _Floored(objectives.AbstractObjective):
    objective: Callable
    floor: Any

    def __call__(self, solve, limit, task, protocol):
        return objectives.evaluate(self.objective, solve, limit, task, protocol) + self.floor


@dataclasses.dataclass(frozen=True)
class Found:
    """Where a search ended; `starts` holds what was reached from each start, `[starts]`."""

    owners: dict[str, Any]
    value: float
    history: np.ndarray
    stationarity: float
    evaluations: int
    starts: np.ndarray


def descend(
    problem: Problem,
    starts: Sequence[dict[str, Any]],
    *,
    count: int,
    levels: Sequence[int | None],
    derivative: str,
    max_evaluations: int,
    tolerance: float,
    throw: bool,
    shift: float = 0.0,
    saved: SavedSearch | None = None,
) -> Found:
    """L-BFGS from every start at the first resolution, and from the best of them at the others; with `saved`, one
    iteration after the other."""
    problem = problem if derivative == "reverse" else in_forward_mode(problem)
    limits = {"max_evaluations": max_evaluations, "tolerance": np.float64(tolerance), "derivative": derivative}
    owners, reached, evaluations, history, slope = dict(starts[0]), np.empty(0), 0, [], np.inf
    for level in levels:
        now = problem.at_resolution(level)
        with double():
            if history:
                x = _controls.start(now.controls, owners)[None]
            else:
                x = jnp.stack([_controls.start(now.controls, start) for start in starts]) + shift
                x = _scattered(now, x, count)
            low, high = _controls.within_reach(x, *_controls.box(now.controls))
            bounded: dict[str, Any] = {"low": low, "high": high, **limits}
            if saved is None:
                minima = _minima(x, now.folded(), **bounded)
            else:
                each = [saved.minimise(_log_searched, start, now.folded(), **bounded) for start in x]
                stacked: Any = [np.stack(fields) for fields in zip(*each, strict=True)]
                minima = Minimum(*stacked)
        minima = to_host(minima)
        lowest = int(np.argmin(np.where(np.isfinite(minima.value), minima.value, np.inf)))
        best = Minimum(*(np.asarray(field)[lowest] for field in minima))
        with double():
            found = _controls.values(now.controls, best.x)
        found = to_host(found)
        owners = _controls.with_values(now.controls, found, now.owners)
        slope = float(np.max(np.abs(best.gradient)))
        # the end of the reach is nobody's bound: a slope that points out of it is no stationary point
        if np.any(
            _controls.touching(best.x, to_host(low), to_host(high)) & np.isinf(_controls.box(now.controls)).any(0)
        ):
            slope = stationarity(now, owners)
        evaluations += int(np.sum(minima.evaluations))
        if not history:
            reached = np.exp(minima.value)
            first = np.exp(np.asarray(minima.history)[:, 0])
            check_start(first[0] if not np.any(np.isfinite(first)) else 1.0, throw)
        history.append(_trim(np.exp(best.history)))
    return Found(
        owners=owners,
        value=float(np.exp(best.value)),
        history=np.concatenate(history),
        stationarity=slope,
        evaluations=evaluations,
        starts=reached,
    )


def derivative_of(problem: Problem, derivative: str | None) -> str:
    """Forward mode for few controls of a limit that has one, unless something else is asked for.

    **Raises:** `ValueError` for forward mode where the limit's solution has no such derivative.
    """
    has_forward = "adjoint" in inspect.signature(type(problem.owners["limit"]).solve).parameters
    if derivative is None:
        few = sum(control.size for control in problem.controls) <= _FEW
        return "forward" if few and has_forward and "adjoint" not in problem.options else "reverse"
    checks.choice("derivative", derivative, ("reverse", "forward"))
    if derivative == "forward" and not has_forward:
        name = type(problem.owners["limit"]).__name__
        raise ValueError(f'derivative "forward" is not offered by {name}; use "reverse".')
    return derivative


def stationarity(problem: Problem, owners: dict[str, Any]) -> float:
    """The largest component of the projected gradient at a point that another method found."""
    with double():
        x = _controls.position(problem.controls, owners)
        gradient = projected(_gradient(x, problem.folded()), x, *_controls.box(problem.controls))
    return float(np.max(np.abs(to_host(gradient))))


def value_of(problem: Problem, owners: dict[str, Any], keys=None) -> np.ndarray:
    """The objective at a point, under each of `keys` if given."""
    with double():
        values = _values(problem.at(owners).folded(), jnp.stack([problem.key]) if keys is None else keys)
    return np.asarray(to_host(values), np.float64)


def start_at(problem: Problem, starts: Sequence[Any]) -> list[dict[str, Any]]:
    """Owners whose controls have the values of each start, a protocol or an earlier result; schedules of other lengths
    keep their shape in logit-time."""
    return [_started(problem, start) for start in starts]


def check_start(value, throw: bool) -> None:
    """**Raises:** `DivergedError` where the search has nothing to start from."""
    if throw and not np.isfinite(value):
        raise DivergedError(
            f"the objective at the start is {value:g}; it must be finite and above 0, as its logarithm is made small. "
            "Start from a smaller learning_rate."
        )


def _started(problem: Problem, start: Any) -> dict[str, Any]:
    owners = dict(problem.owners)
    for control in problem.controls:
        owner = start if control.owner == "protocol" and hasattr(start, control.field) else None
        owner = getattr(start, control.owner, owner)
        if not hasattr(owner, control.field):
            raise ValueError(
                f"starts must be protocols or earlier results with {control.name}; {checks.shown(start)} has none."
            )
        value = np.asarray(getattr(owner, control.field), np.float64)
        if control.shape and value.shape != control.shape:
            value = schedules.resample(value, *control.shape)
        owners[control.owner] = replace(owners[control.owner], control.field, value)
    return owners


def _scattered(problem: Problem, x, count: int):
    """`count` starts: those given, then the first of them with its schedules tilted and bent in logit-time."""
    shapes = [3 if control.shape and control.size >= 3 else control.size for control in problem.controls]
    further = []
    for i in range(len(x), count):
        key = jax.random.fold_in(problem.key, i)
        bends = [
            jnp.interp(jnp.linspace(0, 1, control.size), jnp.linspace(0, 1, knots), jax.random.normal(k, (knots,)))
            for control, knots, k in zip(problem.controls, shapes, jax.random.split(key, len(shapes)), strict=True)
        ]
        further.append(x[0] + _SPREAD * jnp.concatenate(bends).astype(x.dtype))
    return jnp.concatenate([x, jnp.stack(further)]) if further else x


def in_forward_mode(problem: Problem) -> Problem:
    """The same, solved by what forward mode can go through; unchanged for a limit without `adjoint`."""
    if "adjoint" not in inspect.signature(type(problem.owners["limit"]).solve).parameters:
        return problem
    return dataclasses.replace(problem, options=problem.options | {"adjoint": "direct"})


@eqx.filter_jit
def _minima(x, problem, **bounded):
    return jax.lax.map(lambda start: minimise(_log_searched, start, problem, **bounded), x)


def _log_searched(x, problem: Problem):
    problem = unfold_known(problem)
    values = _controls.values(problem.controls, x)
    return jnp.log(problem.searched(_controls.with_values(problem.controls, values, problem.owners)))


_gradient = eqx.filter_jit(jax.grad(_log_searched))


@eqx.filter_jit
def _values(problem, keys):
    problem = unfold_known(problem)
    return jax.lax.map(lambda key: dataclasses.replace(problem, key=key).value(problem.owners), keys)


def _in_order(owners: dict[str, Any]):
    return owners["limit"], owners["task"], owners["protocol"]


def _trim(history: np.ndarray) -> np.ndarray:
    """The entries that were written."""
    written = np.flatnonzero(~np.isnan(history))
    return history[: written[-1] + 1] if written.size else history[:1]
