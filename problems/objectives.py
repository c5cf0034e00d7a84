"""Objectives: what is made small. Any function of a trajectory may serve as one; the others look at the problem too."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from . import _checks as checks
from ._resolver import replace
from ._trajectory import Trajectory


def final_loss(trajectory: Trajectory):
    """Test loss after the last update if there is a test side, else the training loss."""
    return _side(trajectory)[..., -1]


def final_test_loss(trajectory: Trajectory):
    """Test loss after the last update. **Raises:** `ValueError` where the task has no test side."""
    return _test(trajectory)[..., -1]


def final_train_loss(trajectory: Trajectory):
    """Training loss after the last update. **Raises:** `ValueError` where the model has none."""
    if trajectory.train_loss is None:
        raise ValueError("objective final_train_loss needs a training loss; this model has a test loss only.")
    return trajectory.train_loss[..., -1]


def area_under_curve(trajectory: Trajectory):
    """Mean over all times of the test loss if there is a test side, else of the training loss."""
    return jnp.mean(_side(trajectory), axis=-1)


class AbstractObjective(eqx.Module):
    """An objective that needs more than one trajectory, or more than a trajectory."""

    @abc.abstractmethod
    def __call__(self, solve: Callable[..., Trajectory], limit, task, protocol) -> Any:
        """A number above 0; `solve(limit, task, protocol)` gives the trajectory."""


def evaluate(objective: Callable, solve: Callable[..., Trajectory], limit, task, protocol) -> Any:
    """The value of an objective of either kind."""
    if isinstance(objective, AbstractObjective):
        return objective(solve, limit, task, protocol)
    return objective(solve(limit, task, protocol))


def name_of(objective: Callable) -> str:
    """Its name, with that of the objective inside: `"stable(robust(final_loss))"`."""
    name = getattr(objective, "__name__", type(objective).__name__)
    inside = getattr(objective, "objective", None)
    return name if inside is None else f"{name}({name_of(inside)})"


class robust(AbstractObjective):
    r"""The mean of `objective` over learning rates $s\,\eta_t$ with `scales` s: a schedule that is good only for itself
    is not good. One solution for each scale.

    Past the edge of stability a theory can be finite where its networks are not; neighbours of such a schedule diverge.
    """

    objective: Callable
    scales: Any

    def __init__(self, objective: Callable = final_loss, scales=(0.8, 0.9, 1.0, 1.1, 1.2)):
        self.objective = _function("objective", objective)
        self.scales = checks.array("scales", scales, ndim=1, above=0.0)

    def __call__(self, solve, limit, task, protocol):
        def scaled(scale):
            nearby = replace(protocol, "learning_rate", scale * protocol.learning_rate)
            return evaluate(self.objective, solve, limit, task, nearby)

        return jnp.mean(jax.lax.map(scaled, jnp.asarray(self.scales)))


class steps_to_target(AbstractObjective):
    r"""The number of steps with a loss above `level`, smoothed: $\sum_t \sigma(\frac1w \log\frac{L_t}{\ell})$ with
    the `width` $w$, over the times before each update; of the test loss if there is a test side."""

    level: Any
    width: Any

    def __init__(self, level, width=0.1):
        self.level = checks.number("level", level, above=0.0)
        self.width = checks.number("width", width, above=0.0)

    def __call__(self, solve, limit, task, protocol):
        return jnp.sum(self._above(solve(limit, task, protocol)), axis=-1)

    def _above(self, trajectory):
        losses = _side(trajectory)[..., :-1]
        return jax.nn.sigmoid((jnp.log(losses) - jnp.log(self.level)) / self.width)


class samples_to_target(steps_to_target):
    """The same with every step counted by its batch: `batch_size`, or `batch_ratio` samples per input dimension."""

    def __call__(self, solve, limit, task, protocol):
        return jnp.sum(_batch("samples_to_target", protocol) * self._above(solve(limit, task, protocol)), axis=-1)


class priced(AbstractObjective):
    r"""`objective` plus `price` $\mu$ for every sample, $J + \mu \sum_t B_t$, which bounds batches. Samples are
    counted as `samples_to_target` counts them.

    At an optimum over batches every step gains by its last sample what that costs, $\partial J/\partial B_t = -\mu$.
    """

    objective: Callable
    price: Any

    def __init__(self, objective: Callable = final_loss, price=1e-3):
        self.objective = _function("objective", objective)
        self.price = checks.number("price", price, above=0.0)

    def __call__(self, solve, limit, task, protocol):
        samples = jnp.sum(jnp.asarray(_batch("priced", protocol)), axis=-1)
        return evaluate(self.objective, solve, limit, task, protocol) + self.price * samples


class outlier(AbstractObjective):
    r"""$e^{-s}$, or $e^{s}$ with `large=False`, of the largest singular value $s$ of a hidden weight matrix, see
    `lx.spectrum`, after `step` updates. Where no outlier has left the bulk, its (negative) margin is added to $s$, so
    that the search feels its way to the escape.
    """

    layer: int = eqx.field(static=True)
    step: int = eqx.field(static=True)
    large: bool = eqx.field(static=True)

    def __init__(self, layer: int, step: int = -1, large: bool = True):
        self.layer = checks.integer("layer", layer, low=0)
        self.step = checks.integer("step", step, low=-1)
        self.large = checks.flag("large", large)

    def __call__(self, solve, limit, task, protocol):
        if self.step > protocol.steps:
            raise ValueError(f"step must be at most {protocol.steps}, the number of steps; it is {self.step}.")
        spectrum = limit.spectrum(solve(limit, task, protocol), self.layer, count=1)
        size = (spectrum.largest + jnp.minimum(spectrum.margin, 0.0))[self.step]
        return jnp.exp(-size if self.large else size)


class _Penalised(AbstractObjective):
    """An objective times the exponential of a penalty."""

    objective: eqx.AbstractVar[Callable]

    @abc.abstractmethod
    def penalty(self, trajectory, limit, task, protocol) -> Any:
        """At least 0, and 0 where nothing is violated."""

    def __call__(self, solve, limit, task, protocol):
        trajectory = solve(limit, task, protocol)

        def remembered(*problem):
            same = all(a is b for a, b in zip(problem, (limit, task, protocol), strict=True))
            return trajectory if same else solve(*problem)

        value = evaluate(self.objective, remembered, limit, task, protocol)
        return value * jnp.exp(self.penalty(trajectory, limit, task, protocol))


class below_sharpness(_Penalised):
    r"""`objective` with $\eta_t\lambda_{\max}(t)/2(1+\beta_t)$, the rate over that at the edge of stability, kept under
    `bound` at every step, by a factor $\exp w \sum_t (\text{excess}_t / \text{bound})_+^2$ with `weight` $w$.

    The excess at the optimum is of order $1/w$. For limits with `stability`.
    """

    objective: Callable
    bound: Any
    weight: Any

    def __init__(self, objective: Callable = final_loss, bound=1.0, weight=1e3):
        self.objective = _function("objective", objective)
        self.bound = checks.number("bound", bound, above=0.0)
        self.weight = checks.number("weight", weight, above=0.0)

    def penalty(self, trajectory, limit, task, protocol):
        stability = limit.stability(task, protocol, trajectory)
        return self.weight * jnp.sum(jnp.maximum(stability / self.bound - 1, 0) ** 2)


class stable(_Penalised):
    r"""`objective` with a barrier against a training loss that grows: a factor
    $\exp w \sum_t (\log\frac{L_{t+1}}{L_t} - s)_+^2$ with `weight` $w$ and `slack` $s$; no barrier for models without
    a training loss."""

    objective: Callable
    slack: Any
    weight: Any

    def __init__(self, objective: Callable = final_loss, slack=0.02, weight=10.0):
        self.objective = _function("objective", objective)
        self.slack = checks.number("slack", slack, low=0.0)
        self.weight = checks.number("weight", weight, above=0.0)

    def penalty(self, trajectory, limit, task, protocol):
        if trajectory.train_loss is None:
            return jnp.zeros(())
        growth = jnp.diff(jnp.log(trajectory.train_loss), axis=-1)
        return self.weight * jnp.sum(jnp.maximum(growth - self.slack, 0) ** 2, axis=-1)


def _batch(name: str, protocol):
    batch = getattr(protocol, "batch_size", None)
    batch = getattr(protocol, "batch_ratio", None) if batch is None else batch
    if batch is None:
        raise ValueError(f"{name} needs a protocol with batches; {type(protocol).__name__} has none.")
    return batch


def _side(trajectory: Trajectory):
    return trajectory.train_loss if trajectory.test_loss is None else trajectory.test_loss


def _test(trajectory: Trajectory):
    if trajectory.test_loss is None:
        raise ValueError("objective final_test_loss needs a task with a test side; this one has none.")
    return trajectory.test_loss


def _function(name: str, value: Any) -> Callable:
    if not callable(value):
        raise TypeError(f"{name} must be a function of a trajectory; {checks.shown(value)} was given.")
    return value
