"""Linear models on given features, trained by minibatch SGD: the mean over runs, exactly."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from ..nets import Ensemble
from ..nets import LinearModel as Network
from ..nets._linear_model import check_problem
from ..problems import (
    CONVERGED,
    DIVERGED,
    Dataset,
    GradientDescent,
    MinibatchSGD,
    OnlineSGD,
    Trajectory,
    check,
    first_divergence,
)
from ..problems import _checks as checks
from ..solvers import SampleDrive, Samples, as_float, double, in_precision, sample_moments, to_host
from ._base import AbstractLimit
from ._memory import Cost


class LinearModel(AbstractLimit):
    r"""$f(x) = \theta\cdot x$ from $\theta = 0$ on the features of a data set, by SGD on half the mean square.

    The first and second moments of $\theta$ over the choice of batches obey a closed recursion, see
    `solvers.sample_moments`: whatever the features and targets are, the mean over runs is exact. A data set of many
    samples that stands for a distribution is a pool: SGD that draws from it with replacement is one-pass SGD on it.
    For large structured spectra with Gaussian statistics, `RandomFeatures` costs one number a mode instead of a matrix;
    `tasks.gaussian_equivalent` makes its task from a data set.

    A finite network is one run; there is no size.

    ??? cite "Source"
        Learning Curves for SGD on Structured Features, arXiv 2106.02713.
    """

    size_name: ClassVar[str] = "runs"

    def solve(self, task, protocol, *, key=None, memory_limit=None, throw: bool = True) -> Trajectory:
        r"""The expected learning curve.

        **Arguments:**

        - `task`: a fixed data set with one output, `x` `[samples, features]`.
        - `protocol`: `GradientDescent`; `MinibatchSGD`, with or without replacement; or `OnlineSGD` with a
          `batch_size`, for which the data set is a pool.
        - `key`: not used; nothing is random.
        - `memory_limit`: bytes that may be used; by default what is free.
        - `throw`: whether divergence raises.

        **Returns:**

        A record with `train_loss` `[steps + 1]`, the mean square residual over the data set, and `test_loss` where
        there are test targets. `loss_convention` is `"mean_square"`. It is computed in float64.

        **Raises:** `DivergedError`; `MemoryError` before any work.
        """
        check_problem(task, protocol)
        checks.flag("throw", throw)
        self.cost(task, protocol).check("LinearModel.solve", memory_limit)
        with double():
            solution = _solve(task, protocol, _has_momentum(protocol))
        losses, diverged, code = to_host(solution)
        trajectory = Trajectory(**losses, status_code=code, diverged_step=diverged, loss_convention="mean_square")
        return check(trajectory) if throw else trajectory

    def cost(self, task, protocol, **options) -> Cost:
        """Time as steps times features² times samples plus features. See `AbstractLimit.cost`."""
        (samples, features), steps = task.x.shape, protocol.steps
        tests = task.x_test.shape[0] if task.has_test else 0
        products = 5 + _has_momentum(protocol)
        return Cost(
            {"second moments": 8.0 * features * (12 * features + (1 + steps**0.5) * (features + samples))},
            2.0 * steps * features**2 * (products * features + 3 * samples + tests),
            {"second moments": "use fewer features"},
            f"{features} features, {samples} samples, steps={steps}",
        )

    def finite(self, task: Any, *, size: int = 1, key=None) -> Network:
        """One network, whose weights are zero."""
        checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays)")
        return Network.init(self, task.dim)

    def ensemble(self, task: Any, *, size: int = 1, seeds: int, key=None) -> Ensemble:
        """`seeds` networks, which will differ by the batches that they see."""
        checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays)")
        return Network.ensemble(self, task.dim, seeds)

    def exact_at_any_size(self, task, protocol) -> bool:
        """True: only the number of runs matters."""
        return True


def _has_momentum(protocol) -> bool:
    momentum = checks.concrete(protocol.momentum)
    return momentum is None or bool(momentum.any())


@eqx.filter_jit
def _solve(task, protocol, momentum: bool):
    def curves(floats, _):
        task, protocol = floats
        train = Samples(task.x, task.y)
        test = Samples(task.x_test, task.y_test) if task.has_test and task.y_test is not None else None
        reference = jax.lax.stop_gradient(jnp.linalg.pinv(task.x, rtol=1e-10) @ task.y)
        return sample_moments(train, test, reference, _drive(protocol, task.x.shape[0]), momentum=momentum)

    train, test = in_precision(curves, "double")(as_float((task, protocol)), None)
    diverged = first_divergence(train).astype(jnp.int32)
    losses = {"train_loss": train} if test is None else {"train_loss": train, "test_loss": test}
    return losses, diverged, jnp.where(diverged >= 0, jnp.int32(DIVERGED), jnp.int32(CONVERGED))


def _drive(protocol: Any, samples: int) -> SampleDrive:
    rate = protocol.learning_rate
    nothing = jnp.zeros_like(rate)
    if isinstance(protocol, GradientDescent):
        return SampleDrive(nothing, rate, protocol.momentum, protocol.weight_decay, nothing)
    noise = 1 / protocol.batch_size
    if isinstance(protocol, OnlineSGD):
        return SampleDrive(protocol.extra_gradient, rate, protocol.momentum, nothing, noise)
    if isinstance(protocol, MinibatchSGD) and not protocol.replace:
        noise = (noise - 1 / samples) / (1 - 1 / max(samples, 2))
    return SampleDrive(nothing, rate, protocol.momentum, protocol.weight_decay, noise)
