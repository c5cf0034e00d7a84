"""Optimal control through any limit: the best schedule, or the best number, by differentiating the theory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import DivergedError, Trajectory, default_key, objectives, resolve
from ..problems import _checks as checks
from ..solvers import double, minimise, projected, to_host
from . import _controls
from ._benchmarks import tuned_shapes
from ._zeros import fold_zeros, unfold_zeros

METHODS = ("sweeps", "lbfgs")


@runtime_checkable
class ExactlyControlled(Protocol):
    """A limit whose loss can be minimised exactly over one control at a time; without it `optimise` follows gradients.

    `coordinate_sweeps(task, protocol, *, over, objective, upper, max_cycles, tolerance)` returns a record with the
    new values of the first control in `learning_rate`, `history` (`nan` after the last), and `cycles`; it raises
    `NotImplementedError` with the reason where a problem is not of that kind.
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
    - `value`: the objective there, and `history` its values on the way, `[iterations + 1]`.
    - `stationarity`: $\max |\partial \log J / \partial x|$, on the scale of the search; for a rate without bounds
      this is the Hamiltonian residual $\max_t |\eta_t\, \partial J / \partial \eta_t| / J$. A control at its bound
      counts as stationary.
    - `evaluations`: of value and gradient (or cycles of sweeps, which cost as much).
    - `objective`, `method`: what was minimised, and how.
    - `at_bound`: by name, where the best value touches a bound.
    - `certificates`: numbers by name; see `optimise`.
    - `benchmarks`: the tuned protocols whose values are in `certificates["benchmarks"]`, by name.
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
    over: tuple[str, ...] = ()

    @property
    def found(self) -> dict[str, np.ndarray]:
        """The best values of what was free, by name."""
        return {
            name: np.asarray(getattr(getattr(self, slot.owner), slot.field)) for name, slot in self._slots().items()
        }

    def _slots(self):
        return {name: resolve(name, protocol=self.protocol, limit=self.limit, task=self.task) for name in self.over}

    def summary(self) -> dict[str, Any]:
        """The numbers as plain data, for JSON."""
        return {
            "over": list(self.over),
            "objective": getattr(self.objective, "__name__", str(self.objective)),
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
    max_evaluations: int = 500,
    tolerance: float = 1e-8,
    cross_check: bool = False,
    benchmarks: bool | dict[str, Any] = False,
    key=None,
    throw: bool = True,
    **options,
) -> Optimum:
    r"""Makes an objective small over schedules, hyperparameters or properties of the task, through the theory.

    The search starts at the values that the problem comes with. Every entry of a schedule is a control of its own,
    and one gradient moves all of them.

    **Arguments:**

    - `limit`, `task`, `protocol`: the problem, as for `limit.solve`.
    - `over`: name or names of continuous numbers of the three, such as `"learning_rate"`, `("learning_rate",
      "momentum")`, `"richness"`.
    - `objective`: function of a `Trajectory` with a positive value; `None` is `objectives.final_loss`.
    - `method`: `"sweeps"`, exact minimisation over one control at a time, for limits that offer it; `"lbfgs"`,
      quasi-Newton on the logarithm of the objective, for all; `None` takes the first that applies. L-BFGS works on
      log-rates, and momentum on the scale $\log\frac{\beta}{1-\beta}$.
    - `bounds`: `(low, high)` by name, either may be `None`.
    - `max_evaluations`, `tolerance`: when to stop; the search has converged when `stationarity` is at most `tolerance`.
    - `cross_check`: whether to run the other method too (or L-BFGS from a halved start, where there is no other);
      `certificates["cross_check"]` is then its value relative to this one, minus 1.
    - `benchmarks`: `True`, or shapes `[steps]` by name: each is multiplied by its best peak rate, and
      `certificates["benchmarks"]` holds their values. Needs `learning_rate` in `over`.
    - `key`: common random numbers of all evaluations.
    - `throw`: whether a start without a finite loss raises.
    - `options`: for `limit.solve`, such as `samples`.

    **Returns:** an `Optimum`. Where the landscape has many minima (momentum, rich full-batch training) it is one of
    them: `status` and `stationarity` say how well it is known.

    **Raises:** `DivergedError` when the start diverges; `ValueError` for names, bounds or a method that do not fit.

    ??? cite "Source"
        Theory of Optimal Learning Rate Schedules and Scaling Laws for a Random Feature Model, arXiv 2602.04774.
    """
    if method is not None:
        checks.choice("method", method, METHODS)
    checks.integer("max_evaluations", max_evaluations)
    owners = {"protocol": protocol, "limit": limit, "task": task}
    problem = _Problem(
        _controls.controls(over, owners, bounds), owners, objective or objectives.final_loss, default_key(key), options
    )
    search = {"max_evaluations": max_evaluations, "tolerance": tolerance, "throw": throw}
    found = _sweeps(problem, required=method == "sweeps", **search) if method != "lbfgs" else None
    if found is None:
        method, found = "lbfgs", _lbfgs(problem, **search)
    else:
        method = "sweeps"
    best = found.owners
    trajectory = best["limit"].solve(best["task"], best["protocol"], key=problem.key, throw=False, **options)
    stationary = found.stationarity <= tolerance
    sound = np.isfinite(found.value) and trajectory.status != "diverged"
    status = "diverged" if not sound else "converged" if stationary else "not converged"
    certificates: dict[str, Any] = {"hamiltonian_residual": found.stationarity}
    if isinstance(limit, Certified):
        certificates |= best["limit"].certificates(
            best["task"], best["protocol"], over=problem.fields, objective=problem.objective
        )
    if cross_check:
        other = _lbfgs(problem, **search, shift=0.0 if method == "sweeps" else np.log(0.5))
        certificates["cross_check"] = other.value / found.value - 1
    tuned = tuned_shapes(problem, best, benchmarks) if benchmarks else {}
    if benchmarks:
        certificates["benchmarks"] = {name: value for name, (_, value) in tuned.items()}
    return Optimum(
        **best,
        trajectory=trajectory,
        value=found.value,
        history=found.history,
        stationarity=found.stationarity,
        evaluations=found.evaluations,
        objective=problem.objective,
        method=method,
        at_bound={c.name: c.at_bound(getattr(best[c.owner], c.field)) for c in problem.controls},
        status=status,
        certificates=certificates,
        over=tuple(c.name for c in problem.controls),
        benchmarks={name: tuned_protocol for name, (tuned_protocol, _) in tuned.items()},
    )


class _Problem(eqx.Module):
    """What is minimised, without a starting point."""

    controls: tuple[_controls.Control, ...]
    owners: dict[str, Any]
    objective: Callable
    key: Any
    options: dict[str, Any]

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(control.field for control in self.controls)

    def folded(self) -> "_Problem":
        return eqx.tree_at(lambda p: p.owners["protocol"], self, fold_zeros(self.owners["protocol"]))

    def __call__(self, values: list[Any]):
        owners = _controls.with_values(self.controls, values, self.owners)
        trajectory = owners["limit"].solve(
            owners["task"], owners["protocol"], key=self.key, throw=False, **self.options
        )
        return self.objective(trajectory)


@dataclass(frozen=True)
class _Found:
    owners: dict[str, Any]
    value: float
    history: np.ndarray
    stationarity: float
    evaluations: int


def _lbfgs(problem: _Problem, max_evaluations, tolerance, throw, shift: float = 0.0) -> _Found:
    with double():
        x = _controls.start(problem.controls, problem.owners) + shift
        compiled = problem.folded()
        low, high = _controls.box(problem.controls)
        limits = {"low": low, "high": high, "max_evaluations": max_evaluations, "tolerance": np.float64(tolerance)}
        minimum = minimise(_log_objective, x, compiled, **limits)
        values = _controls.values(problem.controls, minimum.x)
    minimum, values = to_host((minimum, values))
    _check_start(np.exp(minimum.history[0]), throw)
    return _Found(
        owners=_controls.with_values(problem.controls, values, problem.owners),
        value=float(np.exp(minimum.value)),
        history=_trim(np.exp(minimum.history)),
        stationarity=float(np.max(np.abs(minimum.gradient))),
        evaluations=int(minimum.evaluations),
    )


def _sweeps(problem: _Problem, max_evaluations, tolerance, throw, required: bool) -> _Found | None:
    limit, protocol, task = (problem.owners[name] for name in ("limit", "protocol", "task"))
    try:
        if not isinstance(limit, ExactlyControlled):
            raise NotImplementedError(f"{type(limit).__name__} does not offer them.")
        control = problem.controls[0]
        if np.isfinite(control.low):
            raise NotImplementedError("sweeps take no lower bound.")
        sweeps = limit.coordinate_sweeps(
            task,
            protocol,
            over=problem.fields,
            objective=problem.objective,
            upper=float(np.exp(control.high)),
            max_cycles=max_evaluations,
            # what a sweep sees before it moves a rate is a little less than the residual that it leaves behind
            tolerance=tolerance / 20,
        )
    except NotImplementedError as reason:
        if required:
            raise ValueError(f'method "sweeps" does not apply: {reason} Use method="lbfgs".') from None
        return None
    _check_start(sweeps.history[0], throw)
    owners = _controls.with_values(problem.controls, [sweeps.learning_rate], problem.owners)
    with double():
        x = _controls.position(problem.controls, owners)
        gradient = projected(_gradient(x, problem.folded()), x, *_controls.box(problem.controls))
    return _Found(
        owners=owners,
        value=float(sweeps.value),
        history=_trim(np.asarray(sweeps.history)),
        stationarity=float(np.max(np.abs(to_host(gradient)))),
        evaluations=int(sweeps.cycles) + 1,
    )


def _log_objective(x, problem: _Problem):
    problem = unfold_zeros(problem)
    return jnp.log(problem(_controls.values(problem.controls, x)))


_gradient = eqx.filter_jit(jax.grad(_log_objective))


def _check_start(value, throw: bool) -> None:
    if throw and not np.isfinite(value):
        raise DivergedError(
            f"the objective at the start is {value:g}; it must be finite and above 0, as its logarithm is made small. "
            "Start from a smaller learning_rate."
        )


def _trim(history: np.ndarray) -> np.ndarray:
    """The entries that were written."""
    written = np.flatnonzero(~np.isnan(history))
    return history[: written[-1] + 1] if written.size else history[:1]
