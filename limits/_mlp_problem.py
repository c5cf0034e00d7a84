"""What is asked of the limit of wide perceptrons: checked, sized, solved."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ..nets._activations import activation_function
from ..nets._batches import batch_weights, check_batch, whole_batch_size
from ..nets._losses import check_targets, error_signal, loss_name
from ..nets._mlp_fields import PREACTIVATION_EDGES
from ..nets.rules import (
    Backpropagation,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    GatedLinear,
    Hebb,
    is_trained_by_gradient,
)
from ..problems import (
    OVERFLOW,
    Dataset,
    GradientDescent,
    MinibatchSGD,
    Trajectory,
    default_key,
    describe,
    key_name,
    versions,
)
from ..problems import _checks as checks
from ..solvers import (
    AbstractFieldAxis,
    Checkpoints,
    CoefficientAxis,
    MarchInputs,
    MarchOptions,
    SampleAxis,
    as_float,
    context,
    in_precision,
    to_host,
    without_derivative,
)
from ._memory import Cost
from ._mlp_cost import march_cost
from ._mlp_lazy import by_layer, is_resolved, lazy_cost, shares, solve_lazy, static
from ._mlp_pieces import solve_in_pieces
from ._mlp_solution import record, solve_mlp

APPROXIMATIONS = ("static_kernel", "gradient_independence", "leading_order")

_FEEDBACK = {
    Backpropagation: "transported",
    GatedLinear: "transported",
    FeedbackAlignment: "frozen",
    DirectFeedbackAlignment: "direct",
    Hebb: "hebbian",
}

_RELU = (
    'the limit of activation "relu" cannot be differentiated: what happens at the kink would be missed; use a smooth '
    'activation, such as "softplus" or "gelu".'
)


@dataclass(frozen=True)
class Problem:
    """A limit, a task and a protocol, with everything that decides how they are solved; made by `pose`."""

    limit: Any
    task: Dataset
    protocol: Any
    key: Any
    axis: AbstractFieldAxis | None  # None: no fields, but descent with the kernel of the start
    samples: int  # as asked for; of every replica there are `particles`
    particles: int
    replicas: int
    tolerance: Any
    rank: int | None
    options: MarchOptions
    keep: str | None
    leading_order: bool
    adjoint: str
    precision: Literal["single", "double"]

    @property
    def most(self) -> int:
        """The number of directions that this problem never exceeds."""
        return len(self.task.x) * (self.protocol.steps + 1)

    @property
    def room(self) -> int:
        """The number of directions to begin with."""
        return min(5 * (self.limit.depth + 1) * len(self.task.x) if self.rank is None else self.rank, self.most)

    def configuration(self) -> dict[str, Any]:
        """What two calls must share for one to go on where the other stopped."""
        numbers = {"samples": self.samples, "replicas": self.replicas, "rank": self.rank}
        asked = {name: describe(getattr(self, name)) for name in ("tolerance", "options", "keep", "leading_order")}
        about = {name: describe(getattr(self, name)) for name in ("limit", "task", "protocol", "axis", "adjoint")}
        return (
            numbers
            | asked
            | about
            | {"precision": self.precision, "key": key_name(self.key)}
            | {"versions": versions()}
        )

    def sized(self, axis: AbstractFieldAxis, room: int) -> AbstractFieldAxis:
        """The field axis for bases with so much room."""
        several = outputs(self.task) or 1
        slots = room + len(self.task.x) * (1 if several == 1 else 1 + several)
        return axis.sized(self.particles, slots, feedback=self.options.feedback != "transported")

    def cost(self, room: int) -> Cost:
        """Of one solution with so much room."""
        steps, depth = self.protocol.steps, self.limit.depth
        if self.axis is None:
            return lazy_cost(self.task, steps, depth, outputs(self.task) or 1, self.replicas, self.keep)
        axis, precision = self.sized(self.axis, room), self.precision
        return march_cost(self.task, steps, depth, room, axis, self.options, self.replicas, self.keep, precision)

    def solve(self, memory_limit=None, saved: Checkpoints | None = None) -> tuple[Trajectory, float | None]:
        """The record, and the rate below which descent is stable at the start; with `saved`, replica by replica."""
        room, number = self.room, 0
        while True:
            grows = self.rank is None and room < self.most
            self.cost(room).check("MLP.solve", memory_limit)
            solution = self._solve_lazily() if self.axis is None else self._solve(self.axis, room, grows, number, saved)
            if solution is not None and not (grows and checks.concrete(solution.code) == OVERFLOW):
                break
            room, number = min(2 * room, self.most), number + self.replicas
        solution = to_host(solution)
        sampled = isinstance(self.axis, SampleAxis)
        attributes = (
            ("key", key_name(self.key)),
            ("samples", self.particles * self.replicas if sampled else None),
            ("replicas", self.replicas),
            ("rank", None if self.axis is None else room),
            ("precision", self.precision),
        )
        trajectory = record(solution, self.task.has_test, loss_name(self.limit.loss), attributes)
        return trajectory, self._stable_below(solution.largest_eigenvalue)

    def _solve_lazily(self) -> Any:
        options, how = self.options, static(self.limit) | {"loss": self.limit.loss, "keep": self.keep}
        with context("double"):
            inputs = self._inputs()._replace(sample_weights=self._sample_weights())
            floats = as_float((inputs, self.task.y_test, shares(self.limit)))
            run: Any = partial(_run_lazily, error=options.error, feedback=options.feedback, **how)
            return (in_precision(run, "double") if self.adjoint == "tape" else run)(floats, None)

    def _solve(self, axis: AbstractFieldAxis, room: int, grows: bool, number: int, saved: Checkpoints | None) -> Any:
        with context(self.precision):
            inputs = self._inputs()._replace(sample_weights=self._sample_weights())
            floats, small = as_float(((inputs, self.task.y_test), self.tolerance))
            if self.limit.activation == "relu" and not self.options.gated:
                floats = without_derivative(floats, _RELU)
            how = {"options": self.options, "loss": self.limit.loss, "replicas": self.replicas, "keep": self.keep}
            how |= {"leading_order": self.leading_order, "adjoint": self.adjoint}
            how |= {"axis": self.sized(axis, room), "capacity": room}

            def run(tolerance, first) -> Any:
                own = floats, (self.key, tolerance)
                if saved is not None:
                    return _run_in_pieces(*own, **how, saved=saved, grows=grows, first=first)
                whole: Any = partial(_run, **how)
                return (in_precision(whole, self.precision) if self.adjoint == "tape" else whole)(*own)

            solution = run(small, number)
            if solution is not None and self.rank is not None:
                coarse = run(4 * small, number + self.replicas).curves["predictions"] - solution.curves["predictions"]
                coarse = jnp.sqrt(jnp.mean(coarse.reshape(len(coarse), -1) ** 2, axis=1))
                solution.extras["truncation_error"] = coarse
        return solution

    def _inputs(self) -> MarchInputs:
        limit, task, protocol = self.limit, self.task, self.protocol
        x_test = task.x_test if task.has_test else jnp.zeros((0, task.dim))
        init_scale, rate_scale = (by_layer(limit, value) for value in (limit.init_scale, limit.rate_scale))
        schedules = protocol.learning_rate, protocol.momentum, protocol.weight_decay
        scales = limit.richness, init_scale, limit.bias_scale, rate_scale
        correlation = limit.rule.correlation if isinstance(limit.rule, FeedbackAlignment) else None
        return MarchInputs(task.x, task.y, x_test, *schedules, *scales, correlation)

    def _sample_weights(self):
        """The weight of every sample at every step, of every replica."""
        protocol, samples = self.protocol, len(self.task.x)
        largest = whole_batch_size(protocol) if isinstance(protocol, MinibatchSGD) else 0
        if largest:
            check_batch(protocol, samples)
        draw = lambda i: batch_weights(protocol, jax.random.fold_in(self.key, i), samples, largest, float)  # noqa: E731
        return jnp.stack([draw(2**31 + i) for i in range(self.replicas)])

    def _stable_below(self, largest_eigenvalue) -> float | None:
        """Where descent, or the heavy ball, is linearly stable on a quadratic with this largest curvature."""
        gradient = self.limit.loss == "half_mean_square" and is_trained_by_gradient(self.limit.rule)
        if not gradient or largest_eigenvalue is None:
            return None
        momentum, largest = checks.concrete(self.protocol.momentum), checks.concrete(largest_eigenvalue)
        if momentum is None or largest is None or not largest > 0:
            return None
        return float(2.0 * (1.0 + momentum[0]) / largest)


def pose(
    limit,
    task,
    protocol,
    key,
    *,
    approximation: str | None = None,
    samples: int = 10_000,
    replicas: int = 4,
    axis: AbstractFieldAxis | None = None,
    tolerance: float | None = None,
    rank: int | None = None,
    keep: str | None = "all",
    densities: bool = False,
    test_batch: int | None = None,
    adjoint: str = "tape",
    precision: str | None = None,
) -> Problem:
    """Checks everything, and chooses what was left open. See `MLP.solve`."""
    task = check_task(limit, task)
    checks.instance("protocol", protocol, (GradientDescent, MinibatchSGD), "GradientDescent or MinibatchSGD for MLP")
    checks.choice("approximation", approximation, (None, *APPROXIMATIONS))
    checks.choice("keep", keep, ("all", "diagonal", None))
    checks.choice("adjoint", adjoint, ("tape", "direct"))
    checks.choice("precision", precision, (None, "double", "single"))
    checks.flag("densities", densities)
    linear = limit.activation == "identity" and not isinstance(limit.rule, GatedLinear)
    options = _options(limit, task, approximation, keep, densities, test_batch)
    if axis is None:
        # A kernel that stays needs no particles, unless something else is to be seen of them. Decay shrinks it.
        decay = checks.concrete(protocol.weight_decay)
        stays = options.lazy and decay is not None and not np.any(decay)
        by_kernel = stays and not densities and precision != "single" and not linear
        if not (by_kernel and is_resolved(limit, task.x)):
            axis = CoefficientAxis() if linear else SampleAxis()
    if axis is not None:
        checks.instance("axis", axis, AbstractFieldAxis, "SampleAxis() or CoefficientAxis()")
    exact, leading = isinstance(axis, CoefficientAxis), approximation == "leading_order"
    if exact and not linear:
        raise ValueError('CoefficientAxis is exact for linear networks only; it needs activation="identity".')
    samples, replicas = checks.integer("samples", samples, low=2), checks.integer("replicas", replicas)
    if (exact or axis is None) and not (isinstance(protocol, MinibatchSGD) and protocol.seed is None):
        replicas = 1  # nothing is random
    particles = 2 * -(-samples // (2 * replicas))
    if precision is None:
        precision = "double" if exact or axis is None or leading or jnp.result_type(float) == jnp.float64 else "single"
    if tolerance is None:
        # The leading order is what the smallest moves do: nothing may be dropped.
        tolerance = (1e-18 if precision == "double" else 1e-9) if exact else 1e-12 if leading else 2.0 / particles
    return Problem(
        limit=limit,
        task=task,
        protocol=protocol,
        key=default_key(key),
        axis=axis,
        samples=samples,
        particles=particles,
        replicas=replicas,
        tolerance=checks.number("tolerance", tolerance, above=0.0, below=1.0),
        rank=None if rank is None else checks.integer("rank", rank),
        options=options,
        keep=keep,
        leading_order=leading,
        adjoint=adjoint,
        precision="double" if precision == "double" else "single",
    )


def _options(limit, task, approximation, keep, densities, test_batch) -> MarchOptions:
    test_batch = 256 if test_batch is None else checks.integer("test_batch", test_batch)
    richness = checks.concrete(limit.richness)
    lazy = approximation == "static_kernel" or (richness is not None and bool(richness == 0))
    if lazy and approximation in ("gradient_independence", "leading_order"):
        raise ValueError(f"approximation {approximation} needs a richness above 0; it is 0.")
    return MarchOptions(
        activation=activation_function(limit.activation),
        error=_ErrorSignal(limit.loss),
        feedback=_FEEDBACK[type(limit.rule)],
        gated=isinstance(limit.rule, GatedLinear),
        lazy=lazy,
        responses=approximation != "gradient_independence",
        fields=keep == "all",
        weights=keep is not None and approximation != "leading_order",
        gradients=lazy or (outputs(task) or 1) == 1 or keep is not None,
        density_edges=tuple(PREACTIVATION_EDGES) if densities else None,
        test_batch=test_batch if task.has_test and test_batch < len(task.x_test) else None,
    )


def check_task(limit, task) -> Dataset:
    """A data set with targets that the loss and the rule can take."""
    checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays) for MLP")
    check_targets(limit.loss, task.y)
    if isinstance(limit.rule, Hebb) and task.y.ndim == 2:
        raise ValueError(f"rule Hebb is for one output, y of shape [samples]; the shape of y is {task.y.shape}.")
    return task


def outputs(task) -> int | None:
    """The length of the axis of outputs, if there is one."""
    return task.y.shape[1] if task.y.ndim == 2 else None


@dataclass(frozen=True)
class _ErrorSignal:
    """The error signal of a loss, equal for equal losses, so that it is compiled once."""

    loss: str | Callable

    def __call__(self, f, y):
        return error_signal(self.loss, f, y)


def _run(floats, rest, *, axis, **options):
    return solve_mlp(*floats, *rest, axis, **options)


def _run_lazily(floats, _, **options):
    return solve_lazy(*floats, **options)


def _run_in_pieces(floats, rest, *, axis, **options):
    key, tolerance = rest
    return solve_in_pieces(floats, key, tolerance, axis, **options)
