"""Protocols: how a task is learned. Every schedule is an array with one value a step."""

from typing import Any

import equinox as eqx
import numpy as np

from . import _checks as checks

_RATE = {"low": 0.0}
_MOMENTUM = {"low": 0.0, "below": 1.0}


class AbstractProtocol(eqx.Module):
    """An optimiser with its schedules."""


class AbstractSteps(AbstractProtocol):
    """A protocol that takes discrete steps; `learning_rate` has shape `[steps]` and fixes their number."""

    learning_rate: eqx.AbstractVar[Any]

    @property
    def steps(self) -> int:
        """Number of updates; a trajectory has `steps + 1` rows."""
        return self.learning_rate.shape[-1]


class GradientDescent(AbstractSteps):
    r"""Full-batch gradient descent with heavy-ball momentum and weight decay.

    $$v \leftarrow \beta_t v + \nabla\mathcal{L}(\theta) + \lambda_t\theta, \qquad
      \theta \leftarrow \theta - \eta_t v.$$

    In a network the gradient carries the parameterisation's own rate scale (`net.learning_rate_scale`), so that
    `learning_rate` and `weight_decay` are of order one at every width.

    **Arguments:**

    - `learning_rate`: $\eta_t \ge 0$, a number or an array `[steps]`.
    - `momentum`: $\beta_t \in [0, 1)$, a number or an array `[steps]`.
    - `weight_decay`: $\lambda_t \ge 0$, a number or an array `[steps]`.
    - `steps`: needed when nothing else is an array.
    """

    learning_rate: Any
    momentum: Any
    weight_decay: Any

    def __init__(self, learning_rate, momentum=0.0, weight_decay=0.0, *, steps: int | None = None):
        _, values = checks.schedules(
            steps,
            {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay},
            {"learning_rate": _RATE, "momentum": _MOMENTUM, "weight_decay": _RATE},
        )
        self.learning_rate = values["learning_rate"]
        self.momentum = values["momentum"]
        self.weight_decay = values["weight_decay"]


class OnlineSGD(AbstractSteps):
    r"""One-pass stochastic gradient descent: every step draws fresh samples.

    With $g$ the mini-batch gradient of the half mean square,

    $$v \leftarrow \beta_t v + g, \qquad \theta \leftarrow \theta - e_t\, g - \eta_t\, v,$$

    so that plain SGD and heavy ball have $e = 0$, and Nesterov's look-ahead form is $e = \eta$ with rate $\eta\beta$.

    **Arguments:**

    - `learning_rate`: $\eta_t \ge 0$, a number or an array `[steps]`.
    - `momentum`: $\beta_t \in [0, 1)$.
    - `extra_gradient`: $e_t \ge 0$.
    - `batch_size`: fresh samples a step, at least 1 (theory takes fractions), a number or an array; 1 when neither
      size nor ratio is given.
    - `batch_ratio`: samples a step divided by the input dimension, for proportional limits; instead of `batch_size`.
    - `steps`: needed when nothing else is an array.
    """

    learning_rate: Any
    momentum: Any
    extra_gradient: Any
    batch_size: Any
    batch_ratio: Any

    def __init__(
        self,
        learning_rate,
        momentum=0.0,
        extra_gradient=0.0,
        *,
        batch_size=None,
        batch_ratio=None,
        steps: int | None = None,
    ):
        if batch_size is not None and batch_ratio is not None:
            raise ValueError("batch_size and batch_ratio were both given; give one of them.")
        if batch_size is None and batch_ratio is None:
            batch_size = 1.0
        _, values = checks.schedules(
            steps,
            {
                "learning_rate": learning_rate,
                "momentum": momentum,
                "extra_gradient": extra_gradient,
                "batch_size": batch_size,
                "batch_ratio": batch_ratio,
            },
            {
                "learning_rate": _RATE,
                "momentum": _MOMENTUM,
                "extra_gradient": _RATE,
                "batch_size": {"low": 1.0},
                "batch_ratio": {"above": 0.0},
            },
            optional=("batch_size", "batch_ratio"),
        )
        self.learning_rate = values["learning_rate"]
        self.momentum = values["momentum"]
        self.extra_gradient = values["extra_gradient"]
        self.batch_size = values["batch_size"]
        self.batch_ratio = values["batch_ratio"]


class NormalisedSGD(AbstractSteps):
    r"""One-pass stochastic gradient descent with the gradient $g$ in units of its root mean square over runs.

    $$\theta \leftarrow \theta - \eta_t\, g / \sqrt{E|g|^2}.$$

    It stands for optimisers that divide by a running mean of $g^2$. Networks that are trained together share the mean
    that normalises; a network alone has its own.

    **Arguments:**

    - `learning_rate`: $\eta_t \ge 0$, a number or an array `[steps]`; the length of a step.
    - `batch_size`: fresh samples a step, at least 1 (theory takes fractions), a number or an array.
    - `steps`: needed when nothing else is an array.

    ??? cite "Source"
        Seesaw, arXiv 2510.14717.
    """

    learning_rate: Any
    batch_size: Any

    def __init__(self, learning_rate, batch_size=1.0, *, steps: int | None = None):
        _, values = checks.schedules(
            steps,
            {"learning_rate": learning_rate, "batch_size": batch_size},
            {"learning_rate": _RATE, "batch_size": {"low": 1.0}},
        )
        self.learning_rate = values["learning_rate"]
        self.batch_size = values["batch_size"]


class MinibatchSGD(AbstractSteps):
    r"""Stochastic gradient descent on a fixed data set: each step draws `batch_size` of its samples anew.

    The update is that of `GradientDescent` with the gradient of the drawn samples. Draws of different steps are
    independent (this is not epoch shuffling, whose noise is anticorrelated and much smaller).

    **Arguments:**

    - `learning_rate`, `momentum`, `weight_decay`: as in `GradientDescent`.
    - `batch_size`: samples a step, at least 1, a number or an array `[steps]`.
    - `replace`: whether one sample may be drawn twice within a step.
    - `seed`: a whole number fixes one sequence of batches, which all perceptrons and their limit then see; by default
        every network draws its own. Theories of the mean over batches do not need it.
    - `steps`: needed when nothing else is an array.
    """

    learning_rate: Any
    batch_size: Any
    momentum: Any
    weight_decay: Any
    replace: bool = eqx.field(static=True)
    seed: int | None = eqx.field(static=True)

    def __init__(
        self,
        learning_rate,
        batch_size,
        momentum=0.0,
        weight_decay=0.0,
        *,
        replace: bool = True,
        seed: int | None = None,
        steps: int | None = None,
    ):
        _, values = checks.schedules(
            steps,
            {
                "learning_rate": learning_rate,
                "batch_size": batch_size,
                "momentum": momentum,
                "weight_decay": weight_decay,
            },
            {"learning_rate": _RATE, "batch_size": {"low": 1.0}, "momentum": _MOMENTUM, "weight_decay": _RATE},
        )
        self.learning_rate = values["learning_rate"]
        self.batch_size = values["batch_size"]
        self.momentum = values["momentum"]
        self.weight_decay = values["weight_decay"]
        self.replace = checks.flag("replace", replace)
        self.seed = None if seed is None else checks.integer("seed", seed, low=0)


class GradientFlow(AbstractProtocol):
    """Gradient flow, the limit of small steps, observed at given times.

    **Arguments:**

    - `times`: an increasing array `[times]` of non-negative times; the flow starts at time 0.
    """

    times: Any

    def __init__(self, times):
        self.times = checks.array("times", times, ndim=1, low=0.0)
        known = checks.concrete(self.times)
        if known is not None and np.any(np.diff(known) <= 0):
            later = int(np.argmax(np.diff(known) <= 0)) + 1
            raise ValueError(f"times must increase; entry {later} is {known[later]:g} after {known[later - 1]:g}.")
