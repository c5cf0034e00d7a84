"""Optimal control through any limit: the best schedule, or the best number, by differentiating the theory."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from ..problems import (
    GradientDescent,
    MinibatchSGD,
    Trajectory,
    default_key,
    describe,
    objectives,
    versions,
    write_netcdf,
)
from ..problems import _checks as checks
from ..solvers import as_float, double
from . import _controls
from ._benchmarks import tuned
from ._saved_search import saved_search
from ._search import Found, Problem, check_start, derivative_of, descend, start_at, stationarity, value_of

METHODS = ("sweeps", "lbfgs")


@runtime_checkable
class ExactlyControlled(Protocol):
    """A limit whose loss can be minimised exactly over one step's controls at a time; without it `optimise` follows
    gradients.

    `coordinate_sweeps(task, protocol, *, over, objective, upper, max_cycles, tolerance)` with an upper bound of each of
    `over` returns a record with their new `values` in the same order, `value`, `history` (`nan` after the last),
    `cycles` and where each start ended, `starts`; it raises `NotImplementedError` with the reason where a problem is
    not of that kind.
    """

    def coordinate_sweeps(self, task, protocol, *, over, objective, upper, max_cycles, tolerance) -> Any: ...


@runtime_checkable
class Certified(Protocol):
    """A limit that knows what an optimum must satisfy.

    `certificates(task, protocol, *, over, objective)` returns numbers by name, none where nothing is known.
    """

    def certificates(self, task, protocol, *, over, objective) -> dict[str, float]: ...


@dataclass(frozen=True)
class Optimum:
    r"""The best that was found, and the evidence for it.

    - `protocol`, `limit`, `task`: the problem with its best values; `trajectory`: what the theory says of it.
    - `value`: the objective there, and `history` its values on the way, `[iterations + 1]`, with barrier and floor if
      there are any.
    - `stationarity`: $\max |\partial \log J / \partial x|$, on the scale of the search; for a rate without bounds
      this is the Hamiltonian residual $\max_t |\eta_t\, \partial J / \partial \eta_t| / J$. A control at its bound
      counts as stationary.
    - `evaluations`: of value and gradient (or cycles of sweeps, which cost as much).
    - `objective`, `method`: what was minimised, and how.
    - `at_bound`: by name, where the best value touches a bound.
    - `certificates`: numbers by name; see `optimise`.
    - `benchmarks`: the tuned protocols whose values are in `certificates["benchmarks"]`, by name.
    - `problem`: what was searched, for `sensitivity`.
    - `status`: `"converged"` if `stationarity` is within tolerance, `"not converged"`, or `"diverged"`.
    """

    protocol: Any
    limit: Any
    task: Any
    trajectory: Trajectory
    value: float
    history: np.ndarray
    stationarity: float
    evaluations: int
    objective: Callable
    method: str
    at_bound: dict[str, np.ndarray]
    status: str
    certificates: dict[str, Any] = field(default_factory=dict)
    benchmarks: dict[str, Any] = field(default_factory=dict)
    problem: Any = field(default=None, repr=False)

    @property
    def over(self) -> tuple[str, ...]:
        """The names of what was free."""
        return tuple(control.name for control in self.problem.controls)

    @property
    def found(self) -> dict[str, np.ndarray]:
        """The best values of what was free, by name."""
        return {c.name: np.asarray(getattr(getattr(self, c.owner), c.field)) for c in self.problem.controls}

    def summary(self) -> dict[str, Any]:
        """The numbers as plain data, for JSON."""
        return {
            "over": list(self.over),
            "objective": objectives.name_of(self.objective),
            "value": self.value,
            "start": float(self.history[0]),
            "stationarity": self.stationarity,
            "evaluations": self.evaluations,
            "method": self.method,
            "status": self.status,
            "at_bound": [name for name, touched in self.at_bound.items() if np.any(touched)],
            "certificates": self.certificates,
        }

    def to_dataset(self):
        """The trajectory at the optimum, the values found and the history, as one labelled `xarray.Dataset`."""
        result = self.trajectory.to_dataset()
        for name, value in self.found.items():
            result[name] = (("step",) if value.ndim == 1 else (), value)
        result["history"] = (("iteration",), np.asarray(self.history))
        return result

    def plot(self, path=None):
        """Draws what was found and what it does, writes it to `path` if given, and returns the `matplotlib` figure."""
        from ._plots import plot_optimum

        return plot_optimum(self, path)


def optimise(
    limit,
    task,
    protocol,
    *,
    over: str | Sequence[str],
    objective: Callable[[Trajectory], Any] | None = None,
    method: str | None = None,
    bounds: dict[str, tuple[float | None, float | None]] | None = None,
    starts: int | Sequence[Any] = 1,
    knots: int | Sequence[int | None] | None = None,
    barrier: bool | None = None,
    floor: float = 0.0,
    derivative: Literal["reverse", "forward"] | None = None,
    max_evaluations: int = 500,
    tolerance: float = 1e-8,
    cross_check: bool = False,
    benchmarks: bool | dict[str, Any] = False,
    new_keys: int = 4,
    key=None,
    throw: bool = True,
    out: str | os.PathLike | None = None,
    **options,
) -> Optimum:
    r"""Makes an objective small over schedules, hyperparameters or properties of the task, through the theory.

    The search starts at the values that the problem comes with. Every entry of a schedule is a control of its own,
    and one gradient moves all of them.

    **Arguments:**

    - `limit`, `task`, `protocol`: the problem, as for `limit.solve`.
    - `over`: name or names of continuous numbers of the three, such as `"learning_rate"`, `("learning_rate",
      "momentum")`, `"richness"`.
    - `objective`: function of a `Trajectory`, or one of `lx.objectives`; its value plus `floor` must be positive.
      `None` is `objectives.final_loss`.
    - `method`: `"sweeps"`, exact minimisation over one control at a time, for limits that offer it; `"lbfgs"`,
      quasi-Newton on the logarithm of the objective, for all; `None` takes the first that applies. L-BFGS works on
      log-rates, and momentum on the scale $\log\frac{\beta}{1-\beta}$.
    - `bounds`: `(low, high)` by name, either may be `None`.
    - `starts`: how many starts L-BFGS is given, those after the first at random about it; or the starts themselves,
      protocols or earlier results, whose schedules may have other lengths. All run in one compiled program, and the
      best is kept.
    - `knots`: schedules by so many values, evenly placed in logit-time; several numbers are resolutions, one after the
      other, and a last `None` sets every entry free: `(8, 24, None)`.
    - `barrier`: whether a training loss that grows is penalised, see `objectives.stable`. Where the theory passes the
      edge of stability without noticing, networks diverge. By default for `GradientDescent` and `MinibatchSGD`; a
      model without a training loss has none.
    - `floor`: $\log(J + \text{floor})$ is made small, which stops caring once $J$ is far below it.
    - `derivative`: `"forward"` costs a pass for every control and little memory; by default for one or two of them.
    - `max_evaluations`, `tolerance`: when a search stops, at every resolution; it has converged when `stationarity` is
      at most `tolerance`.
    - `cross_check`: whether to run the other method too (or L-BFGS from a halved start, where there is no other);
      `certificates["cross_check"]` is then its value relative to this one, minus 1.
    - `benchmarks`: `True`, or by name shapes `[steps]` of the rate, or whole protocols: the rate of each is multiplied
      by its best peak, and `certificates["benchmarks"]` holds their values.
    - `new_keys`: under how many new keys the optimum of a theory with sampling error is evaluated again.
    - `key`: common random numbers of all evaluations.
    - `throw`: whether starts without a finite loss raise.
    - `out`: a folder. The search is saved in `out/checkpoints` as it goes, so that the same call goes on where a killed
      one stopped, and the result is written to `out/result.nc`. Sweeps, benchmarks and what is certified at the end
      are each done in one piece, which is not saved before it is done, or not at all.
    - `options`: for `limit.solve`, such as `samples`.

    **Returns:** an `Optimum`. Where the landscape has many minima (momentum, rich full-batch training) it is one of
    them: `status` and `stationarity` say how well it is known.

    **Raises:** `DivergedError` when the start diverges; `ValueError` for names, bounds or a method that do not fit, and
    for a folder that holds something else; `OSError` where `out` cannot be written.

    ??? cite "Source"
        Theory of Optimal Learning Rate Schedules and Scaling Laws for a Random Feature Model, arXiv 2602.04774.
    """
    if method is not None:
        checks.choice("method", method, METHODS)
    checks.integer("max_evaluations", max_evaluations)
    checks.integer("new_keys", new_keys, low=0)
    levels = _levels(knots)
    owners = {"protocol": protocol, "limit": limit, "task": task}
    problem = Problem(
        controls=_controls.controls(over, owners, bounds),
        owners=owners,
        objective=objective or objectives.final_loss,
        barrier=_is_finite_data(protocol) if barrier is None else checks.flag("barrier", barrier),
        floor=checks.number("floor", floor, low=0.0),
        key=default_key(key),
        options=options,
    )
    search = {"max_evaluations": max_evaluations, "tolerance": tolerance, "throw": throw}
    several = not isinstance(starts, int) or starts > 1
    if method == "sweeps" and (several or floor or levels != (None,)):
        raise ValueError('method "sweeps" takes no starts, knots or floor; use method="lbfgs".')
    places = [owners] if isinstance(starts, int) else start_at(problem, starts)
    descent = {
        "starts": places,
        "count": checks.integer("starts", starts) if isinstance(starts, int) else len(places),
        "levels": levels,
        "derivative": derivative_of(problem, derivative),
    }
    exact = method == "sweeps" or (method is None and not several and levels == (None,) and not floor)

    def about():
        asked = {"method": method, "over": over, "count": descent["count"], "levels": levels} | search
        asked |= {"derivative": descent["derivative"], "cross_check": checks.flag("cross_check", cross_check)}
        where = {"starts": places, "precision": jnp.result_type(float).name, "versions": versions()}
        return {"problem": describe(problem)} | {name: describe(value) for name, value in (asked | where).items()}

    with saved_search(out, about, max_evaluations * (descent["count"] + len(levels) - 1)) as saved:
        found = _sweeps(problem, required=method == "sweeps", saved=saved, **search) if exact else None
        method = "lbfgs" if found is None else "sweeps"
        found = descend(problem, **descent, **search, saved=saved) if found is None else found
        other = None
        if cross_check:
            shift = 0.0 if method == "sweeps" else np.log(0.5)
            other = descend(problem, **descent, **search, shift=shift, saved=saved)
    problem = problem.at_resolution(levels[-1])
    result = _optimum(problem, found, method, tolerance, benchmarks, new_keys, other)
    if out is not None and jax.process_index() == 0:
        write_netcdf(result.to_dataset(), Path(out) / "result.nc")
    return result


def _optimum(problem: Problem, found: Found, method: str, tolerance, benchmarks, new_keys: int, other) -> Optimum:
    """What was found, and the evidence for it."""
    best = found.owners
    trajectory = problem.solve(best["limit"], best["task"], best["protocol"])
    value = found.value
    certificates: dict[str, Any] = {"hamiltonian_residual": found.stationarity}
    if problem.barrier or problem.floor:
        value = _value_at(problem, best, trajectory)
        certificates["penalty"] = max(0.0, float(np.log(found.value / (value + problem.floor))))
    if found.starts.size > 1:
        certificates["starts"] = found.starts.tolist()
    if trajectory.sampling_error is not None and new_keys:
        with double():
            keys = jax.random.split(jax.random.fold_in(problem.key, 1), new_keys)
        again = value_of(problem, best, keys)
        error = np.std(again, ddof=1) / len(again) ** 0.5 if len(again) > 1 else np.nan
        certificates["new_keys"] = {"value": float(np.mean(again)), "standard_error": float(error)}
    stationary = found.stationarity <= tolerance
    sound = np.isfinite(value) and trajectory.status != "diverged"
    status = "diverged" if not sound else "converged" if stationary else "not converged"
    if isinstance(best["limit"], Certified):
        certificates |= best["limit"].certificates(
            best["task"], best["protocol"], over=problem.fields, objective=problem.objective
        )
    if other is not None:
        certificates["cross_check"] = other.value / found.value - 1
    compared = tuned(problem, best, benchmarks) if benchmarks else {}
    if benchmarks:
        certificates["benchmarks"] = {name: value for name, (_, value) in compared.items()}
    return Optimum(
        **best,
        trajectory=trajectory,
        value=value,
        history=found.history,
        stationarity=found.stationarity,
        evaluations=found.evaluations,
        objective=problem.objective,
        method=method,
        at_bound={c.name: c.at_bound(getattr(best[c.owner], c.field)) for c in problem.controls},
        status=status,
        certificates=certificates,
        problem=problem.at(best),
        benchmarks={name: tuned_protocol for name, (tuned_protocol, _) in compared.items()},
    )


def _sweeps(problem: Problem, required: bool, max_evaluations, tolerance, throw, saved=None) -> Found | None:
    limit, protocol, task = (problem.owners[name] for name in ("limit", "protocol", "task"))

    def sweep() -> dict[str, Any]:
        if not isinstance(limit, ExactlyControlled):
            raise NotImplementedError(f"{type(limit).__name__} does not offer them.")
        if problem.barrier:
            raise NotImplementedError("sweeps know no barrier.")
        if any(np.isfinite(control.low) for control in problem.controls):
            raise NotImplementedError("sweeps take no lower bound.")
        found = limit.coordinate_sweeps(
            task,
            protocol,
            over=problem.fields,
            objective=problem.objective,
            upper=tuple(control.upper for control in problem.controls),
            max_cycles=max_evaluations,
            # what a sweep sees before it moves a rate is a little less than the residual that it leaves behind
            tolerance=tolerance / 20,
        )
        named = {name: getattr(found, name) for name in ("values", "value", "history", "starts")}
        return named | {"evaluations": np.asarray(found.cycles) + 1}

    try:
        found = (
            {name: jax.tree.leaves(value) for name, value in sweep().items()} if saved is None else saved.once(sweep)
        )
    except NotImplementedError as reason:
        if required:
            raise ValueError(f'method "sweeps" does not apply: {reason} Use method="lbfgs".') from None
        return None
    value, history, starts, evaluations = (found[name][0] for name in ("value", "history", "starts", "evaluations"))
    check_start(history[0], throw)
    history = np.asarray(history)
    owners = _controls.with_values(problem.controls, found["values"], problem.owners)
    return Found(
        owners=owners,
        value=float(value),
        history=history[~np.isnan(history)],
        stationarity=stationarity(problem, owners),
        evaluations=int(evaluations),
        starts=np.asarray(starts),
    )


def _value_at(problem: Problem, best, trajectory: Trajectory) -> float:
    if isinstance(problem.objective, objectives.AbstractObjective):
        return float(value_of(problem, best)[0])
    with double():
        return float(problem.objective(as_float(trajectory)))


def _is_finite_data(protocol) -> bool:
    return isinstance(protocol, (GradientDescent, MinibatchSGD))


def _levels(knots) -> tuple[int | None, ...]:
    levels = knots if isinstance(knots, (tuple, list)) else (knots,)
    if not levels:
        raise ValueError("knots names no resolution; give a number, several, or None for free schedules.")
    return tuple(None if level is None else checks.integer("knots", level, low=2) for level in levels)
