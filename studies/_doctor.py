"""A self-check: one number a family against its closed form, on the devices and in the precision that are at hand."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from .. import limits
from ..limits import spectrum
from ..problems import GradientDescent, OnlineSGD, tasks
from ..solvers import double
from ._compare import AGREEMENT, compare
from ._optimise import optimise


@dataclass(frozen=True)
class Check:
    """A number of this installation, what it should be, and by how much it may be off."""

    name: str
    value: float
    expected: float
    tolerance: float

    @property
    def passes(self) -> bool:
        """Whether it is within its tolerance; what is not a number is not."""
        return abs(self.value - self.expected) <= self.tolerance


def checks() -> dict[str, Callable[[], Check]]:
    """The checks by the name of what they look at; each is made when called."""
    found = {
        "double precision": _double,
        "wide perceptron, exact": _linear_perceptron,
        "wide perceptron, Monte Carlo": _erf_perceptron,
        "SGD on power laws": _one_mode,
        "random features, finite": _finite_features,
        "deep linear network": _initial_loss,
        "spectrum": _bulk_edge,
        "optimal control": _best_rates,
        "networks": _networks,
    }
    return {name: lambda name=name, check=check: Check(name, *check()) for name, check in found.items()}


def _double():
    with double():
        third = float(jnp.asarray(1.0) / 3)
    return third, 1 / 3, 1e-16


def _linear_perceptron():
    """One linear unit of data: the sum and the difference of weight and readout are multiplied at every step."""
    richness, rate, steps, target = 1.5, 0.2, 6, 1.0
    theory = limits.MLP(1, "identity", richness).solve(_one_sample(target), GradientDescent(rate, steps=steps))
    plus, minus, f = 1.0, 1.0, 0.0
    for _ in range(steps):
        c = rate * richness * (target - f)
        plus, minus = plus * (1 + c) ** 2, minus * (1 - c) ** 2
        f = (plus - minus) / (2 * richness)
    return float(theory.predictions[-1, 0]), f, 1e-12


def _erf_perceptron():
    """The first prediction over a small rate: the tangent kernel of the start, which is known for this activation."""
    rate = 1e-4
    theory = limits.MLP(1, "erf").solve(_one_sample(1.0), GradientDescent(rate, steps=1), samples=20_000)
    kernel = 2 / math.pi * math.asin(2 / 3) + 4 / (math.pi * math.sqrt(5))
    error = float(theory.errors()["predictions"][1, 0])
    return float(theory.predictions[1, 0]) / rate, kernel, 5 * error / rate


def _one_mode():
    rate, steps = 0.3, 50
    theory = limits.RandomFeatures().solve(tasks.power_law(1, 1.5, 2.5), OnlineSGD(rate, batch_size=2.0, steps=steps))
    return float(theory.test_loss[-1]), (1 - 2 * rate + 2 * rate**2) ** steps, 1e-14


def _finite_features():
    """Twice the same equations: marched in time, and on a contour."""
    limit, task = limits.RandomFeatures(20), tasks.power_law(60, 1.5, 2.0, samples=30)
    solve = lambda method: limit.solve(task, GradientDescent(0.3, steps=20), method=method).test_loss[-1]  # noqa: E731
    return float(solve("contour")), float(solve("time")), 1e-10


def _initial_loss():
    """A random function of known size stands on top of the teacher."""
    limit = limits.DeepLinear(2, 2.0, richness=1.2, init_scale=0.8)
    theory = limit.solve(tasks.isotropic(2.0), GradientDescent(0.01, steps=1))
    return float(theory.test_loss[0]), (1 + 0.8**4 / (2 * 1.2**2)) / 2, 1e-14


def _bulk_edge():
    limit = limits.DeepLinear(1, 4.0, init_scale=0.5)
    theory = limit.solve(tasks.isotropic(2.0), GradientDescent(0.01, steps=1))
    return float(spectrum(limit, theory, layer=0).bulk_edge[0]), 0.5 * (1 + 2.0), 1e-14


def _best_rates():
    """The best rates of one mode are greedy."""
    best = optimise(
        limits.RandomFeatures(), tasks.power_law(1, 1.5, 2.5, 1.0), OnlineSGD(0.1, steps=20), over="learning_rate"
    )
    return best.certificates["one_mode"], 0.0, 1e-12


def _networks():
    """The distance of networks, extrapolated to infinite width, from the theory, in standard errors."""
    task = tasks.sphere(jax.random.key(0), samples=2, dim=3)
    report = compare(limits.MLP(1, "identity"), task, GradientDescent(0.3, steps=5), sizes=(32, 64, 128), seeds=64)
    return float(report.agreement["predictions"]), 0.0, AGREEMENT


def _one_sample(target: float):
    return tasks.from_arrays(np.ones((1, 1)), np.full(1, target))
