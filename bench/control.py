"""What control by gradients of the theory costs, and what it saves: `python -m limitax.bench.control [--quick]`.

Every row is a ratio of two things timed in one process, or a count; seconds are printed to be read, not to be tested.
"""

import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import limits
from ..problems import GradientDescent, MinibatchSGD, OnlineSGD, objectives, replace, schedules, tasks
from ..studies import final_loss, optimise
from ._clock import median_seconds, print_rows

_TARGET = 1e-3  # above the least value, relative
_LOW, _HIGH = np.log(1e-3), np.log(3.0)  # where the searches without gradients look for rates


def rows(quick: bool = False) -> list[dict[str, Any]]:
    """The measurements, one dictionary a row."""
    knots, steps, budget = ((2,), 40, 200) if quick else ((2, 4, 8), 300, 5000)
    found = [row for count in knots for row in _race(count, steps, budget)]
    return found + [_gradient(name, *problem) for name, problem in _problems(quick).items()]


class _Taped(objectives.AbstractObjective):
    """The final loss, which also leaves every value it is asked for on a tape."""

    tape: Callable = eqx.field(static=True)

    def __call__(self, solve, limit, task, protocol):
        value = objectives.final_loss(solve(limit, task, protocol))
        jax.debug.callback(self.tape, value)
        return value


def _race(knots: int, steps: int, budget: int) -> list[dict[str, Any]]:
    """Evaluations and warm seconds until the loss of one-pass SGD is within .1 % of the least, with rates between so
    many knots. A gradient counts for one evaluation, and its time is in the seconds."""
    limit, task, values = limits.RandomFeatures(), tasks.power_law(10**12, 1.5, 2.5, 1.0), []
    objective = _Taped(lambda value: values.append(float(value)))

    def descend(start: float):
        values.clear()
        search = {"method": "lbfgs", "knots": knots, "objective": objective, "new_keys": 0}
        best = optimise(limit, task, OnlineSGD(start, steps=steps), over="learning_rate", **search)
        jax.effects_barrier()
        return best

    descend(0.01)
    start = time.perf_counter()
    best = descend(0.05)
    seconds = (time.perf_counter() - start) / best.evaluations
    least = best.value * (1 + _TARGET)
    loss = jax.jit(lambda point: final_loss(limit, task, OnlineSGD(_between(point, steps), steps=steps)))
    evaluate = lambda point: float(np.nan_to_num(loss(np.asarray(point)), nan=1e30, posinf=1e30))  # noqa: E731
    evaluate(np.zeros(knots))
    rows = [_row("gradients", knots, values, least, seconds)]
    for name, points in _searches(knots, budget, evaluate).items():
        start = time.perf_counter()
        tried = points()
        rows.append(_row(name, knots, tried, least, (time.perf_counter() - start) / len(tried)))
    return rows


def _between(point, steps: int):
    """Rates `[steps]` between knots of their logarithm, in logit-time."""
    return jnp.exp(schedules.knots(point, steps))


def _searches(knots: int, budget: int, evaluate) -> dict[str, Callable[[], list[float]]]:
    """Searches without gradients by name, each a function that gives the values in their order."""
    random = np.random.default_rng(0).uniform(_LOW, _HIGH, (budget, knots))
    side = int(budget ** (1 / knots) + 1e-9)
    axes = np.meshgrid(*[np.linspace(_LOW, _HIGH, side)] * knots, indexing="ij")
    lattice = np.random.default_rng(1).permutation(np.stack(axes, axis=-1).reshape(-1, knots))
    searches = {
        "random": lambda: [evaluate(point) for point in random],
        "grid": lambda: [evaluate(point) for point in lattice],
    }
    try:
        import optuna
    except ImportError:
        print("Bayesian search is skipped: it needs optuna (pip install 'limitax[bench]').")
        return searches
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def bayesian():
        study, tried = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0)), []

        def value(trial):
            tried.append(evaluate([trial.suggest_float(f"x{i}", _LOW, _HIGH) for i in range(knots)]))
            return tried[-1]

        study.optimize(value, n_trials=min(budget, 500))
        return tried

    return searches | {"bayesian": bayesian}


def _row(method: str, knots: int, values: list[float], least: float, seconds: float) -> dict[str, Any]:
    best = np.minimum.accumulate(values)
    reached = np.flatnonzero(best <= least)
    evaluations = int(reached[0]) + 1 if reached.size else np.inf
    return {
        "what": "evaluations to .1 % above the least loss",
        "controls": knots,
        "method": method,
        "evaluations": evaluations,
        "seconds": evaluations * seconds,
        "tried": len(values),
        "excess_at_the_end": float(best[-1] / least * (1 + _TARGET) - 1),
    }


def _problems(quick: bool) -> dict[str, tuple]:
    """Limit, task, protocol and options by name."""
    short, long = (6, 20) if quick else (40, 1000)
    sphere, power = tasks.sphere(jax.random.key(0), samples=4, dim=5), tasks.power_law(400, 1.5, 2.5, 0.5)
    isotropic, reused = tasks.isotropic(2.0, 0.3), tasks.power_law(400, 1.5, 2.5, 0.5, samples=100)
    march = {"samples": 400 if quick else 4000, "keep": None}
    pool = tasks.from_arrays(np.random.default_rng(0).standard_normal((20, 8)), np.ones(20))
    descent, fresh = GradientDescent(0.1, steps=short), OnlineSGD(0.04, steps=short, batch_ratio=2.0)
    return {
        "MLP, tanh, depth 2": (limits.MLP(2, "tanh"), sphere, descent, march),
        "MLP, identity, depth 2": (limits.MLP(2, "identity"), sphere, descent, {"keep": None}),
        "DeepLinear, depth 1, fresh batches": (limits.DeepLinear(1, richness=4.0), isotropic, fresh, {}),
        "DeepLinear, depth 2, full batch": (limits.DeepLinear(2), isotropic, GradientDescent(0.04, steps=short), {}),
        "RandomFeatures, SGD": (limits.RandomFeatures(), power, OnlineSGD(0.05, steps=long), {}),
        "RandomFeatures, momentum": (limits.RandomFeatures(), power, OnlineSGD(0.05, 0.5, steps=long), {}),
        "RandomFeatures, finite, contour": (
            limits.RandomFeatures(50),
            reused,
            GradientDescent(0.3, steps=long),
            {"method": "contour"},
        ),
        "RandomFeatures, finite, time": (
            limits.RandomFeatures(50),
            reused,
            GradientDescent(0.3, steps=short),
            {"method": "time"},
        ),
        "LinearModel": (limits.LinearModel(), pool, MinibatchSGD(0.05, 2, steps=short), {}),
    }


def _gradient(name: str, limit, task, protocol, options) -> dict[str, Any]:
    """Time of a value with its gradient with respect to all rates, in units of the value alone."""

    def loss(rates):
        return final_loss(limit, task, replace(protocol, "learning_rate", rates), throw=False, **options)

    rates = jnp.asarray(protocol.learning_rate, jnp.float32)
    seconds = median_seconds({"forward": jax.jit(loss), "gradient": jax.jit(jax.value_and_grad(loss))}, rates)
    return {
        "what": "gradient over forward",
        "limit": name,
        "steps": protocol.steps,
        "ratio": seconds["gradient"] / seconds["forward"],
        "forward_seconds": seconds["forward"],
    }


def main() -> None:
    """Prints the rows."""
    print_rows(rows, "Control by gradients of the theory against searches without, and the cost of gradients.")


if __name__ == "__main__":
    main()
