"""Random features with one-pass SGD on structured data: the exact theory of the learning curve and its control."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..nets import Ensemble, LinearRegression
from ..problems import (
    CONVERGED,
    DIVERGED,
    Gaussian,
    OnlineSGD,
    PowerLaw,
    Trajectory,
    check,
    first_divergence,
    objectives,
)
from ..problems import _checks as checks
from ..solvers import (
    ADJOINTS,
    Drive,
    ModeBins,
    Sweeps,
    as_float,
    context,
    coordinate_sweeps,
    double,
    exact_bins,
    power_law_bins,
    second_moment,
    stability_bound,
    to_host,
)
from ._base import AbstractLimit


class RandomFeatures(AbstractLimit):
    r"""One-pass SGD on Gaussian features: $x_k \sim N(0, \lambda_k)$, $y = \sum_k w_k x_k + \sigma\epsilon$.

    The mean over all runs of the excess risk $L = \sum_k \lambda_k E(\theta_k - w_k)^2$ (no $\tfrac12$, label noise
    not counted) follows an exact recursion for three second moments a mode; see `solvers.second_moment`. It holds for
    any schedule of rate, momentum and batch size, and costs time proportional to steps times bins: a power law of
    $10^{12}$ modes is 268 numbers.

    **Arguments:**

    - `features`: number of random features; `None` for infinitely many, the only choice at present.

    ??? cite "Source"
        Learning Curves for SGD on Structured Features, arXiv 2106.02713.
    """

    features: Any

    def __init__(self, features=None):
        if features is not None:
            raise ValueError("features must be None (infinitely many) at present; a finite number was given.")
        self.features = features

    def solve(
        self, task, protocol, *, key=None, precision: str = "double", adjoint: str = "blocked", throw: bool = True
    ) -> Trajectory:
        r"""The expected learning curve.

        **Arguments:**

        - `task`: `power_law` or `gaussian`; their `samples` say nothing here, as every sample is seen once.
        - `protocol`: `OnlineSGD` with a `batch_size`.
        - `key`: not used; nothing is random.
        - `precision`: `"double"`, or `"single"` (relative error about 1e-5 over a thousand steps).
        - `adjoint`: how derivatives are taken: `"blocked"` (memory of about $4\sqrt T$ steps), `"stored"` (of all
          steps), `"direct"` (also forward mode).
        - `throw`: whether divergence raises.

        **Returns:**

        A record with `test_loss` `[steps + 1]`, the excess risk, `loss_convention` `"mean_square"`. There is no
        `train_loss`: there is no training set. The loss on the next batch has mean `test_loss + noise**2`.

        **Raises:** `DivergedError`, with the largest stable constant rate where there is no momentum.
        """
        _check_problem(task, protocol)
        checks.choice("precision", precision, ("double", "single"))
        checks.choice("adjoint", adjoint, ADJOINTS)
        momentum = _has_momentum(protocol)
        with context(precision):
            solution = _solve(task, protocol, momentum, adjoint)
        loss, diverged, code = to_host(solution)
        trajectory = Trajectory(
            test_loss=loss,
            status_code=code,
            diverged_step=diverged,
            loss_convention="mean_square",
            attributes=(("precision", precision), ("adjoint", adjoint)),
        )
        if throw:
            bound = None
            if not momentum and not checks.is_traced((task, protocol)):
                bound = float(self.stable_rate(task, protocol.batch_size[0]))
            check(trajectory, bound)
        return trajectory

    def stable_rate(self, task, batch_size=1.0):
        """The largest constant rate at which SGD without momentum is stable; see `solvers.stability_bound`."""
        with double():
            bound = _stable_rate(task, batch_size)
        return to_host(bound)

    def finite(self, task, *, size: int = 1, key=None) -> LinearRegression:
        """A linear regression on all modes of the task; the theory is exact, hence the same network at every `size`.

        **Raises:** `ValueError` for more modes than a network can hold.
        """
        checks.integer("size", size)
        return LinearRegression.init(self, task)

    def ensemble(self, task, *, size: int = 1, seeds: int, key=None) -> Ensemble:
        """`seeds` networks as `finite` makes them. They start at zero, and differ by the samples that they will see."""
        checks.integer("size", size)
        return LinearRegression.ensemble(self, task, seeds)

    def exact_at_any_size(self, task, protocol) -> bool:
        """True: the mean over runs is the theory, so that only their number matters."""
        return True

    def coordinate_sweeps(
        self,
        task,
        protocol,
        *,
        over: tuple[str, ...],
        objective: Callable,
        upper: float = np.inf,
        max_cycles: int = 200,
        tolerance: float = 1e-10,
    ) -> Sweeps:
        """The best rates by exact minimisation over one at a time; see `solvers.coordinate_sweeps`.

        **Raises:** `NotImplementedError`, with the reason, where the problem is not a parabola in each control.
        """
        _check_problem(task, protocol)
        if reason := _why_not_convex(protocol, over, objective):
            raise NotImplementedError(reason)
        with double():
            sweeps = _sweep(task, protocol, upper, max_cycles, tolerance)
        return to_host(sweeps)

    def certificates(self, task, protocol, *, over: tuple[str, ...], objective: Callable) -> dict[str, float]:
        r"""What a `learning_rate` that minimises the final loss must satisfy, as far as it applies to this problem.

        - `kernel_law`: relative spread of $\eta_t \sqrt{K(s_t)}$ over $0.2 < t/T < 0.95$, with the clock $s_t =
          \sum_{t' > t} \eta_{t'}$ that remains and $K(s) = \sum \lambda^2 e^{-2\lambda s}$; it vanishes for long
          schedules when label noise dominates.
        - `loss_over_noise`: largest $L / \sigma^2$ there; the law applies where this is small.
        - `one_mode`: largest relative distance from the closed form $\eta_t \lambda = L_t / ((1 + 2/B) L_t +
          \sigma^2/B)$, for one mode.

        Empty for other controls and objectives, and with momentum or an extra gradient: none of them is derived there.

        ??? cite "Source"
            Theory of Optimal Learning Rate Schedules and Scaling Laws for a Random Feature Model, arXiv 2602.04774.
        """
        if _why_not_convex(protocol, over, objective):
            return {}
        with double():
            found = _certificates(task, protocol)
        return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def spectrum(task) -> ModeBins:
    """The bins of a task, in the float type of the current precision context."""
    if isinstance(task, Gaussian):
        return exact_bins(*as_float((task.eigenvalues, task.teacher)))
    # sums over 1e12 modes leave the range of single precision before they are divided
    with double():
        bins = power_law_bins(task.modes, *as_float((task.capacity, task.decay)))
    return as_float(bins)


def _drive(protocol: OnlineSGD) -> Drive:
    e1, e2, beta, batch_size = as_float(
        (protocol.extra_gradient, protocol.learning_rate, protocol.momentum, protocol.batch_size)
    )
    return Drive(e1, e2, beta, 1 / batch_size)


def _noise_power(task):
    return as_float(task.noise) ** 2


@eqx.filter_jit
def _solve(task, protocol, momentum: bool, adjoint: str):
    loss = second_moment(spectrum(task), _noise_power(task), _drive(protocol), momentum=momentum, adjoint=adjoint)
    diverged = first_divergence(loss).astype(jnp.int32)
    return loss, diverged, jnp.where(diverged >= 0, jnp.int32(DIVERGED), jnp.int32(CONVERGED))


@eqx.filter_jit
def _stable_rate(task, batch_size):
    return stability_bound(spectrum(task), as_float(batch_size))


@eqx.filter_jit
def _sweep(task, protocol, upper, max_cycles: int, tolerance):
    drive = _drive(protocol)
    limits = {"max_cycles": max_cycles, "tolerance": as_float(tolerance)}
    return coordinate_sweeps(
        spectrum(task), _noise_power(task), drive.inverse_batch, drive.e2, as_float(upper), **limits
    )


@eqx.filter_jit
def _certificates(task, protocol):
    bins, noise_power, drive = spectrum(task), _noise_power(task), _drive(protocol)
    lam, eta = bins.eigenvalues, drive.e2
    loss = second_moment(bins, noise_power, drive, momentum=False)[:-1]
    found = {}
    if lam.size == 1:
        best = loss / ((1 + 2 * drive.inverse_batch) * loss + drive.inverse_batch * noise_power) / lam
        found["one_mode"] = jnp.max(jnp.abs(eta / best - 1))
    window = slice(int(np.ceil(0.2 * eta.size)), int(0.95 * eta.size) + 1)
    remaining = jnp.cumsum(eta[::-1])[::-1] - eta
    kernel = jax.lax.map(lambda s: jnp.sum(bins.weights * lam * jnp.exp(-2 * lam * s)), remaining[window])
    law = eta[window] * jnp.sqrt(kernel)
    found["kernel_law"] = jnp.std(law) / jnp.mean(law)
    found["loss_over_noise"] = jnp.max(loss[window]) / noise_power
    return found


def _has_momentum(protocol: OnlineSGD) -> bool:
    """Whether the full recursion is needed; a traced momentum may be anything, and has a derivative at zero too."""
    momentum = checks.concrete(protocol.momentum)
    return momentum is None or bool(np.any(momentum))


def _why_not_convex(protocol: OnlineSGD, over: tuple[str, ...], objective) -> str:
    """Why the objective is no parabola in each rate; empty where it is one."""
    if over != ("learning_rate",):
        return f"sweeps set learning_rate alone; over is {', '.join(over)}."
    if objective not in (objectives.final_loss, objectives.final_test_loss):
        return "sweeps minimise the final loss; another objective was given."
    if _has_momentum(protocol) or np.any(protocol.extra_gradient):
        return "sweeps need SGD without momentum and without extra_gradient."
    return ""


def _check_problem(task, protocol) -> None:
    checks.instance("task", task, (PowerLaw, Gaussian), "power_law or gaussian")
    allowed = "OnlineSGD for RandomFeatures, with fresh samples at every step (reused samples are not solved yet)"
    checks.instance("protocol", protocol, OnlineSGD, allowed)
    if protocol.batch_size is None:
        raise ValueError(
            "batch_ratio is for limits of many dimensions; RandomFeatures takes batch_size, samples a step."
        )
