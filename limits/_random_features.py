"""Linear models on random features of structured data: theory of the learning curve, and its exact control."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..nets import Ensemble
from ..nets import RandomFeatures as Network
from ..nets._random_features import check_normalised, check_problem, has_samples
from ..problems import (
    CONVERGED,
    DIVERGED,
    NOT_CONVERGED,
    GradientDescent,
    MinibatchSGD,
    NormalisedSGD,
    OnlineSGD,
    Trajectory,
    check,
    default_key,
    first_divergence,
    objectives,
)
from ..problems import _checks as checks
from ..solvers import (
    ADJOINTS,
    as_float,
    context,
    contour_nodes,
    double,
    in_precision,
    normalised_second_moment,
    second_moment,
    stability_bound,
    stationary_loss,
    to_host,
)
from ._base import AbstractLimit
from ._exact_control import Swept, sweep_momentum, sweep_rates
from ._feature_curves import METHODS, drive_of, feature_curves, inverse_features, inverse_samples, mode_bins
from ._memory import Cost

_MOST_NODES = 1000
_SHORT = 100  # steps up to which matrices over time are no dearer than a contour


class RandomFeatures(AbstractLimit):
    r"""$f(x) = \theta\cdot x$, $\theta = A^Tw/\sqrt N$, frozen $A_{ij} \sim N(0, 1)$, on $x_k \sim N(0, \lambda_k)$.

    The target is $y = \sum_k w_k x_k + \sigma\epsilon$, and what is solved for is the excess risk $L = \sum_k \lambda_k
    (\theta_k - w_k)^2$ (no $\tfrac12$, label noise not counted).

    - One-pass SGD on infinitely many features: the mean over all runs, exactly, from a recursion for three second
      moments a mode (`solvers.second_moment`). It costs time proportional to steps times bins: a power law of $10^{12}$
      modes is 268 numbers.
    - Finitely many features, or samples that are seen again: dynamical mean-field theory, as matrices over time
      (`solvers.feature_dynamics`) or, for any number of steps, as a contour integral (`solvers.two_point_loss`,
      `solvers.one_point_loss`). Relative errors at finite size are $O(1/N + 1/P)$.

    Size is the replication $s$: $s$ copies of each mode, $s$ times the features, samples and batch sizes.

    **Arguments:**

    - `features`: number of random features $N$, a real number; `None` for infinitely many.
    - `members`: number of networks with own features whose mean is the prediction.
    - `bagging`: whether each member also has its own samples.

    ??? cite "Source"
        A Dynamical Model of Neural Scaling Laws, arXiv 2402.01092; Two-Point Deterministic Equivalence for Stochastic
        Gradient Dynamics in Linear Models, arXiv 2502.05074; Learning Curves for SGD on Structured Features, arXiv
        2106.02713.
    """

    size_name: ClassVar[str] = "replication"

    features: Any
    members: int = eqx.field(static=True)
    bagging: bool = eqx.field(static=True)

    def __init__(self, features=None, members: int = 1, bagging: bool = False):
        self.features = None if features is None else checks.number("features", features, above=0.0)
        self.members = checks.integer("members", members)
        self.bagging = checks.flag("bagging", bagging)

    def solve(
        self,
        task,
        protocol,
        *,
        key=None,
        method: str | None = None,
        nodes: int | None = None,
        precision: str = "double",
        adjoint: str = "blocked",
        memory_limit=None,
        throw: bool = True,
    ) -> Trajectory:
        r"""The expected learning curve.

        **Arguments:**

        - `task`: `power_law` or `gaussian`; with `GradientDescent` they need `samples` (infinite: the population).
        - `protocol`: `OnlineSGD` with a `batch_size`; without weight decay, `GradientDescent` or `MinibatchSGD` on
          the same samples; on infinitely many features also `NormalisedSGD`.
        - `key`: not used; nothing is random.
        - `method`: `"time"`, time as steps³, or `"contour"`, time as steps, equal to 1e-8 and better; by default
          `"time"` up to 100 steps. One-pass SGD by `"contour"` has the own noise of each mode, which is dropped in
          `"time"`; ensembles of it, and `MinibatchSGD`, are solved by `"time"` only.
        - `nodes`: of the contour; by default as many as reach 1e-8.
        - `precision`, `adjoint`: of the recursion at infinitely many features, `"double"` or `"single"` (relative error
          about 1e-5 over a thousand steps), and `"blocked"` (memory of about $4\sqrt T$ steps), `"stored"` (of all
          steps) or `"direct"` (also forward mode).
        - `memory_limit`: bytes that may be used; by default what is free.
        - `throw`: whether divergence, or a contour with too few nodes, raises.

        **Returns:**

        A record with `test_loss` `[steps + 1]`, the excess risk, and, on reused samples, `train_loss`, the mean square
        residual (noise counted; not with `bagging`). `loss_convention` is `"mean_square"`. One-pass SGD has no training
        set: the loss on the next batch has mean `test_loss + noise**2`.

        **Raises:** `DivergedError`, with the largest stable constant rate where it is known; `ConvergenceError`;
        `MemoryError` before any work.
        """
        check_problem(task, protocol)
        checks.choice("precision", precision, ("double", "single"))
        checks.choice("adjoint", adjoint, ADJOINTS)
        checks.flag("throw", throw)
        if nodes is not None:
            checks.integer("nodes", nodes, low=8)
        check_normalised(self, protocol)
        cost = partial(self.cost, task, protocol, method=method, precision=precision)
        method = self._method(protocol, method)
        if method == "recursion":
            cost().check("RandomFeatures.solve", memory_limit)
            return self._by_recursion(task, protocol, precision, adjoint, throw)
        if precision == "single":
            raise ValueError('precision must be "double" with finitely many features or reused samples.')
        if method == "contour" and (reason := self._why_no_contour(protocol)):
            raise ValueError(reason)
        count = nodes or contour_nodes(protocol.steps)
        while True:
            cost(nodes=count).check("RandomFeatures.solve", memory_limit)
            with double():
                run = in_precision(lambda problem, _, count=count: feature_curves(problem, method, count), "double")
                solution = run(as_float((self, task, protocol)), ())
            losses, diverged, code, edge = to_host(solution)
            # near the edge of stability a contour has to pass in a narrow gap, which takes more nodes
            if nodes or method == "time" or count > _MOST_NODES or checks.concrete(code) != NOT_CONVERGED:
                break
            count = 2 * count
        trajectory = Trajectory(
            **losses,
            status_code=code,
            diverged_step=diverged,
            loss_convention="mean_square",
            attributes=(("method", method), ("nodes", count if method == "contour" else None)),
        )
        edge = checks.concrete(edge)
        whole = isinstance(protocol, GradientDescent) and not _has_momentum(protocol)
        bound = None if edge is None or not whole else 2 / float(edge)
        return check(trajectory, bound) if throw else trajectory

    def _by_recursion(self, task, protocol, precision, adjoint, throw) -> Trajectory:
        normalised = isinstance(protocol, NormalisedSGD)
        momentum = not normalised and _has_momentum(protocol)
        with context(precision):
            solution = _solve_normalised(task, protocol) if normalised else _solve(task, protocol, momentum, adjoint)
        loss, diverged, code, *effective = to_host(solution)
        trajectory = Trajectory(
            test_loss=loss,
            extras={"effective_rate": effective[0]} if normalised else {},
            status_code=code,
            diverged_step=diverged,
            loss_convention="mean_square",
            attributes=(("precision", precision), ("adjoint", adjoint)),
        )
        if throw:
            bound = None
            known = checks.concrete(diverged)
            plain = not momentum and not normalised and not checks.is_traced((task, protocol))
            if plain and known is not None and known >= 0:
                bound = float(self.stable_rate(task, protocol.batch_size[0]))
            check(trajectory, bound)
        return trajectory

    def cost(self, task, protocol, *, method=None, nodes=None, precision="double", **options) -> Cost:
        """Time as bins times steps for the recursion, bins times steps³ by `"time"`, nodes² times steps plus bins by
        `"contour"` (nodes without the square for one-pass SGD). See `AbstractLimit.cost`."""
        method, steps = self._method(protocol, method), protocol.steps
        with double():
            modes = jax.eval_shape(lambda: mode_bins(task)).eigenvalues.size
        if method == "recursion":
            rows = 1 + 2 * (not isinstance(protocol, NormalisedSGD) and _has_momentum(protocol))
            word = 8.0 if precision == "double" else 4.0
            bytes, flops = word * (6 * rows * modes + 6 * steps), 10.0 * rows * modes * steps
            name, remedy = "moments and the drive", "use fewer steps"
        elif method == "time":
            bytes, products = 80.0 * modes * (steps + 1) ** 2, 22 + 5 * math.ceil(math.log2(steps + 1))
            flops, name, remedy = 2.0 * products * modes * (steps + 1) ** 3, "response matrices", 'use method="contour"'
        else:
            nodes = contour_nodes(steps) if nodes is None else nodes
            name, remedy = "the contour", "use fewer nodes"
            if isinstance(protocol, OnlineSGD):
                bytes, flops = 16.0 * nodes * (2 * modes + 20), 100.0 * nodes * (steps + 10 * modes)
            else:
                bytes, flops = 16.0 * nodes * (6 * nodes + modes), 8.0 * nodes**2 * (8 * steps + 2 * modes)
        return Cost({name: bytes}, flops, {name: remedy}, f"steps={steps}, {modes} bins of modes")

    def stationary_loss(self, task):
        """Where gradient descent on the task's samples, or on the population, ends: the excess risk, a number in
        float64; see `solvers.stationary_loss`. It is infinite where features and samples are equally many.

        **Raises:** `ValueError` for a task without samples and for an ensemble.
        """
        check_problem(task, GradientDescent(0.0, steps=1))
        if self.members > 1:
            raise ValueError("members must be 1: where an ensemble ends is not solved.")
        with double():
            found = in_precision(lambda problem, _: _stationary(*problem), "double")(as_float((self, task)), ())
        return to_host(found)

    def stable_rate(self, task, batch_size=1.0):
        """The largest constant rate at which SGD without momentum is stable; see `solvers.stability_bound`."""
        with double():
            bound = _stable_rate(task, batch_size)
        return to_host(bound)

    def finite(self, task, *, size: int = 1, key=None) -> Network:
        """One network on one draw of the features, at replication `size`.

        **Raises:** `ValueError` for more modes than a network can hold.
        """
        return Network.init(self, task, self._replication(task, size), default_key(key))

    def ensemble(self, task, *, size: int = 1, seeds: int, key=None) -> Ensemble:
        """`seeds` independent networks. They start at zero; they differ by their features and by their samples."""
        return Network.ensemble(self, task, self._replication(task, size), seeds, default_key(key))

    def exact_at_any_size(self, task, protocol) -> bool:
        """True for one-pass SGD on infinitely many features: its mean over runs is the theory, without replication."""
        return self._is_plain(protocol) and not has_samples(task)

    def _method(self, protocol, method) -> str:
        """The method that was asked for, or the one that is best."""
        if method is not None:
            return checks.choice("method", method, METHODS)
        if self._is_plain(protocol):
            return "recursion"
        return "time" if protocol.steps <= _SHORT or self._why_no_contour(protocol) else "contour"

    def _is_plain(self, protocol) -> bool:
        return self.features is None and isinstance(protocol, (OnlineSGD, NormalisedSGD)) and self.members == 1

    def _why_no_contour(self, protocol) -> str:
        if isinstance(protocol, MinibatchSGD):
            return 'method must be "time" with MinibatchSGD; it is "contour".'
        if isinstance(protocol, OnlineSGD) and self.members > 1:
            return 'members must be 1 with OnlineSGD by method="contour"; method="time" takes any number.'
        return ""

    def _replication(self, task, size) -> int:
        size = checks.integer("size", size)
        return size if self.features is not None or has_samples(task) else 1

    def coordinate_sweeps(
        self,
        task,
        protocol,
        *,
        over: tuple[str, ...],
        objective: Callable,
        upper: tuple[float, ...] | None = None,
        max_cycles: int = 200,
        tolerance: float = 1e-10,
    ) -> Swept:
        """The best schedules by exact minimisation over one step at a time: of `learning_rate`, see
        `solvers.coordinate_sweeps`, or of `learning_rate`, `momentum` and perhaps `extra_gradient`, see
        `solvers.block_sweeps`, from three starts. `upper` holds a bound of each in the order of `over`, by
        default none.

        **Raises:** `NotImplementedError`, with the reason, where the problem is not a parabola in each control.
        """
        check_problem(task, protocol)
        if reason := self._why_no_sweeps(protocol, over, objective):
            raise NotImplementedError(reason)
        upper = (np.inf,) * len(over) if upper is None else upper
        if len(over) == 1:
            return sweep_rates(task, protocol, upper, max_cycles, tolerance)
        return sweep_momentum(task, protocol, over, upper, max_cycles, tolerance)

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
        if len(over) > 1 or self._why_no_sweeps(protocol, over, objective):
            return {}
        with double():
            found = _certificates(task, protocol)
        return {name: float(value) for name, value in found.items() if np.isfinite(value)}

    def _why_no_sweeps(self, protocol, over: tuple[str, ...], objective) -> str:
        """Why the objective is no parabola in each control; empty where it is one."""
        if not self._is_plain(protocol) or isinstance(protocol, NormalisedSGD):
            return "sweeps need one-pass SGD on infinitely many features."
        with_momentum = {"learning_rate", "momentum"} <= set(over) <= {"learning_rate", "momentum", "extra_gradient"}
        if over != ("learning_rate",) and not with_momentum:
            return f"sweeps set learning_rate, alone or with momentum and extra_gradient; over is {', '.join(over)}."
        if objective not in (objectives.final_loss, objectives.final_test_loss):
            return "sweeps minimise the final loss; another objective was given."
        if not with_momentum and (_has_momentum(protocol) or np.any(protocol.extra_gradient)):
            return "sweeps of learning_rate alone need SGD without momentum and without extra_gradient."
        return ""


def _noise_power(task):
    return as_float(task.noise) ** 2


@eqx.filter_jit
def _solve(task, protocol, momentum: bool, adjoint: str):
    loss = second_moment(mode_bins(task), _noise_power(task), drive_of(protocol), momentum=momentum, adjoint=adjoint)
    diverged = first_divergence(loss).astype(jnp.int32)
    return loss, diverged, jnp.where(diverged >= 0, jnp.int32(DIVERGED), jnp.int32(CONVERGED))


@eqx.filter_jit
def _solve_normalised(task, protocol):
    def curves(floats, _):
        task, protocol = floats
        rates, inverse_batch = protocol.learning_rate, 1 / protocol.batch_size
        return normalised_second_moment(mode_bins(task), task.noise**2, rates, inverse_batch)

    precision = "double" if jnp.result_type(float) == jnp.float64 else "single"
    loss, effective = in_precision(curves, precision)(as_float((task, protocol)), ())
    diverged = first_divergence(loss).astype(jnp.int32)
    return loss, diverged, jnp.where(diverged >= 0, jnp.int32(DIVERGED), jnp.int32(CONVERGED)), effective


@eqx.filter_jit
def _stationary(limit, task):
    return stationary_loss(mode_bins(task), task.noise**2, inverse_features(limit), inverse_samples(task)).test


@eqx.filter_jit
def _stable_rate(task, batch_size):
    return stability_bound(mode_bins(task), as_float(batch_size))


@eqx.filter_jit
def _certificates(task, protocol):
    bins, noise_power, drive = mode_bins(task), _noise_power(task), drive_of(protocol)
    lam, eta = bins.eigenvalues, drive.e2
    loss = second_moment(bins, noise_power, drive, momentum=False)[:-1]
    found = {}
    if lam.size == 1:
        best = loss / ((1 + 2 * drive.inverse_batch) * loss + drive.inverse_batch * noise_power) / lam
        found["one_mode"] = jnp.max(jnp.abs(eta / best - 1))
    window = slice(int(np.ceil(0.2 * eta.size)), int(0.95 * eta.size) + 1)
    if loss[window].size < 2:
        return found
    remaining = jnp.cumsum(eta[::-1])[::-1] - eta
    kernel = jax.lax.map(lambda s: jnp.sum(bins.weights * lam * jnp.exp(-2 * lam * s)), remaining[window])
    law = eta[window] * jnp.sqrt(kernel)
    found["kernel_law"] = jnp.std(law) / jnp.mean(law)
    found["loss_over_noise"] = jnp.max(loss[window]) / noise_power
    return found


def _has_momentum(protocol: OnlineSGD | GradientDescent) -> bool:
    """Whether the full recursion is needed; a traced momentum may be anything, and has a derivative at zero too."""
    momentum = checks.concrete(protocol.momentum)
    return momentum is None or bool(np.any(momentum))
