"""Rate and richness of a perceptron, looked for with gradients of the theory and without."""

import importlib.util
import time
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import limits
from ..problems import Dataset, GradientDescent, key_name, objectives, schedules, tasks
from ..problems import _checks as checks
from ..solvers import as_float, double
from ..studies import Optimum, Verification, optimise, verify
from ._experiment import Claim, Findings, Stopwatch, size_keys

OVER = ("rate_scale", "richness")
#: Where everyone looks: the peak rate up to about the edge of stability, the richness from lazy to rich.
BOX = {"rate_scale": (0.03, 2.0), "richness": (0.1, 10.0)}
LOW, HIGH = np.log([BOX[name] for name in OVER]).T
#: What a value with its gradient is charged for, in solutions of the theory; by the two tangents it costs 2.2 to 2.5.
CHARGE = 4
LEVELS = (1e-2, 1e-3)
CLEAR = 3.0


class Study(eqx.Module):
    """The problem that every method sees, random numbers included, and what each may spend."""

    task: Dataset
    protocol: GradientDescent
    key: Any
    particles: int = eqx.field(static=True)
    repeats: int = eqx.field(static=True)
    budget: int = eqx.field(static=True)
    grid: int = eqx.field(static=True)

    @property
    def options(self) -> dict[str, Any]:
        """For `limit.solve`."""
        return {"samples": self.particles, "replicas": 1, "keep": None}


@dataclass(frozen=True)
class Search:
    """Points tried in order, `[evaluations, 2]` as logarithms, their values, and the charge of each in solutions."""

    points: np.ndarray
    values: np.ndarray
    charge: int = 1

    @property
    def best(self) -> np.ndarray:
        """The lowest value so far, `[evaluations]`."""
        return np.minimum.accumulate(self.values)

    def at(self, solutions: float) -> np.ndarray:
        """The best point after so many solutions."""
        return self.points[np.argmin(self.values[: max(1, int(solutions) // self.charge)])]

    def reach(self, level: float) -> float:
        """Solutions until the value is at most `level`, infinite if it never is."""
        reached = np.flatnonzero(self.values <= level)
        return float(self.charge * (reached[0] + 1)) if reached.size else np.inf


@dataclass(frozen=True)
class Searches(Findings):
    """Findings with the repeats of every method, the theory's optimum, and its verifications by width."""

    searches: dict[str, list[Search]] = field(default_factory=dict)
    optimum: Any = None
    proofs: dict[int, Verification] = field(default_factory=dict)


class _Taped(objectives.AbstractObjective):
    """The final test loss, which also leaves every point it is asked for on a tape."""

    tape: "_Tape" = eqx.field(static=True)

    def __call__(self, solve, limit, task, protocol):
        value = objectives.final_test_loss(solve(limit, task, protocol))
        jax.debug.callback(self.tape, limit.rate_scale, limit.richness, value)
        return value


class _Tape:
    def __init__(self):
        self.rows = []

    def __call__(self, *row):
        self.rows.append([float(number) for number in row])

    def take(self) -> Search:
        """What was recorded since the last time."""
        jax.effects_barrier()
        rows, self.rows = np.asarray(self.rows), []
        return Search(np.log(rows[:, :2]), rows[:, 2], CHARGE)


def build(
    classes=(3, 8),
    samples: int = 20,
    flipped: int = 3,
    test_samples: int = 48,
    steps: int = 20,
    particles: int = 600,
    repeats: int = 8,
    budget: int = 96,
    grid: int = 8,
    data_seed: int = 0,
) -> Study:
    """Two classes of digits of which the first `flipped` training labels are wrong, learned under linear decay.

    Every search spends about `budget` solutions of the theory, and all but the grid, of `grid` x `grid` points, are run
    `repeats` times.
    """
    samples, flipped = checks.integer("samples", samples), checks.integer("flipped", flipped, low=0)
    if flipped > samples:
        raise ValueError(f"flipped must be at most samples, {samples}; it is {flipped}.")
    clean = tasks.digits(
        jax.random.key(checks.integer("data_seed", data_seed, low=0)),
        samples=samples,
        test_samples=checks.integer("test_samples", test_samples),
        classes=tuple(classes),
    )
    checks.integer("steps", steps, low=2)
    return Study(
        Dataset(clean.x, np.where(np.arange(samples) < flipped, -1, 1) * clean.y, clean.x_test, clean.y_test),
        GradientDescent(schedules.linear(1.0, steps)),
        jax.random.key(1),
        checks.integer("particles", particles, low=2),
        checks.integer("repeats", repeats, low=2),
        checks.integer("budget", budget, low=2 * CHARGE),
        checks.integer("grid", grid, low=2),
    )


def perceptron(point) -> limits.MLP:
    """One hidden layer at a point of the search: its `rate_scale` is the peak, as the schedule's own is 1."""
    rate, richness = np.exp(point) if isinstance(point, np.ndarray) else jnp.exp(point)
    return limits.MLP(1, "tanh", richness=richness, rate_scale=rate)


def conduct(study: Study, sizes: tuple[int, ...], seeds: int, key: jax.Array) -> Searches:
    """Every method on the same objective, then networks at what they chose."""
    watch, keys = Stopwatch(), size_keys(key, sizes)
    middle, objective = (LOW + HIGH) / 2, _Taped(_Tape())
    best, path = descend(study, middle, objective)
    # compiled before the clock starts, as the descent is by now
    evaluate(study, middle)
    draws = np.random.default_rng(0).uniform(LOW, HIGH, (study.repeats, study.budget, 2))
    searches, spent = {}, {}
    for name, search in _methods(study, draws, objective).items():
        start = time.perf_counter()
        searches[name] = search()
        spent[name] = time.perf_counter() - start
    cost = CHARGE * len(path.values)
    # the repeat that is the median one by then stands for its method
    chosen = {
        name: sorted(runs, key=lambda run: run.best[min(cost, len(run.best)) - 1])[len(runs) // 2].at(cost)
        for name, runs in searches.items()
        if name not in ("theory", "grid")
    }
    rivals = {"middle": middle} | chosen
    watch.lap("theory")
    against = {name: (perceptron(point), study.protocol) for name, point in rivals.items()}
    options = {"samples": 4 * study.particles, "keep": None}
    proofs = {size: verify(best, against, size=size, seeds=seeds, key=keys[size], **options) for size in sizes}
    watch.lap("finite")
    lowest = min(np.min(run.values) for runs in [*searches.values(), [path]] for run in runs)
    last = proofs[sizes[-1]]
    return Searches(
        study,
        _dataset(searches, proofs),
        sizes,
        seeds,
        _claims(searches, lowest, best, last),
        agreement={f"gain over {name}": _gap(last, name) for name in rivals},
        measured=_numbers(searches, lowest, best, path, proofs, spent),
        seconds=watch.seconds,
        key=key_name(key),
        searches=searches | {"theory": [path, *searches["theory"]]},
        optimum=best,
        proofs=proofs,
    )


def descend(study: Study, start: np.ndarray, objective: Any) -> tuple[Optimum, Search]:
    """`optimise` from a point, and what it looked at, which the objective, a `_Taped`, has recorded."""
    best = optimise(
        perceptron(start),
        study.task,
        study.protocol,
        over=OVER,
        objective=objective,
        bounds={**BOX},
        # what is searched is then exactly what the others see; no schedule in the box makes training unstable
        barrier=False,
        new_keys=0,
        key=study.key,
        max_evaluations=study.budget // CHARGE,
        tolerance=1e-3,
        **study.options,
    )
    return best, objective.tape.take()


def bayesian(study: Study, seed: int) -> Search:
    """The tree-structured Parzen estimator of Optuna."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    points, values = [], []

    def loss(trial):
        points.append([trial.suggest_float(name, *ends) for name, *ends in zip(OVER, LOW, HIGH, strict=True)])
        values.append(evaluate(study, points[-1]))
        return values[-1]

    chosen = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    chosen.optimize(loss, n_trials=study.budget)
    return Search(np.asarray(points), np.asarray(values))


def evaluate(study: Study, point) -> float:
    """The objective at a point; the compiled program is the same for all of them."""
    with double():
        return float(np.nan_to_num(_loss(as_float(np.asarray(point)), as_float(study)), nan=1e30, posinf=1e30))


@eqx.filter_jit
def _loss(point, study: Study):
    theory = perceptron(point).solve(study.task, study.protocol, key=study.key, throw=False, **study.options)
    return objectives.final_test_loss(theory)


def _methods(study: Study, draws: np.ndarray, objective: _Taped) -> dict[str, Any]:
    """Methods by name, each a function that gives its repeats."""
    tried = lambda points: Search(points, np.asarray([evaluate(study, point) for point in points]))  # noqa: E731
    axes = [np.linspace(low, high, study.grid) for low, high in zip(LOW, HIGH, strict=True)]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    methods = {
        "theory": lambda: [descend(study, points[0], objective)[1] for points in draws],
        "random": lambda: [tried(points) for points in draws],
        "grid": lambda: [tried(lattice)],
    }
    if importlib.util.find_spec("optuna") is None:
        print("Bayesian search is left out: it needs optuna (pip install 'limitax[bench]').")
        return methods
    return methods | {"bayesian": lambda: [bayesian(study, seed) for seed in range(study.repeats)]}


def _gap(proof: Verification, rival: str) -> float:
    """How far the relative difference of networks is from the theory's, in standard errors."""
    promised = proof.expected["best"] / proof.expected[rival] - 1
    return abs(proof.relative_difference[rival] - promised) / proof.relative_error[rival]


def _claims(searches, lowest: float, best: Optimum, proof: Verification) -> dict[str, Claim]:
    ends = np.array([np.min(run.values) for run in searches["theory"]])
    level = lowest * (1 + LEVELS[1])
    ratio = _typical(searches["random"], level) / _typical(searches["theory"], level)
    gain = -proof.relative_difference["middle"] / proof.relative_error["middle"]
    return {
        "value found from the middle of the box over the lowest known": Claim(best.value / lowest, high=1 + LEVELS[1]),
        "share of random starts from which descent ends within 1 %": Claim(
            float(np.mean(ends <= lowest * (1 + LEVELS[0]))), low=0.5
        ),
        "bounds that the optimum touches": Claim(
            sum(bool(np.any(touched)) for touched in best.at_bound.values()), high=0
        ),
        "solutions of random search to 0.1 %, over those of descent": Claim(ratio, low=1.0),
        "gain of networks over the middle of the box, standard errors": Claim(gain, low=CLEAR),
    }


def _typical(runs: list[Search], level: float) -> float:
    """Median number of solutions to a level; a run that has not come there counts with all that it spent."""
    return float(np.median([min(run.reach(level), run.charge * len(run.values)) for run in runs]))


def _numbers(searches, lowest: float, best: Optimum, path: Search, proofs, spent) -> dict[str, Any]:
    cost = CHARGE * len(path.values)
    by_method = {}
    for name, runs in searches.items():
        ends = np.array([run.best[-1] for run in runs])
        then = np.array([run.best[max(0, min(cost // run.charge, len(run.best)) - 1)] for run in runs])
        by_method[name] = {
            "evaluations": float(np.mean([len(run.values) for run in runs])),
            "solutions_charged": float(np.mean([run.charge * len(run.values) for run in runs])),
            "excess": {"mean": float(np.mean(ends)) / lowest - 1, "spread": float(np.std(ends)) / lowest},
            "excess_at_equal_cost": {"mean": float(np.mean(then)) / lowest - 1, "spread": float(np.std(then)) / lowest},
            "reach": {f"{x:g}": [run.reach(lowest * (1 + x)) for run in runs] for x in LEVELS},
            "seconds": spent[name],
        }
    return {
        "lowest": lowest,
        "chosen": {name: float(value) for name, value in best.found.items()},
        "value": best.value,
        "status": best.status,
        "stationarity": best.stationarity,
        "evaluations": best.evaluations,
        "cost": cost,
        "methods": by_method | ({} if "bayesian" in searches else {"bayesian": "left out: optuna is not installed"}),
        "networks": {str(size): proof.summary() for size, proof in proofs.items()},
    }


def _dataset(searches: dict[str, list[Search]], proofs: dict[int, Verification]):
    import xarray

    result = {}
    for name, runs in searches.items():
        # descents differ in length; the rest of a shorter one is nan
        length = max(len(run.values) for run in runs)
        rows = [np.pad(run.values, (0, length - len(run.values)), constant_values=np.nan) for run in runs]
        result[f"{name}_value"] = ((f"{name}_repeat", f"{name}_evaluation"), np.stack(rows))
        for i, control in enumerate(OVER):
            rows = [
                np.pad(np.exp(run.points[:, i]), (0, length - len(run.values)), constant_values=np.nan) for run in runs
            ]
            result[f"{name}_{control}"] = ((f"{name}_repeat", f"{name}_evaluation"), np.stack(rows))
    names = list(next(iter(proofs.values())).runs)
    losses = [[proof.losses[name] for name in names] for proof in proofs.values()]
    result["final_loss"] = (("size", "method", "seed"), np.asarray(losses))
    return xarray.Dataset(result, coords={"size": list(proofs), "method": names})
